"""Live merging: fits the planner and the methods to ComfyUI's MODEL, CLIP and VAE.

The result of every function is a clone of A with patches; weights are merged when core loads the model, nothing
is computed or copied before, and no input is changed. Only VAEs, which ComfyUI saves and shares without looking at
patches, are merged at once into a new VAE.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import comfy.model_management
import comfy.sd
import torch
from comfy.quant_ops import QuantizedTensor

from ...blocks.host import read_weights
from ...blocks.keys import MODEL
from ...blocks.names import BASE, NO_LAYOUT, VAE, Layout
from ...blocks.weights import split_pair
from ..elemental import quote
from ..errors import MergeError
from ..methods import METHODS, Method
from ..plan import Blend, Plan, Take, make_plan
from ..ratios import Ratios, common_layout
from ..report import letter
from .host_core import remark as core_remark
from .host_finite import is_finite
from .host_incremental import incremental, unpatched
from .host_left_out import key_patches, stored_tensors
from .host_patch import TAKE, How, KeyPatches, MergePatch, effective, merge_patch, numbers, own_patches
from .host_prediction import compare_prediction
from .host_quantised import check_smoothing, refuse_foreign, remarks

NON_FINITE = ("error", "keep A")
LABELS = {"m_a": "Shares of A (M_A)", "m_b": "Shares of B (M_B)"}
CPU = torch.device("cpu")


class Live:
    """A loaded model as a planner sees it: its stored tensors, with the patches on them, by key."""

    def __init__(self, name: str, patches: Mapping[str, KeyPatches]):
        self.name, self.patches = name, patches
        self.entries: dict[str, torch.Tensor] = {key: found[0][0] for key, found in patches.items()}


def merge_models(
    model_a,
    model_b,
    weights: str,
    weights_a: str = "",
    key_map: str = "mbw",
    non_finite: str = "error",
    elemental: str = "",
):
    """``M_A A + M_B B`` per block; ``weights`` is M_B, ``weights_a`` M_A or empty for 1 - M_B.

    Returns (MODEL, Plan). With M_A = 1 - M_B the weights are bit-identical to core's ModelMerge nodes in float32.
    """
    texts = {"m_b": weights, **({"m_a": weights_a} if weights_a.strip() else {})}
    merged, plan = merge_unets(
        "Merge of A and B", [model_a, model_b], "each", texts, key_map, non_finite, elemental
    )
    if said := core_remark(plan.steps):
        plan.notes.remark(said)
    return merged, plan


def merge_two_ratios(
    model_a, model_b, pair: str, key_map: str = "mbw", non_finite: str = "error", elemental: str = ""
):
    """``M_A A + M_B B`` per block from one text ``M_A | M_B``; blocks not named stay A's. Returns (MODEL, Plan)."""
    m_a, m_b = split_pair(pair)
    return merge_models(model_a, model_b, m_b, m_a, key_map, non_finite, elemental)


def add_model_difference(
    model_a,
    model_b,
    model_c,
    weights: str,
    key_map: str = "mbw",
    non_finite: str = "error",
    elemental: str = "",
):
    """``A + M (B - C)`` per block, which carries over the training of B since C. Returns (MODEL, Plan)."""
    models, texts = [model_a, model_b, model_c], {"alpha": weights}
    title = "A plus the difference of B and C"
    return merge_unets(title, models, "add_difference", texts, key_map, non_finite, elemental)


def scale_blocks(model, weights: str, key_map: str = "mbw", non_finite: str = "error", elemental: str = ""):
    """``M A`` per block, blocks not named at 1: the one-block attenuation study needs no second model."""
    texts = {"alpha": weights}
    return merge_unets("Blocks of A scaled", [model], "scale", texts, key_map, non_finite, elemental)


