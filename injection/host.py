"""Fits injections to ComfyUI's sampling.

The injections ride on the conditioning, as one opaque object in its ``model_conds``: that dict is the only
part of a conditioning that ComfyUI never copies to the other side of the guidance (areas), and it is batched
with the rows it belongs to. So whichever way a guider orders, splits or repeats its passes, every row knows
its own injections. Three pieces, attached to the model once:

- around ``calc_cond_batch``: conditionings without injections get an empty one, so that batches stay whole;
- around ``apply_model``: works out all contexts of this pass (``passes.Pass``);
- in cross-attention: hands each layer its context.

A fourth, around the whole sampling, holds what a run remembers and serves the injections that a model carries
for conditionings by name.
"""

import logging
from collections.abc import Sequence
from typing import Any

import comfy.conds
import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..blocks.spec import Window
from ..blocks.walk import UNetBlocks, walk
from .entries import Injection, InjectionError
from .passes import Chunk, Pass, recipes
from .timing import Clock, Levels

log = logging.getLogger("blockwork")

KEY = "blockwork_injection"  # in model_conds, in the model's wrappers, and in the options of a run
PASS_KEY = KEY + "_pass"
BY_NAME_KEY = KEY + "_by_name"


class NotPrepared(RuntimeError):
    """A conditioning with injections met a model without the pieces that carry them out."""


class Chunks:
    """The injections of one batch, chunk by chunk; on its way from the conditionings to ``apply_model``."""

    def __init__(self, chunks: Sequence[Chunk]):
        self.chunks = tuple(chunks)

    @property
    def dtype(self) -> torch.dtype:
        """Asked for only where nothing took the object out before: the model does not know injections."""
        raise NotPrepared(
            "this conditioning carries block prompts, but the model it is sampled with was not prepared for "
            "them. Connect the MODEL output of the node that made the conditioning to the sampler (or to the "
            "patches before it)."
        )


class CONDInjections(comfy.conds.CONDRegular):
    """The injections of one conditioning, as ComfyUI's batching sees them: they fit with any others."""

    def __init__(
        self, cond: tuple[Injection, ...], controlnet: Tensor | None = None, chunk: Chunk | None = None
    ):
        self.cond = cond
        self.controlnet = controlnet  # tokens b t d for ControlNets, None: the base prompt's
        self.chunk = chunk or Chunk(cond, rows=1)

    def _copy_with(self, cond: tuple[Injection, ...]) -> "CONDInjections":
        return CONDInjections(cond, self.controlnet, self.chunk)

    def with_tokens(self, tokens: int | None) -> "CONDInjections":
        """A copy that knows how long its conditioning's own prompt is."""
        return CONDInjections(self.cond, self.controlnet, Chunk(self.cond, self.chunk.rows, tokens))

    def process_cond(self, batch_size: int, **kwargs: Any) -> "CONDInjections":
        return CONDInjections(self.cond, self.controlnet, Chunk(self.cond, batch_size, self.chunk.tokens))

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, CONDInjections)

    def concat(self, others: Sequence["CONDInjections"]) -> Chunks:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Chunks([self.chunk, *(other.chunk for other in others)])

    def size(self) -> list[int]:
        return [1]


class Run:
    """What one sampling run remembers: prompts moved to a device, windows as noise levels, warnings given."""

    def __init__(self):
        self.moved: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self.levels: dict[int, dict[Window, Levels]] = {}  # by model sampling: guiders may use two models
        self.warned: set[str] = set()

    def to(self, tensor: Tensor, device: torch.device) -> Tensor:
        """``tensor`` on ``device``, copied there once per run."""
        key = (id(tensor), device)
        if key not in self.moved:
            moved = comfy.model_management.cast_to_device(tensor, device, tensor.dtype)
            self.moved[key] = (tensor, moved)  # the original is kept so that its id stays its own
        return self.moved[key][1]

    def warn(self, message: str) -> None:
        """Log a warning, once per run."""
        if message not in self.warned:
            self.warned.add(message)
            log.warning(message)


def blocks_of(model: ModelPatcher) -> UNetBlocks:
    """The walked blocks of a loaded model; NotAUNet for models without cross-attention blocks."""
    return walk(model.model.diffusion_model)


