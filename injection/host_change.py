"""What a node does to a conditioning or, by name, to whatever conditioning a guider will have."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.spec import Part, Window, parse
from .conditioning import Conditioning, check_pooled, mixed_pooled, stretches
from .entries import Immutable, Injection, InjectionError, Mode, Pooled, Stretch, injection
from .host import BY_NAME_KEY, blocks_of, is_zero, prepare
from .host_carry import KEY, CONDInjections
from .host_transformers import layers_of
from .report import no_layer_note

log = logging.getLogger("blockwork")


@dataclass(frozen=True, eq=False)
class Change(Immutable):
    """What a node does to a conditioning: its injections, in order."""

    injections: tuple[Injection, ...]

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A changed copy of one conditioning's dict; its injections act after those it already carries."""
        return self._changed(entry, entry.get("cross_attn"))

    def on(self, conditioning: Conditioning) -> Conditioning:
        """A changed copy of every entry of a CONDITIONING."""
        return [[tokens, self._changed(entry, tokens)] for tokens, entry in conditioning]

    def by_name(self, model: ModelPatcher, names: Sequence[str]) -> ModelPatcher:
        """A clone of ``model`` that makes this change to the conditionings a guider calls by these names."""
        model = prepare(model)
        carried = dict(model.model_options.get(BY_NAME_KEY, {}))
        for name in names:
            carried[name] = [*carried.get(name, []), self]
        model.model_options[BY_NAME_KEY] = carried
        return model

    def _changed(self, entry: dict[str, Any], tokens: Any) -> dict[str, Any]:
        model_conds, on_zeros = entry.get("model_conds", {}), is_zero(tokens)
        before = model_conds.get(KEY, CONDInjections(()))
        _check_widths(self.injections, tokens)
        added = tuple(
            replace(one, on_zeros=on_zeros, prompt=_with_hooks(one.prompt, entry.get("hooks")))
            for one in self.injections
        )
        changed = {**entry, "model_conds": {**model_conds, KEY: CONDInjections((*before.cond, *added))}}
        for one in added:  # the others' pooled embedding is changed while they act, in ``host_batch``
            if one.pooled != "base" and one.always:
                pooled = one.prompt[0].pooled
                if pooled is not None:  # else the model pools the tokens by itself
                    share = one.weight if one.pooled == "lerp" else 1.0
                    changed["pooled_output"] = mixed_pooled(changed.get("pooled_output"), pooled, share)
        return changed


def _check_widths(injections: Sequence[Injection], tokens: Any) -> None:
    """InjectionError where a prompt is not as wide as the conditioning it goes into."""
    widths = {stretch.tokens.shape[-1] for one in injections for stretch in (*one.prompt, *one.reference)}
    if isinstance(tokens, Tensor) and widths - {tokens.shape[-1]}:
        raise InjectionError(
            f"The prompt is {min(widths - {tokens.shape[-1]})} numbers wide per token, and the conditioning "
            f"{tokens.shape[-1]}: two kinds of CLIP made them. Encode both with the CLIP of this checkpoint."
        )


def _with_hooks(prompt: tuple[Stretch, ...], hooks: Any) -> tuple[Stretch, ...]:
    """The entries of a prompt that a conditioning with these hooks can take: those without, and with the same."""
    kept = tuple(stretch for stretch in prompt if stretch.hooks is None or _same_hooks(stretch.hooks, hooks))
    if not kept:
        raise InjectionError(
            "The prompt comes with hooks (LoRA or model hooks) that the conditioning does not have. A block attends to "
            "a text only: the hooks would not act. Use one CLIP for both, or set the hooks on the conditioning."
        )
    return kept


def _same_hooks(first: Any, second: Any) -> bool:
    return first is second or set(getattr(first, "hooks", [first])) == set(getattr(second, "hooks", [second]))


def carried_by(conditioning: Conditioning) -> list[tuple[Injection, ...]]:
    """The injections that each entry of a CONDITIONING carries."""
    return [entry.get("model_conds", {}).get(KEY, CONDInjections(())).cond for _, entry in conditioning]


def carried_by_name(model: ModelPatcher) -> dict[str, tuple[Injection, ...]]:
    """The injections that a model makes, by the name of the guider's conditioning."""
    changes = model.model_options.get(BY_NAME_KEY, {})
    return {
        name: tuple(one for change in made for one in change.injections) for name, made in changes.items()
    }


def change(
    model: ModelPatcher,
    prompt: Conditioning,
    blocks: str,
    *,
    weight: float = 1.0,
    mode: Mode = "replace",
    part: Part = "kv",
    windows: Sequence[Window] = (),
    reference: Conditioning | None = None,
    pooled: Pooled = "base",
    for_controlnet: bool = False,
    label: str = "",
) -> Change:
    """The change that injects ``prompt`` into the layers that ``blocks`` names in ``model``.

    ``pooled`` says which pooled embedding the conditioning gets (SDXL), ``for_controlnet`` whether ControlNets see
    the injected prompt too; both act when and as strongly as the injection. Raises NotAUNet, SpecError and
    InjectionError.
    """
    walked = blocks_of(model)
    made = injection(
        parse(blocks, walked),
        stretches(prompt, walked),
        weight=weight,
        mode=mode,
        part=part,
        windows=windows,
        reference=() if reference is None else stretches(reference, walked, "reference"),
        label=label or blocks.strip(),
        pooled=pooled,
        for_controlnet=for_controlnet,
    )
    if pooled != "base" and layers_of(model.model).pools is None:
        check_pooled(made.prompt)
    if made.skipped:
        log.warning("%s", no_layer_note(made.skipped))
    return Change((made,))


def inject_all(
    model: ModelPatcher, conditioning: Conditioning, prompts: Sequence[Conditioning], blocks: Sequence[str]
) -> Conditioning:
    """``conditioning`` with each of ``prompts`` injected into its entry of ``blocks``, in order."""
    if len(prompts) != len(blocks):
        raise InjectionError(
            f"{len(prompts)} prompts and {len(blocks)} lists of blocks are given, and each prompt needs its blocks. "
            "Connect sentences and blocks of the same Split Block Prompt."
        )
    for prompt, spec in zip(prompts, blocks, strict=True):
        conditioning = change(model, prompt, spec).on(conditioning)
    return conditioning
