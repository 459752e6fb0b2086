"""What a node does to a conditioning or, by name, to whatever conditioning a guider will have."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.spec import Part, Window, parse
from .conditioning import Conditioning, mixed_pooled, pooled_of, stretches
from .entries import Injection, Mode, injection
from .host import BY_NAME_KEY, KEY, CONDInjections, blocks_of, prepare

log = logging.getLogger("blockwork")

Pooled = Literal["base", "injected", "lerp"]


@dataclass(frozen=True, eq=False)
class Change:
    """What a node does to a conditioning: injections, another pooled embedding, a prompt for ControlNets."""

    injections: tuple[Injection, ...]
    pooled: Tensor | None = None  # b d
    pooled_weight: float = 1.0
    controlnet: Tensor | None = None  # b t d

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A changed copy of one conditioning's dict; its injections act after those it already carries."""
        model_conds = entry.get("model_conds", {})
        before = model_conds.get(KEY, CONDInjections(()))
        controlnet = before.controlnet if self.controlnet is None else self.controlnet
        cond = CONDInjections((*before.cond, *self.injections), controlnet)
        changed = {**entry, "model_conds": {**model_conds, KEY: cond}}
        if self.pooled is not None:
            own = entry.get("pooled_output")
            changed["pooled_output"] = mixed_pooled(own, self.pooled, self.pooled_weight)
        return changed

    def on(self, conditioning: Conditioning) -> Conditioning:
        """A changed copy of every entry of a CONDITIONING."""
        return [[tokens, self(entry)] for tokens, entry in conditioning]

    def by_name(self, model: ModelPatcher, names: Sequence[str]) -> ModelPatcher:
        """A clone of ``model`` that makes this change to the conditionings a guider calls by these names."""
        model = prepare(model)
        carried = model.model_options.setdefault(BY_NAME_KEY, {})
        for name in names:
            carried[name] = [*carried.get(name, []), self]
        return model


def carried_by(conditioning: Conditioning) -> list[tuple[Injection, ...]]:
    """The injections that each entry of a CONDITIONING carries."""
    return [entry.get("model_conds", {}).get(KEY, CONDInjections(())).cond for _, entry in conditioning]


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

    ``pooled`` says which pooled embedding the conditioning gets (SDXL), ``for_controlnet`` whether
    ControlNets see the injected prompt too. Raises NotAUNet, SpecError and InjectionError.
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
    )
    if made.skipped:
        log.warning(
            "no prompt reaches %s (no cross-attention): the weights there do nothing.",
            ", ".join(made.skipped),
        )
    return Change(
        (made,),
        pooled=None if pooled == "base" else pooled_of(prompt),
        pooled_weight=weight if pooled == "lerp" else 1.0,
        controlnet=made.prompt[0].tokens if for_controlnet else None,
    )
