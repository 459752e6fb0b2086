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
from .host_patch import MergePatch
from .methods import add_difference, each, scale
from .plan import MergeError, Plan, Rule, plan_unet, plan_whole

UNET = "diffusion_model."
NON_FINITE = ("error", "keep A")

_FINITE = (
    WeakIdKeyDictionary()
)  # stored weight -> whether it is finite: a slider's next move scans nothing again

SUM = "{0} A + {1} B"
DIFFERENCE = "A + {0} (B - C)"
SCALE = "{0} A"


def layout_of_model(model) -> Layout:
    """The block layout of a MODEL; BlockError for models without a U-Net of blocks."""
    return layout_of(model.model_state_dict(UNET))


def merge_models(
    model_a, model_b, weights: str, weights_a: str = "", key_map: str = "mbw", non_finite: str = "error"
):
    """``M_A A + M_B B`` per block; ``weights`` is M_B, ``weights_a`` M_A or empty for 1 - M_B.

    Returns (MODEL, Plan). With M_A = 1 - M_B the weights are bit-identical to core's ModelMerge nodes in float32.
    """
    layout = layout_of_model(model_a)
    m_b = parse(weights, layout)
    m_a = parse(weights_a, layout, default=1.0) if weights_a.strip() else None

    def of_block(block: str) -> tuple[float, ...]:
        share = m_b.of(block, 0.0)
        return (1 - share if m_a is None else m_a.of(block, 1.0), share)

    rule = Rule(of_block, (1.0, 0.0), SUM)
    return _merge_unets("Merge of A and B", [model_a, model_b], each, rule, key_map, non_finite)


def add_model_difference(
    model_a, model_b, model_c, weights: str, key_map: str = "mbw", non_finite: str = "error"
):
    """``A + M (B - C)`` per block, which carries over what B learnt since C. Returns (MODEL, Plan)."""
    m = parse(weights, layout_of_model(model_a))
    rule = Rule(lambda block: (m.of(block, 0.0),), (0.0,), DIFFERENCE)
    models = [model_a, model_b, model_c]
    return _merge_unets("A plus the difference of B and C", models, add_difference, rule, key_map, non_finite)


def scale_blocks(model, weights: str, key_map: str = "mbw", non_finite: str = "error"):
    """``M A`` per block, blocks not named at 1: the one-block attenuation study needs no second model."""
    m = parse(weights, layout_of_model(model), default=1.0)
    rule = Rule(lambda block: (m.of(block, 1.0),), (1.0,), SCALE)
    return _merge_unets("Blocks of A scaled", [model], scale, rule, key_map, non_finite)


def merge_clips(clip_a, clip_b, ratio: float, clip_c=None):
    """``(1 - ratio) A + ratio B``, or ``A + ratio (B - C)`` with a third text encoder. Returns (CLIP, Plan)."""
    clips = [clip_a, clip_b] + ([clip_c] if clip_c is not None else [])
    method, rule = _whole_rule(ratio, three=clip_c is not None)
    plan = plan_whole("Merge of text encoders", _tensors(clips), rule, BASE, _skip_in_clip(clips))
    merged = clip_a.clone()
    _patch(merged.patcher, [clip.patcher for clip in clips], plan, method)
    return merged, plan


def merge_vaes(vae_a, vae_b, ratio: float, vae_c=None):
    """The same for autoencoders. Returns (VAE, Plan)."""
    vaes = [vae_a, vae_b] + ([vae_c] if vae_c is not None else [])
    method, rule = _whole_rule(ratio, three=vae_c is not None)
    plan = plan_whole("Merge of VAEs", _tensors(vaes), rule, "VAE", lambda key: None)
    merged = copy.copy(vae_a)  # VAE has no clone(); what it loads is its patcher
    merged.patcher = vae_a.patcher.clone()
    _patch(merged.patcher, [vae.patcher for vae in vaes], plan, method)
    return merged, plan


def _whole_rule(ratio: float, three: bool) -> tuple[Callable[..., torch.Tensor], Rule]:
    if three:
        return add_difference, Rule(lambda _: (ratio,), (0.0,), DIFFERENCE)
    return each, Rule(lambda _: (1 - ratio, ratio), (1.0, 0.0), SUM)


def _skip_in_clip(clips: Sequence) -> Callable[[str], str | None]:
    """Why a text-encoder tensor is left alone.

    SD1 files carry no text_projection, and core leaves its memory uninitialised: what is not finite there was
    never loaded.
    """
    tensors = _tensors(clips)

    def reason(key: str) -> str | None:
        if key.endswith((".position_ids", ".logit_scale")):
            return "not a weight to average"
        if key.endswith("text_projection.weight") and not all(_finite(t[key]) for t in tensors if key in t):
            return "not loaded from the file"
        return None

    return reason


def _merge_unets(title: str, models: Sequence, method, rule: Rule, key_map: str, non_finite: str):
    tensors = [model.model_state_dict(UNET) for model in models]
    plan = plan_unet(title, tensors, rule, key_map)
    _compare_prediction(plan, models)
    merged = models[0].clone()
    _patch(merged, models, plan, method, keep_non_finite=non_finite == "keep A")
    return merged, plan


def _patch(merged, patchers: Sequence, plan: Plan, method, keep_non_finite: bool = False) -> None:
    """Attach the plan to ``merged``: every tensor's patch in one call, because each call walks the whole model."""
    sources = [patcher.get_key_patches() for patcher in patchers]
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


def _tensors(holders: Sequence) -> list[dict[str, torch.Tensor]]:
    return [holder.patcher.model_state_dict() for holder in holders]


def _finite(tensor: torch.Tensor) -> bool:
    """Whether every element is finite; min and max carry NaN through and cost one read of the tensor."""
    if tensor not in _FINITE:
        values = tensor.detach()
        if values.dtype.itemsize == 1:  # float8 has no reductions
            values = values.to(torch.float32)
        bounds = torch.stack(torch.aminmax(values)) if values.numel() else values
        _FINITE[tensor] = bool(torch.isfinite(bounds).all())
    return _FINITE[tensor]


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
