"""The registry of merge methods: what each takes, and one call that runs any of them."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Tensor])

# Up to this many elements torch neither forks threads nor leaves the L2 cache: temporaries cost nothing.
BLOCK = 1 << 15
LARGEST = 1e12  # a ratio or option beyond this overflows float32 in the arithmetic


@dataclass(frozen=True)
class Method:
    """One merge method: ``function(*tensors, **ratios, **options)``.

    ``ratios`` vary from block to block; ``options`` are numbers of the whole merge with their defaults.
    ``most`` is None when the method takes any number of models from ``least`` on.
    ``identity`` holds the ratios at which the result is A, bit for bit; None where no ratios give A. ``chooses`` lists
    ratios at which it is another model's tensor. ``formula`` shows the ratios in a report.
    ``complement`` (x, y) lets x be left out: it is 1 - y then. An ``elementwise`` method may be computed in pieces.
    Others see whole tensors, apart from those with ``measure``: it takes numbers from the whole tensors, with which
    the rest is elementwise. ``survey`` measures every key beforehand; ``conclude`` turns the measures into options.
    A method that ``hides_nan`` may give a finite number where a source holds NaN.
    ``check`` returns a sentence on numbers that the method cannot use.
    """

    name: str
    title: str
    function: Callable[..., Tensor]
    least: int
    most: int | None
    ratios: tuple[str, ...]
    identity: Mapping[str, float] | None
    source: str
    options: Mapping[str, float] = field(default_factory=dict)
    chooses: tuple[tuple[Mapping[str, float], int], ...] = ()
    formula: str = ""
    complement: tuple[str, str] | None = None
    elementwise: bool = True
    seeded: bool = False
    hides_nan: bool = False
    survey: Callable[[Tensor, Tensor], Tensor] | None = None
    conclude: Callable[[Sequence[Tensor]], Mapping[str, float]] | None = None
    measure: Callable[[Sequence[Tensor], Mapping[str, float]], Mapping[str, Any]] | None = None
    check: Callable[[Mapping[str, float]], str | None] | None = None

    @cached_property
    def passes(self) -> tuple[tuple[Mapping[str, float], int], ...]:
        """Ratios at which the result is one model's tensor, bit for bit, with the index of that model."""
        return (*([] if self.identity is None else [(self.identity, 0)]), *self.chooses)

    def passthrough(self, ratios: Mapping[str, float]) -> int | None:
        """The index of the model that comes out untouched at these ratios, or None."""
        for condition, index in self.passes:
            if all(ratios[name] == value for name, value in condition.items()):
                return index
        return None

    def blend(
        self,
        tensors: Sequence[Tensor],
        ratios: Mapping[str, float],
        options: Mapping[str, float] | None = None,
        *,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Merge tensors of one shape into ``dtype`` (default: that of the first), rounding once from fp32.

        ValueError for numbers that the method cannot use.
        """
        dtype = dtype or tensors[0].dtype
        index = self.passthrough(ratios)
        if index is not None or not tensors[0].numel():
            return tensors[index or 0].to(dtype)
        numbers: dict[str, Any] = self.checked(ratios, options)
        if self.seeded:
            numbers["seed"] = seed or 0
        if self.measure:
            numbers |= self.measure(tensors, numbers)
        pieces = self.elementwise or self.measure is not None
        if not pieces or tensors[0].numel() <= BLOCK or tensors[0].device.type != "cpu":
            wide = tensors if dtype == tensors[0].dtype else [tensors[0].float(), *tensors[1:]]
            return self.function(*wide, **numbers).to(dtype)
        out = torch.empty(tensors[0].shape, dtype=dtype)
        flat = [tensor.reshape(-1).split(BLOCK) for tensor in tensors]
        for target, first, *others in zip(out.view(-1).split(BLOCK), *flat, strict=True):
            first = first if dtype == first.dtype else first.float()
            target.copy_(self.function(first, *others, **numbers))
        return out

    def checked(
        self, ratios: Mapping[str, float], options: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """All numbers of a merge by name; ValueError for those that the method cannot use."""
        numbers = {**self.options, **(options or {}), **ratios}
        for name, value in numbers.items():
            if not abs(value) <= LARGEST:
                raise ValueError(f"{name} is {value:g}. Use a number from -{LARGEST:g} to {LARGEST:g}.")
        refusal = self.check(numbers) if self.check else None
        if refusal:
            raise ValueError(refusal)
        return numbers

    def text(self, ratios: Mapping[str, float]) -> str:
        """The ratios of a tensor for a report: ``0.75 A + 0.25 B``."""
        shown = {name: f"{value:.6g}" for name, value in ratios.items()}
        if self.formula:
            return self.formula.format(**shown)
        return ", ".join(f"{name} {value}" for name, value in shown.items())


METHODS: dict[str, Method] = {}


def method(
    name: str,
    title: str,
    ratios: str,
    *,
    models: int | tuple[int, int | None],
    identity: Mapping[str, float] | None,
    **rest,
) -> Callable[[F], F]:
    """Enter the decorated function in ``METHODS``; ``models`` is a count or (least, most)."""
    least, most = models if isinstance(models, tuple) else (models, models)

    def enter(function: F) -> F:
        METHODS[name] = Method(name, title, function, least, most, tuple(ratios.split()), identity, **rest)
        return function

    return enter


def between(low: float, high: float, *names: str) -> Callable[[Mapping[str, float]], str | None]:
    """A ``check``: the named numbers must be from ``low`` to ``high``."""

    def check(numbers: Mapping[str, float]) -> str | None:
        bad = next((name for name in names if not low <= numbers.get(name, low) <= high), None)
        if bad is None:
            return None
        wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        return f"{bad} is {numbers[bad]:g}. It must be {wanted}."

    return check


def rounds_once(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Hand the function fp32 copies of its tensors and round its result to the dtype of the first."""

    @wraps(function)
    def rounded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
        return function(*wide, **kwargs).to(args[0].dtype)  # type: ignore[arg-type, union-attr]

    return rounded


def seed_for(seed: int, key: str) -> int:
    """The seed of one tensor: it depends on the user's seed and the key alone, never on the order of keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") >> 1