def merge_unets(
    title: str,
    models: Sequence,
    method: str,
    texts: Mapping[str, str],
    key_map: str = "mbw",
    non_finite: str = "error",
    elemental: str = "",
    options: Mapping[str, float] | None = None,
    seed: int = 0,
):
    """Merge diffusion models by any method, as a clone of the first with patches. Returns (MODEL, Plan).

    ``texts`` are weight texts by the names of the method's ratios, ``elemental`` selectors of single tensors,
    ``non_finite`` one of ``NON_FINITE``.
    """
    sources = _sources(models, MODEL)
    layout = common_layout(sources, list(texts.values()))
    ratios = Ratios(
        METHODS[method],
        list(texts.items()),
        layout,
        key_map=key_map,
        selectors=elemental,
        read=read_weights,
        labels=LABELS,
    )
    plan = make_plan(title, sources, ratios, options=options, seed=seed)
    compare_prediction(plan, models)
    plan.notes.remarks.extend(remarks(sources))
    merged = incremental(models[0])
    _keep_unpatched(plan, merged)
    unfinished = _not_finite(plan, sources, None if non_finite == "keep A" else "non_finite")
    _survey(plan, models[0], sources)
    _patch(merged, sources, plan, unfinished)
    return merged, plan


def merge_clips(clip_a, clip_b, ratio: float, clip_c=None, encoders: str = ""):
    """``(1 - ratio) A + ratio B``, or ``A + ratio (B - C)`` with a third text encoder. Returns (CLIP, Plan).

    ``encoders`` gives single text encoders another ratio: ``clip_l=0.5, t5xxl=0``.
    """
    check_encoders(encoders)
    sources = _sources([clip.patcher for clip in (clip_a, clip_b, clip_c) if clip is not None])
    names = tuple(dict.fromkeys(map(_encoder, sources[0].entries)))
    ratios = _one_ratio(
        ratio,
        BASE if len(names) == 1 and not encoders.strip() else _encoder,
        clip_c is not None,
        names,
        encoders,
    )
    plan = make_plan("Merge of text encoders", sources, ratios, keep=_kept_of_clip(sources))
    merged = clip_a.clone()
    plan.notes.remarks.extend(remarks(sources))
    merged.patcher = incremental(clip_a.patcher)
    _keep_unpatched(plan, merged.patcher)
    _not_finite(plan, sources)
    _patch(merged.patcher, sources, plan)
    return merged, plan


def check_encoders(text: str) -> None:
    """MergeError where an item of a text for single text encoders has no name: as numbers they would be a list."""
    wrong = next((item.strip() for item in text.split(",") if "=" not in item), None)
    if text.strip() and wrong is not None:
        raise MergeError(
            f"{quote(wrong)} in encoders is not a ratio of a text encoder. Expected are names with their ratio. "
            "Write it as in clip_l=0.5, t5xxl=0; the report lists the names."
        )


def merge_vaes(vae_a, vae_b, ratio: float, vae_c=None):
    """The same for autoencoders, as a new VAE with the merged weights. Returns (VAE, Plan)."""
    sources = _sources([vae.patcher for vae in (vae_a, vae_b, vae_c) if vae is not None])
    plan = make_plan("Merge of VAEs", sources, _one_ratio(ratio, VAE, three=vae_c is not None))
    _not_finite(plan, sources)
    state = vae_a.get_sd() | sources[0].entries
    for key, step in plan.merged.items():
        if isinstance(step, Take):
            state[key] = _on_cpu(sources[step.source].entries[key]).to(state[key].dtype)
        else:
            state[key] = plan.method.blend([_on_cpu(source.entries[key]) for source in sources], step.ratios)
    return comfy.sd.VAE(sd=state, device=vae_a.device, dtype=vae_a.vae_dtype), plan


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return comfy.model_management.cast_to_device(tensor.detach(), CPU, tensor.dtype)


def _encoder(key: str) -> str:
    """The name of the text encoder that a key belongs to: ``CLIP_L``, ``T5XXL``."""
    return key.partition(".")[0].upper()


def _one_ratio(
    ratio: float,
    whole: str | Callable[[str], str],
    three: bool,
    names: tuple[str, ...] = (),
    others: str = "",
) -> Ratios:
    """One ratio for all tensors, but for the ``names`` to which the text ``others`` gives another."""
    if not math.isfinite(ratio):
        raise MergeError(f"The ratio is {ratio}. It must be a finite number.")
    method, name = (METHODS["add_difference"], "alpha") if three else (METHODS["each"], "m_b")
    layout = Layout("text encoders", (), names) if names else NO_LAYOUT
    text = ", ".join(filter(None, (repr(float(ratio)), others.strip())))
    return Ratios(method, [(name, text)], layout, whole=whole, labels={name: "Ratios of the text encoders"})