def prepare(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` that carries out injections; a model that already does is cloned as it is."""
    model = model.clone()
    if not model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calc_cond_batch)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
    # First in the list: patches that take a context apart (NegPip) or spread its rows (attention couple)
    # have to see the injected one. Two branches of one workflow may each bring ours.
    patches = model.model_options["transformer_options"].setdefault("patches", {})
    others = [patch for patch in patches.get("attn2_patch", []) if patch is not attn2_patch]
    patches["attn2_patch"] = [attn2_patch, *others]
    return model


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a sampling run: a fresh memory, and the changes a model makes to conditionings by name."""
    guider = executor.class_obj
    guider.model_options["transformer_options"][KEY] = Run()
    for name, changes in guider.model_options.get(BY_NAME_KEY, {}).items():
        if name not in guider.conds:
            raise InjectionError(
                f"the model injects into the conditioning {name!r}, but this guider has "
                f"{', '.join(map(repr, guider.conds))}."
            )
        for change in changes:
            guider.conds[name] = [change(entry) for entry in guider.conds[name]]
    return executor(*args, **kwargs)


def calc_cond_batch(
    executor: Any,
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x_in: Tensor,
    timestep: Tensor,
    options: Any,
) -> Any:
    """Around one evaluation: all conditionings get the same kinds of ``model_conds``, so none splits off."""
    carried = [entry["model_conds"].get(KEY) for cond in conds for entry in cond or ()]
    if not any(carried):
        return executor(model, conds, x_in, timestep, options)
    for_controlnets = any(cond is not None and cond.controlnet is not None for cond in carried)

    def level(entry: dict[str, Any]) -> dict[str, Any]:
        model_conds = dict(entry["model_conds"])
        own, context = model_conds.get(KEY, CONDInjections(())), model_conds.get("c_crossattn")
        model_conds[KEY] = own.with_tokens(None if context is None else context.cond.shape[1])
        if for_controlnets and context is not None:
            if own.controlnet is not None:
                chosen = own.controlnet.to(context.cond.device)
                model_conds["crossattn_controlnet"] = comfy.conds.CONDCrossAttn(chosen)
            else:  # what a ControlNet takes anyway where nothing is said
                model_conds.setdefault("crossattn_controlnet", context)
        return {**entry, "model_conds": model_conds}

    conds = [None if cond is None else [level(entry) for entry in cond] for cond in conds]
    return executor(model, conds, x_in, timestep, options)


def apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Around one model call: takes the injections out of its arguments and works out their contexts."""
    carried = kwargs.pop(KEY, None)
    options = dict(transformer_options or {})
    if carried is not None and c_crossattn is not None and any(c.injections for c in carried.chunks):
        temporal = "num_video_frames" in kwargs  # such a U-Net has layers that see rows over time
        c_crossattn, options[PASS_KEY] = _begin_pass(
            executor.class_obj, carried.chunks, x, t, c_crossattn, options, temporal
        )
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _begin_pass(
    model: Any,
    chunks: Sequence[Chunk],
    x: Tensor,
    t: Tensor,
    context: Tensor,
    options: dict[str, Any],
    temporal: bool,
) -> tuple[Tensor, Pass | None]:
    """The context as the blocks will see it, and the contexts to inject; None where nothing acts."""
    run = options.get(KEY) or Run()
    if not _rows_agree(chunks, x, context, options):
        run.warn(
            "block prompts are off in passes whose batch another node has rearranged (tiled diffusion, "
            "for one): which rows belong to which prompt is not known there."
        )
        return context, None
    window, sampling = options.get("context_window"), model.model_sampling
    levels = run.levels.setdefault(id(sampling), {})
    clock = Clock(sampling.percent_to_sigma, options.get("sample_sigmas"), lambda: float(t[0]), levels)
    found = recipes(chunks, clock, lambda tensor: _frames(run.to(tensor, x.device), window))
    if not found:
        return context, None
    source = comfy.model_management.cast_to_device(context, x.device, context.dtype)
    context = comfy.model_management.cast_to_device(source, x.device, model.get_dtype_inference())
    return context, Pass(chunks, context, source, found, temporal)


def attn2_patch(n: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """In cross-attention: the contexts this layer is to see; inputs untouched where nothing acts."""
    current = extra.get(PASS_KEY)
    if current is None:
        return n, k, v
    if n.shape[0] != current.rows or k.shape[0] != current.rows:
        if not current.temporal:
            (extra.get(KEY) or Run()).warn(
                "block prompts are off in layers whose rows another patch spread out before them: which rows "
                "belong to which prompt is not known there."
            )
        return n, k, v
    side, number = extra["block"]
    return n, *current.contexts((side, number, extra.get("block_index", 0)), k, v)


def _frames(prompts: Tensor, window: Any) -> Tensor:
    """Of prompts per frame, those of the frames in a context window; any others as they are."""
    if window is None or window.dim != 0 or prompts.shape[0] != window.total_frames:
        return prompts
    return window.get_tensor(prompts, prompts.device)


def _rows_agree(chunks: Sequence[Chunk], x: Tensor, context: Tensor, options: dict[str, Any]) -> bool:
    rows = sum(chunk.rows for chunk in chunks)
    order = options.get("cond_or_uncond")
    return x.shape[0] == context.shape[0] == rows and (order is None or len(order) == len(chunks))
