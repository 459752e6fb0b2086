"""Live merging: fits the plans and methods of this room to ComfyUI's MODEL, CLIP and VAE.

The result of every function is a clone of A with patches; weights are merged when core loads the model, nothing
is computed or copied before, and no input is changed. Only VAEs, which ComfyUI saves and shares without looking at
patches, are merged at once into a VAE of their own.
"""

import math
from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.sd
import torch
from torch.utils.weak import WeakIdKeyDictionary

from ...blocks.host import read_weights
from ...blocks.keys import MODEL
from ...blocks.names import BASE, BlockError, Layout, layout_of
from ...blocks.weights import BlockWeights, split_pair
from ..errors import MergeError
from ..methods import add_difference, each, scale
from ..methods.finite import all_finite
from ..plan import Plan, Rule, plan_unet, plan_whole
from .host_incremental import incremental, unpatched
from .host_left_out import key_patches, stored_tensors
from .host_patch import KeyPatches, MergePatch, merge_patch, own_patches

Source = dict[str, KeyPatches]

NON_FINITE = ("error", "keep A")

# Storage of a stored weight -> place in it -> finite or not: a slider's next move scans nothing again.
_FINITE = WeakIdKeyDictionary()

SUM = "{0} A + {1} B"
DIFFERENCE = "A + {0} (B - C)"
SCALE = "{0} A"


def merge_models(
    model_a, model_b, weights: str, weights_a: str = "", key_map: str = "mbw", non_finite: str = "error"
):
    """``M_A A + M_B B`` per block; ``weights`` is M_B, ``weights_a`` M_A or empty for 1 - M_B.

    Returns (MODEL, Plan). With M_A = 1 - M_B the weights are bit-identical to core's ModelMerge nodes in float32.
    """

    def rule(layout: Layout) -> Rule:
        m_b = read_weights(weights, layout)
        m_a = _read_weights_a(weights_a, layout) if weights_a.strip() else None

        def of_block(block: str) -> tuple[float, ...]:
            share = m_b.of(block, 0.0)
            return (1 - share if m_a is None else m_a.of(block, 1.0), share)

        return Rule(of_block, (1.0, 0.0), SUM, _apart(m_b) | (_apart(m_a) if m_a else frozenset()))

    return _merge_unets("Merge of A and B", [model_a, model_b], each, rule, key_map, non_finite)


def merge_two_ratios(model_a, model_b, pair: str, key_map: str = "mbw", non_finite: str = "error"):
    """``M_A A + M_B B`` per block from one text ``M_A | M_B``; blocks not named stay A's. Returns (MODEL, Plan)."""
    m_a, m_b = split_pair(pair)
    return merge_models(model_a, model_b, m_b, m_a, key_map, non_finite)


def add_model_difference(
    model_a, model_b, model_c, weights: str, key_map: str = "mbw", non_finite: str = "error"
):
    """``A + M (B - C)`` per block, which carries over what B learnt since C. Returns (MODEL, Plan)."""

    def rule(layout: Layout) -> Rule:
        m = read_weights(weights, layout)
        return Rule(lambda block: (m.of(block, 0.0),), (0.0,), DIFFERENCE, _apart(m))

    models = [model_a, model_b, model_c]
    return _merge_unets("A plus the difference of B and C", models, add_difference, rule, key_map, non_finite)


def scale_blocks(model, weights: str, key_map: str = "mbw", non_finite: str = "error"):
    """``M A`` per block, blocks not named at 1: the one-block attenuation study needs no second model."""

    def rule(layout: Layout) -> Rule:
        m = read_weights(weights, layout, default=1.0)
        return Rule(lambda block: (m.of(block, 1.0),), (1.0,), SCALE, _apart(m))

    return _merge_unets("Blocks of A scaled", [model], scale, rule, key_map, non_finite)


def merge_clips(clip_a, clip_b, ratio: float, clip_c=None):
    """``(1 - ratio) A + ratio B``, or ``A + ratio (B - C)`` with a third text encoder. Returns (CLIP, Plan)."""
    sources = _sources([clip_a.patcher, clip_b.patcher] + ([clip_c.patcher] if clip_c is not None else []))
    method, rule = _whole_rule(ratio, three=clip_c is not None)
    plan = plan_whole("Merge of text encoders", _tensors(sources), rule, BASE, _skip_in_clip(sources))
    _check_finite(plan, sources)
    merged = clip_a.clone()
    merged.patcher = incremental(clip_a.patcher)
    _keep_unpatched(plan, merged.patcher)
    _patch(merged.patcher, sources, plan, method)
    return merged, plan


def merge_vaes(vae_a, vae_b, ratio: float, vae_c=None):
    """The same for autoencoders, as a VAE of its own with the merged weights. Returns (VAE, Plan)."""
    vaes = [vae_a, vae_b] + ([vae_c] if vae_c is not None else [])
    sources = _sources([vae.patcher for vae in vaes])
    method, rule = _whole_rule(ratio, three=vae_c is not None)
    plan = plan_whole("Merge of VAEs", _tensors(sources), rule, "VAE", lambda key: None)
    _check_finite(plan, sources)
    state = vae_a.get_sd() | {key: patches[0][0] for key, patches in sources[0].items()}
    for key, parameters in plan.merged.items():
        tensors = [_on_cpu(source[key][0][0]) for source in sources]
        state[key] = method(*tensors, *parameters)
    return comfy.sd.VAE(sd=state, device=vae_a.device, dtype=vae_a.vae_dtype), plan


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return comfy.model_management.cast_to_device(tensor.detach(), torch.device("cpu"), tensor.dtype)


