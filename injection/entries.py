"""What is injected: a prompt, the cross-attention layers it reaches, how strongly, how and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from ..blocks.spec import Part, Setting, Spec, Window
from ..blocks.walk import SubBlock

Mode = Literal["replace", "lerp", "concat", "add"]
MODES: tuple[Mode, ...] = ("replace", "lerp", "concat", "add")
SWITCHES = ("replace", "concat")  # modes that are on or off: their weight is 0 or 1
ALWAYS = Window()


class InjectionError(ValueError):
    """An injection that makes no sense; the message says what was given and what would do."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """One entry of a scheduled prompt: ``tokens`` of shape ``b t d`` and when they hold."""

    tokens: Tensor
    window: Window = ALWAYS


@dataclass(frozen=True, eq=False)
class Injection:
    """One prompt on its way into some layers.

    ``layers`` maps a cross-attention layer to its settings; the weights there already include the node's.
    Acts while all of ``windows`` and the setting's own window hold. ``reference`` is the prompt that mode
    ``add`` subtracts.
    """

    layers: Mapping[SubBlock, tuple[Setting, ...]]
    prompt: tuple[Stretch, ...]
    mode: Mode = "replace"
    windows: tuple[Window, ...] = ()
    reference: tuple[Stretch, ...] = ()
    label: str = ""
    skipped: tuple[str, ...] = field(default=())

    def retimed(self, windows: Sequence[Window]) -> "Injection":
        """The same injection, held to further windows."""
        return replace(self, windows=(*self.windows, *windows))


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
) -> Injection:
    """An Injection of ``prompt`` into the layers of ``spec``; layers whose weight is zero are left alone.

    A spec's own weights are multiplied by ``weight``; its own part (``/k``, ``/v``) goes before ``part``.
    Raises InjectionError for weights between 0 and 1 in a mode that is on or off, for mode ``add`` without
    a reference, and for a schedule with two entries at the same time.
    """
    if mode == "add" and not reference:
        raise InjectionError(
            "mode 'add' moves the prompt by (prompt - reference): connect the reference prompt, for example "
            "the plain form of what the prompt describes."
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
        if mode in SWITCHES and any(setting.weight != 1 for setting in kept):
            wrong = next(setting.weight for setting in kept if setting.weight != 1)
            raise InjectionError(
                f"mode {mode!r} is on or off, so its weights are 0 or 1; got {wrong:g}. For a share of the "
                "prompt use mode 'lerp' (0.5 is half and half, above 1 goes beyond)."
            )
        if kept:
            layers[sub_block] = kept
    return Injection(
        MappingProxyType(layers), tuple(prompt), mode, tuple(windows), tuple(reference), label, spec.skipped
    )


def _check_schedule(stretches: Sequence[Stretch]) -> None:
    for number, stretch in enumerate(stretches):
        for other in stretches[:number]:
            if stretch.window.meets(other.window):
                raise InjectionError(
                    "the injected conditioning has two prompts at the same time (Conditioning Combine makes "
                    "such). A block attends to one prompt: use Conditioning Average or Concat, or inject "
                    "them one after the other."
                )
