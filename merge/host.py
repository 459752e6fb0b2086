"""Live merging: fits the plans and methods of this room to ComfyUI's MODEL, CLIP and VAE.

The result of every function is a clone of A with patches; weights are merged when core loads the model, nothing
is computed or copied before, and no input is changed.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..blocks.names import BASE, Layout, layout_of
from ..blocks.weights import parse
from .host_incremental import incremental
from .host_patch import KeyPatches, MergePatch
from .methods import add_difference, each, scale
from .plan import MergeError, Plan, Rule, plan_unet, plan_whole

Source = dict[str, KeyPatches]

UNET = "diffusion_model."
NON_FINITE = ("error", "keep A")

_FINITE = (
    WeakIdKeyDictionary()
)  # stored weight -> whether it is finite: a slider's next move scans nothing again

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
        m_b = parse(weights, layout)
        m_a = parse(weights_a, layout, default=1.0) if weights_a.strip() else None

        def of_block(block: str) -> tuple[float, ...]:
            share = m_b.of(block, 0.0)
            return (1 - share if m_a is None else m_a.of(block, 1.0), share)

        return Rule(of_block, (1.0, 0.0), SUM)

    return _merge_unets("Merge of A and B", [model_a, model_b], each, rule, key_map, non_finite)


def add_model_difference(
    model_a, model_b, model_c, weights: str, key_map: str = "mbw", non_finite: str = "error"
):
    """``A + M (B - C)`` per block, which carries over what B learnt since C. Returns (MODEL, Plan)."""

    def rule(layout: Layout) -> Rule:
        m = parse(weights, layout)
        return Rule(lambda block: (m.of(block, 0.0),), (0.0,), DIFFERENCE)

    models = [model_a, model_b, model_c]
    return _merge_unets("A plus the difference of B and C", models, add_difference, rule, key_map, non_finite)


def scale_blocks(model, weights: str, key_map: str = "mbw", non_finite: str = "error"):
    """``M A`` per block, blocks not named at 1: the one-block attenuation study needs no second model."""

    def rule(layout: Layout) -> Rule:
        m = parse(weights, layout, default=1.0)
        return Rule(lambda block: (m.of(block, 1.0),), (1.0,), SCALE)

    return _merge_unets("Blocks of A scaled", [model], scale, rule, key_map, non_finite)


def merge_clips(clip_a, clip_b, ratio: float, clip_c=None):
    """``(1 - ratio) A + ratio B``, or ``A + ratio (B - C)`` with a third text encoder. Returns (CLIP, Plan)."""
    sources = _sources([clip_a.patcher, clip_b.patcher] + ([clip_c.patcher] if clip_c is not None else []))
    method, rule = _whole_rule(ratio, three=clip_c is not None)
    plan = plan_whole("Merge of text encoders", _tensors(sources), rule, BASE, _skip_in_clip(sources))
    merged = clip_a.clone()
    _patch(merged.patcher, sources, plan, method)
    return merged, plan


def merge_vaes(vae_a, vae_b, ratio: float, vae_c=None):
    """The same for autoencoders. Returns (VAE, Plan)."""
    sources = _sources([vae_a.patcher, vae_b.patcher] + ([vae_c.patcher] if vae_c is not None else []))
    method, rule = _whole_rule(ratio, three=vae_c is not None)
    plan = plan_whole("Merge of VAEs", _tensors(sources), rule, "VAE", lambda key: None)
    merged = copy.copy(vae_a)  # VAE has no clone(); what it loads is its patcher
    merged.patcher = vae_a.patcher.clone()
    _patch(merged.patcher, sources, plan, method)
    return merged, plan


def _whole_rule(ratio: float, three: bool) -> tuple[Callable[..., torch.Tensor], Rule]:
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
    sources = _sources(models, UNET)
    plan = plan_unet(title, _tensors(sources), rule(layout_of(sources[0])), key_map)
    _compare_prediction(plan, models)
    merged = incremental(models[0])
    _patch(merged, sources, plan, method, keep_non_finite=non_finite == "keep A")
    return merged, plan


def _sources(patchers: Sequence, prefix: str | None = None) -> list[Source]:
    """The stored tensors of each model with the patches on them, by key; asked once, for it walks the whole model."""
    return [patcher.get_key_patches(prefix) for patcher in patchers]


def _tensors(sources: Sequence[Source]) -> list[dict[str, torch.Tensor]]:
    return [{key: patches[0][0] for key, patches in source.items()} for source in sources]


def _patch(merged, sources: Sequence[Source], plan: Plan, method, keep_non_finite: bool = False) -> None:
    """Attach the plan to ``merged``: every tensor's patch in one call, because each call walks the whole model."""
    for key in list(plan.merged):
        bad = next((n for n, source in enumerate(sources) if not _finite(source[key][0][0])), None)
        if bad is None:
            continue
        if not keep_non_finite:
            raise MergeError(
                f"{key} of model {'ABC'[bad]} holds NaN or infinity; repair that model, or set "
                "non_finite to 'keep A' to leave such tensors as they are in A"
            )
        del plan.merged[key]
        plan.keep(f"kept from A, NaN or infinity in {'ABC'[bad]}", key)
    patches = {
        key: MergePatch(set(), (method, parameters, tuple(source[key] for source in sources[1:])))
        for key, parameters in plan.merged.items()
    }
    missed = set(patches) - set(merged.add_patches(patches))
    if missed:
        raise MergeError(f"ComfyUI took no patch for {len(missed)} tensors, first {min(missed)}")


def _finite(tensor: torch.Tensor) -> bool:
    """Whether every element is finite; min and max carry NaN through and cost one read of the tensor."""
    known = _FINITE.get(tensor)
    if known is None:
        values = tensor.detach()
        if values.dtype.itemsize == 1:  # float8 has no reductions
            values = values.to(torch.float32)
        bounds = torch.stack(torch.aminmax(values)) if values.numel() else values
        known = _FINITE[tensor] = bool(torch.isfinite(bounds).all())
    return known


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