def _read_weights_a(text: str, layout: Layout) -> BlockWeights:
    try:
        return read_weights(text, layout, default=1.0)
    except BlockError as error:
        raise BlockError(f"shares of A (M_A): {error}") from error


def _apart(weights: BlockWeights) -> frozenset[str]:
    return frozenset(name for name, _ in weights.extra)


def _whole_rule(ratio: float, three: bool) -> tuple[Callable[..., torch.Tensor], Rule]:
    if not math.isfinite(ratio):
        raise MergeError(f"the ratio is {ratio}; it must be a finite number")
    if three:
        return add_difference, Rule(lambda _: (ratio,), (0.0,), DIFFERENCE)
    return each, Rule(lambda _: (1 - ratio, ratio), (1.0, 0.0), SUM)


def _skip_in_clip(sources: Sequence[Source]) -> Callable[[str], str | None]:
    """Why a text-encoder tensor is left alone.

    SD1 files carry no text_projection, and core leaves its memory uninitialised: what is not finite there was
    never loaded.
    """

    def reason(key: str) -> str | None:
        if key.endswith((".position_ids", ".logit_scale")):
            return "not a weight to average"
        loaded = (_finite(source[key][0][0]) for source in sources if key in source)
        if key.endswith("text_projection.weight") and not all(loaded):
            return "not loaded from the file"
        return None

    return reason


def _merge_unets(
    title: str, models: Sequence, method, rule: Callable[[Layout], Rule], key_map: str, non_finite: str
):
    """Plan with the rule for A's layout, then attach the plan to a clone of A. Returns (MODEL, Plan)."""
    sources = _sources(models, MODEL)
    plan = plan_unet(title, _tensors(sources), rule(layout_of(sources[0])), key_map)
    _compare_prediction(plan, models)
    _check_finite(plan, sources, keep="non_finite" if non_finite == "error" else None)
    merged = incremental(models[0])
    _keep_unpatched(plan, merged)
    _patch(merged, sources, plan, method)
    return merged, plan


def _sources(patchers: Sequence, prefix: str | None = None) -> list[Source]:
    """The stored tensors of each model by key, with the patches on them for all but A, which brings its own along."""
    sources = [_stored(patchers[0], prefix)]
    for letter, patcher in zip("BC", patchers[1:], strict=False):
        try:
            sources.append(key_patches(patcher, prefix))
        except AttributeError as error:  # core cannot list the scales of quantised layers either
            raise MergeError(
                f"model {letter} is quantised and its weights cannot be read one by one ({error}); "
                "load its fp16 or bf16 file"
            ) from error
    return sources


def _stored(patcher, prefix: str | None) -> Source:
    return {key: [(tensor, None)] for key, tensor in stored_tensors(patcher, prefix).items()}


def _tensors(sources: Sequence[Source]) -> list[dict[str, torch.Tensor]]:
    return [{key: patches[0][0] for key, patches in source.items()} for source in sources]


def _check_finite(plan: Plan, sources: Sequence[Source], keep: str | None = "") -> None:
    """Raise at NaN or infinity in what is to be merged; with ``keep`` None leave such tensors to A and report them.

    ``keep`` names the node's input that would do so, empty where there is none.
    """
    for key in list(plan.merged):
        bad = next((n for n, source in enumerate(sources) if not _finite(source[key][0][0])), None)
        if bad is None:
            continue
        if keep is not None:
            otherwise = f", or set {keep} to 'keep A' to leave such tensors as they are in A" if keep else ""
            raise MergeError(
                f"{key} of model {'ABC'[bad]} holds NaN or infinity; repair that model{otherwise}"
            )
        del plan.merged[key]
        plan.keep(f"kept from A, NaN or infinity in {'ABC'[bad]}", key)


def _keep_unpatched(plan: Plan, merged) -> None:
    """Leave to A, and report, what the loader of a patcher that is not core's would not patch."""
    for key in sorted(unpatched(merged) & plan.merged.keys()):
        del plan.merged[key]
        plan.keep("kept from A, not patched by this model's loader", key)


def _patch(merged, sources: Sequence[Source], plan: Plan, method) -> None:
    """Attach the plan to ``merged``: every tensor's patch in one call, because each call walks the whole model."""

    def patch(key: str, parameters: tuple[float, ...]) -> MergePatch:
        others = tuple(source[key] for source in sources[1:])
        return merge_patch(method, parameters, others, own_patches(merged, key, sources[0][key][0][0]))

    patches = {key: patch(key, parameters) for key, parameters in plan.merged.items()}
    missed = set(patches) - set(merged.add_patches(patches))
    if missed:
        raise MergeError(f"ComfyUI took no patch for {len(missed)} tensors, first {min(missed)}")


def _finite(tensor: torch.Tensor) -> bool:
    """``all_finite``, remembered per stretch of storage: core puts the same storage into new Parameters."""
    places: dict[tuple, bool] = _FINITE.setdefault(tensor.untyped_storage(), {})  # pyright: ignore[reportAssignmentType]
    place = (tensor.storage_offset(), tensor.shape, tensor.stride())
    if place not in places:
        places[place] = all_finite(tensor)
    return places[place]


def _compare_prediction(plan: Plan, models: Sequence) -> None:
    """Warn where A and another model predict different things (eps, v): their weights do not mix."""
    kinds = [getattr(model.model, "model_type", None) for model in models]
    for number, kind in enumerate(kinds[1:], start=1):
        if kind != kinds[0]:
            plan.warnings.append(
                f"A predicts {_name(kinds[0])} and {'ABC'[number]} {_name(kind)}; the merge samples as A"
            )


def _name(kind) -> str:
    return getattr(kind, "name", str(kind)).lower()
