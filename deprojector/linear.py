"""Linear layers of all units of an ensemble at once, for a few rows multiplied by the same matrices many times.

A CPU's BLAS is made for many rows. For a few, other ways are faster (CPU seconds of ``1536 -> 3072`` read from
memory, against the plain product, benchmarks/deprojector_linear.py): one row with the weights stored inputs first
(0.7), two to six with the weights packed once by oneDNN, which PyTorch carries (0.3 to 0.9), up to sixteen in
pieces of the outputs (0.9).

Shapes: ``u`` units, ``b`` batch, ``i`` inputs, ``o`` outputs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 1024  # outputs
PACKED_ROWS = 6
SOME_ROWS = 16
# PyTorch's own compiler calls these two; a build without them goes without packed weights.
_pack: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_packed_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
CAN_PACK = torch.backends.mkldnn.is_available() and None not in (_pack, _packed_product)


class Way(NamedTuple):
    """How one unit's product is computed: the weight ``o i`` laid out, and ``base + x W`` of that layout.

    ``x`` is ``b i``, ``base`` None, a bias ``o`` or ``b o``.
    """

    lay_out: Callable[[Tensor], Tensor]
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _inputs_first(weight: Tensor, x: Tensor, base: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if base is None else torch.addmm(base, x, weight)


def _of_packed(weight: Tensor, x: Tensor, base: Tensor | None) -> Tensor:
    if base is None or base.dim() == 1:
        return _packed_product(x, weight, base, "none", [], "")
    return _packed_product.binary(x, base.contiguous(), weight, None, "add")


def _in_pieces(weight: Tensor, x: Tensor, base: Tensor | None) -> Tensor:
    result = x.new_empty(len(x), len(weight))
    for start in range(0, len(weight), PIECE):
        piece = slice(start, start + PIECE)
        if base is None:
            torch.mm(x, weight[piece].t(), out=result[:, piece])
        else:
            torch.addmm(base[..., piece], x, weight[piece].t(), out=result[:, piece])
    return result


INPUTS_FIRST = Way(lambda weight: weight.t().contiguous(), _inputs_first)
PACKED = Way(lambda weight: _pack(weight.contiguous(), PACKED_ROWS), _of_packed)
IN_PIECES = Way(lambda weight: weight, _in_pieces)


def way_for(weight: Tensor, rows: int) -> Way | None:
    """The fastest way for that many rows; None for the plain product, which autograd and other devices take."""
    if weight.device.type != "cpu" or torch.is_grad_enabled() or rows > SOME_ROWS or not weight.numel():
        return None
    outputs, inputs = weight.shape
    if rows == 1:
        return INPUTS_FIRST if outputs >= inputs else None
    if rows <= PACKED_ROWS and CAN_PACK and weight.dtype == torch.float32:
        return PACKED
    return IN_PIECES if outputs > PIECE else None


class Linear:
    """One linear layer of every unit: ``u ... i -> u ... o``."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None):
        self.weights = list(weights)
        self.biases = list(biases) if biases else None
        self.units = len(self.weights)
        # of the ways, the weights are kept laid out for the one used last
        self._laid_out: tuple[Way, list[Tensor]] | None = None
        self._stacked: tuple[Tensor, Tensor | None] | None = None

    @classmethod
    def of(cls, *layers: Iterable[Any], inputs: slice | None = None, bias: bool = True) -> "Linear":
        """From the units' layers; several kinds are joined along the outputs, ``inputs`` picks columns."""
        columns = inputs or slice(None)
        units = list(zip(*layers, strict=True))
        weights = [_joined([layer.weight[:, columns] for layer in unit]) for unit in units]
        if not bias or units[0][0].bias is None:
            return cls(weights)
        return cls(weights, [_joined([layer.bias for layer in unit]) for unit in units])

    def __call__(self, x: Tensor) -> Tensor:
        way = self._way(x)
        if way is not None:
            flat = x.reshape(self.units, -1, x.shape[-1])
            return self._by(way, flat, self.biases).view(*x.shape[:-1], len(self.weights[0]))
        if self.units == 1:
            return F.linear(x, self.weights[0], self.biases[0] if self.biases else None)
        weight, bias = self._stack()
        flat = x.flatten(1, -2)
        result = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias, flat, weight)
        return result.view(*x.shape[:-1], -1)

    def added_to(self, base: Tensor, x: Tensor) -> Tensor:
        """``base + layer(x)`` in one product, for a layer without bias: ``u b o, u b i -> u b o``."""
        way = self._way(x)
        if way is not None:
            return self._by(way, x, base.unbind(0))
        if self.units == 1:
            return torch.addmm(base[0], x[0], self.weights[0].t())[None]
        return torch.baddbmm(base, x, self._stack()[0])

    def _way(self, x: Tensor) -> Way | None:
        return way_for(self.weights[0], x.shape[1:-1].numel())

    def _by(self, way: Way, x: Tensor, bases: Sequence[Tensor] | None) -> Tensor:
        if self._laid_out is None or self._laid_out[0] is not way:
            self._laid_out = way, [way.lay_out(weight) for weight in self.weights]
        under = bases or [None] * self.units
        units = zip(self._laid_out[1], x.unbind(0), under, strict=True)
        results = [way.product(weight, rows, base) for weight, rows, base in units]
        return results[0][None] if self.units == 1 else torch.stack(results)

    def _stack(self) -> tuple[Tensor, Tensor | None]:
        """The units' weights ``u i o`` and biases ``u 1 o``."""
        if self._stacked is None:
            biases = torch.stack(self.biases)[:, None] if self.biases else None
            self._stacked = torch.stack(self.weights).mT, biases
        return self._stacked


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0].contiguous() if len(tensors) == 1 else torch.cat(tensors)