def _kept_of_clip(sources: Sequence[Live]) -> Callable[[str], str | None]:
    """Why a text-encoder tensor is kept.

    SD1 files have no text_projection, and core leaves its memory uninitialised: what is not finite there was
    never loaded.
    """

    def reason(key: str) -> str | None:
        loaded = (is_finite(source.entries[key]) for source in sources if key in source.entries)
        if key.endswith("text_projection.weight") and not all(loaded):
            return "not loaded from the file"
        return None

    return reason


def _sources(patchers: Sequence, prefix: str | None = None) -> list[Live]:
    """Each model's stored tensors by key, with the patches on them for all but A, whose patches come first anyway."""
    stored = stored_tensors(patchers[0], prefix)
    sources = [Live("A", {key: [(tensor, None)] for key, tensor in stored.items()})]
    sources += [
        Live(letter(number), key_patches(patcher, prefix))
        for number, patcher in enumerate(patchers[1:], start=1)
    ]
    for source in sources:
        refuse_foreign(f"Model {source.name}", source.entries)
    if any(isinstance(tensor, QuantizedTensor) for source in sources for tensor in source.entries.values()):
        check_smoothing(patchers, prefix)
    return sources


def _read_by(plan: Plan, step: Take | Blend, sources: Sequence[Live]) -> Sequence[int]:
    """The places of the models whose tensor a step reads."""
    return (step.source,) if isinstance(step, Take) else range(len(sources))


def _not_finite(plan: Plan, sources: Sequence[Live], keep: str | None = "") -> set[str]:
    """The merged tensors with NaN or infinity in a source: an error, unless ``keep`` is None.

    ``keep`` names the node's input that keeps A's values there, empty where there is none.
    """
    found = set()
    for key, step in plan.merged.items():
        bad = [n for n in _read_by(plan, step, sources) if not is_finite(sources[n].entries[key])]
        if not bad:
            continue
        if keep is not None:
            otherwise = f", or set {keep} to 'keep A' to keep A's values there" if keep else ""
            raise MergeError(
                f"{key} of model {letter(bad[0])} holds NaN or infinity. Repair that model{otherwise}."
            )
        found.add(key)
        for number in bad:
            wrong = int((~sources[number].entries[key].float().isfinite()).sum())
            plan.notes.add_elements(f"NaN or infinity in {letter(number)}, A's values kept", key, wrong)
    return found


def _keep_unpatched(plan: Plan, merged) -> None:
    """Keep, and report, what the loader of a patcher that is not core's would not patch."""
    for key in sorted(unpatched(merged) & plan.merged.keys()):
        plan.keep(key, "not patched by this model's loader")


def _survey(plan: Plan, model_a, sources: Sequence[Live]) -> None:
    """Measure the tensors that the method looks at beforehand, patches included."""
    method: Method = plan.method
    keys = [key for key in plan.measured() if sources[0].entries[key].ndim]
    if method.survey is None or method.conclude is None or not keys:
        return
    own = key_patches(model_a, MODEL)
    measures = [
        method.survey(*(effective(patches[key], key, CPU) for patches in (own, sources[1].patches)))
        for key in keys
    ]
    plan.options = {**plan.options, **method.conclude(measures)}


def _patch(merged, sources: Sequence[Live], plan: Plan, unfinished: Collection[str] = ()) -> None:
    """Attach the plan to ``merged``: every tensor's patch in one call, because each call walks the whole model."""
    options, steps = numbers(plan.options), plan.merged
    own = own_patches(merged, {key: sources[0].entries[key] for key in steps})

    def patch(key: str, step: Take | Blend) -> MergePatch:
        keep_a = key in unfinished
        if isinstance(step, Take):
            how, others = How(TAKE, keep_a=keep_a), sources[step.source : step.source + 1]
        else:
            ratios, channels = numbers(step.ratios), step.channels or 0
            how = How(plan.method.name, ratios, options, plan.seed_of(key), channels, keep_a)
            others = sources[1:]
        if isinstance(sources[0].entries[key], QuantizedTensor):
            how = how._replace(quantised=True)
        return merge_patch(how, [source.patches[key] for source in others], own.get(key))

    patches = {key: patch(key, step) for key, step in steps.items()}
    missed = set(patches) - set(merged.add_patches(patches))
    if missed:
        raise MergeError(
            f"ComfyUI rejected the patches of {len(missed)} tensors, the first is {min(missed)}. "
            "This model cannot be merged live; merge the files."
        )
