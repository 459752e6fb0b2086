"""What is injected: a prompt, the cross-attention layers it reaches, how strongly, how and when."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ..blocks.spec import Part, Setting, Spec, Window
from ..blocks.walk import SubBlock

Mode = Literal["replace", "lerp", "concat", "add"]
Pooled = Literal["base", "injected", "lerp"]
MODES: tuple[Mode, ...] = ("replace", "lerp", "concat", "add")
ALWAYS = Window()


class InjectionError(ValueError):
    """An injection that is not valid; the message says what was given and what is expected."""


class Immutable:
    """Objects that never change: a deep copy is the object itself (packs copy a CONDITIONING at every step)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


@dataclass(frozen=True, eq=False)
class Stretch(Immutable):
    """One entry of a scheduled prompt: ``tokens`` of shape ``b t d`` and when they hold.

    ``pooled`` is the entry's pooled embedding ``b d``, ``controlnet`` its own tokens for ControlNets, ``hooks`` the
    weight hooks of the CLIP that encoded it, ``options`` what else the model's text path reads.
    """

    tokens: Tensor
    window: Window = ALWAYS
    pooled: Tensor | None = None
    controlnet: Tensor | None = None
    hooks: Any = None
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Injection(Immutable):
    """One prompt on its way into some layers.

    ``layers`` maps a cross-attention layer to its settings; the weights there already include the node's
    ``weight``. Acts while all of ``windows`` and the setting's own window hold. ``reference`` is the prompt that
    mode ``add`` subtracts. ``pooled`` and ``for_controlnet`` say whether the pooled embedding and the prompt of
    ControlNets follow, at the same times. ``on_zeros``: the conditioning was all zeros when it was injected into.
    """

    layers: Mapping[SubBlock, tuple[Setting, ...]]
    prompt: tuple[Stretch, ...]
    mode: Mode = "replace"
    windows: tuple[Window, ...] = ()
    reference: tuple[Stretch, ...] = ()
    label: str = ""
    skipped: tuple[str, ...] = ()
    weight: float = 1.0
    pooled: Pooled = "base"
    for_controlnet: bool = False
    on_zeros: bool = False

    @property
    def always(self) -> bool:
        """Whether some layer is injected during the whole sampling."""
        timed = self.windows or len(self.prompt) != 1 or self.prompt[0].window != ALWAYS
        return not timed and any(s.window is None for settings in self.layers.values() for s in settings)


def injection(
    spec: Spec,
    prompt: Sequence[Stretch],
    *,
    weight: float = 1.0,
    mode: Mode = "replace",
    part: Part = "kv",
    windows: Sequence[Window] = (),
    reference: Sequence[Stretch] = (),
    label: str = "",
    pooled: Pooled = "base",
    for_controlnet: bool = False,
) -> Injection:
    """An Injection of ``prompt`` into the layers of ``spec``; layers whose weight is zero are left alone.

    A spec's own weights are multiplied by ``weight``; its own part (``/k``, ``/v``) goes before ``part``. Raises
    InjectionError for a weight that is not finite, a fraction in mode ``concat``, for mode ``add`` without a reference, and for a schedule
    with two entries at the same time.
    """
    if not math.isfinite(weight):
        raise InjectionError(f"The weight is {weight}. Give a number.")
    if mode == "add" and not reference:
        raise InjectionError(
            "Mode 'add' moves the prompt by (prompt - reference), and no reference is given. Connect the reference "
            "prompt, for example the plain form of what the prompt describes."
        )
    for schedule in (prompt, reference):
        _check_schedule(schedule)
    layers: dict[SubBlock, tuple[Setting, ...]] = {}
    for sub_block, settings in spec.settings.items():
        kept = tuple(
            replace(
                setting, weight=weight * setting.weight, part=part if setting.part == "kv" else setting.part
            )
            for setting in settings
            if weight * setting.weight != 0
        )
        if mode == "concat" and any(setting.weight != 1 for setting in kept):
            wrong = next(setting.weight for setting in kept if setting.weight != 1)
            raise InjectionError(
                f"Mode 'concat' is on or off, and the weight here is {wrong:g}. Use 0 or 1, or mode 'lerp' for a "
                "share of the prompt."
            )
        if kept:
            layers[sub_block] = kept
    return Injection(
        layers=layers,
        prompt=tuple(prompt),
        mode=mode,
        windows=tuple(windows),
        reference=tuple(reference),
        label=label,
        skipped=spec.skipped,
        weight=weight,
        pooled=pooled,
        for_controlnet=for_controlnet,
    )


def _check_schedule(stretches: Sequence[Stretch]) -> None:
    for number, stretch in enumerate(stretches):
        for other in stretches[:number]:
            if stretch.window.meets(other.window):
                raise InjectionError(
                    "The injected conditioning has two prompts at the same time (Conditioning Combine makes such). "
                    "A block attends to one prompt. Use Conditioning Average or Concat, or inject them one after "
                    "the other."
                )
