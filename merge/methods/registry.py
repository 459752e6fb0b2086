"""The registry of merge methods: what each takes, and one call that runs any of them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Tensor])

# Up to this many elements torch neither forks threads nor leaves the L2 cache: temporaries cost nothing.
BLOCK = 1 << 15


@dataclass(frozen=True)
class Method:
    """One merge method: ``function(*tensors, **ratios, **options)``.

    ``ratios`` vary from block to block; ``options`` are numbers of the whole merge with their defaults.
    ``most`` is None when the method takes any number of models from ``least`` on.
    ``passes`` lists ratios at which the result is one model's tensor, bit for bit.
    ``complement`` (x, y) lets x be left out: it is 1 - y then. An ``elementwise`` method may be computed in pieces; others see whole tensors.
    ``survey`` measures every key beforehand; ``conclude`` turns the measures into options.
    """

    name: str
    title: str
    function: Callable[..., Tensor]
    least: int
    most: int | None
    ratios: tuple[str, ...]
    source: str
    options: Mapping[str, float] = field(default_factory=dict)
    passes: tuple[tuple[Mapping[str, float], int], ...] = ()
    complement: tuple[str, str] | None = None
    elementwise: bool = True
    seeded: bool = False
    survey: Callable[[Tensor, Tensor], Tensor] | None = None
    conclude: Callable[[Sequence[Tensor]], Mapping[str, float]] | None = None

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
        """Merge tensors of one shape into ``dtype`` (default: that of the first), rounding once from fp32."""
        dtype = dtype or tensors[0].dtype
        index = self.passthrough(ratios)
        if index is not None:
            return tensors[index].to(dtype)
        numbers = {**self.options, **(options or {}), **ratios}
        if self.seeded:
            numbers["seed"] = seed or 0
        if dtype != tensors[0].dtype:
            tensors = [tensors[0].float(), *tensors[1:]]
        if not self.elementwise or tensors[0].numel() <= BLOCK or tensors[0].device.type != "cpu":
            return self.function(*tensors, **numbers).to(dtype)
        out = torch.empty(tensors[0].shape, dtype=dtype)
        flat = [tensor.reshape(-1).split(BLOCK) for tensor in tensors]
        for target, *blocks in zip(out.view(-1).split(BLOCK), *flat, strict=True):
            target.copy_(self.function(*blocks, **numbers))
        return out


METHODS: dict[str, Method] = {}


def method(
    name: str, title: str, ratios: str, *, models: int | tuple[int, int | None], **rest
) -> Callable[[F], F]:
    """Enter the decorated function in ``METHODS``; ``models`` is a count or (least, most)."""
    least, most = models if isinstance(models, tuple) else (models, models)

    def enter(function: F) -> F:
        METHODS[name] = Method(name, title, function, least, most, tuple(ratios.split()), **rest)
        return function

    return enter


def rounds_once(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Hand the function fp32 copies of its tensors and round its result to the dtype of the first."""

    @wraps(function)
    def rounded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
        return function(*wide, **kwargs).to(args[0].dtype)  # type: ignore[arg-type, union-attr]

    return rounded


def find(name: str) -> Method:
    """The method of that name; an unknown name raises ValueError listing the known ones."""
    if name not in METHODS:
        raise ValueError(f"unknown merge method {name!r}; the methods are: {', '.join(METHODS)}")
    return METHODS[name]


def seed_for(seed: int, key: str) -> int:
    """The seed of one tensor: it depends on the user's seed and the key alone, never on the order of keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") >> 1
