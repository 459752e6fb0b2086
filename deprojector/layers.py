"""Layers that the families share.

Shapes: ``b`` batch, ``n`` new rows, ``d`` width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import DeprojectorError


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name; DeprojectorError lists the available ones."""
    if name not in ACTIVATIONS:
        raise DeprojectorError(f"Unknown activation {name!r}. Available: {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]


FEW_ROWS = 3


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: ``... i -> ... o``."""
    if not _few(x, weight):
        return F.linear(x, weight, bias)
    return linear_sum([(x.reshape(-1, x.shape[-1]), weight)], bias).view(*x.shape[:-1], len(weight))


def linear_sum(products: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None = None) -> Tensor:
    """The sum of several products ``x (b i), weight (o i)`` and a bias: ``b o``.

    A CPU multiplies a few rows faster from the other side, as ``weight @ x`` with at least two columns
    (``3072 x 768``, float32, AMD EPYC: 0.5 ms instead of 0.8 for one row, 0.5 instead of 1.4 for two).
    """
    rows = len(products[0][0])
    result = bias
    if not _few(*products[0]):
        (x, weight), *rest = products
        summed = F.linear(x, weight, bias)
        for x, weight in rest:
            summed = torch.addmm(summed, x, weight.t())
        return summed
    if bias is not None:
        result = bias[:, None]
    for x, weight in products:
        columns = (x.repeat(2, 1) if rows == 1 else x.contiguous()).t()  # other memory layouts are slow
        result = torch.mm(weight, columns) if result is None else torch.addmm(result, weight, columns)
    assert result is not None
    return result[:, :rows].t().contiguous()


def _few(x: Tensor, weight: Tensor) -> bool:
    rows = x.shape[:-1].numel()
    few = 1 < rows <= FEW_ROWS or (rows == 1 and weight.shape[0] >= weight.shape[1])
    return few and x.device.type == "cpu" and x.dtype == torch.float32


class Linear(nn.Linear):
    """A linear layer, also over a part of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def part(self, x: Tensor, start: int) -> Tensor:
        """What the inputs from ``start`` on add to the result, without the bias."""
        return linear(x, self.weight[:, start : start + x.shape[-1]])


def lstm_cell(
    x: Tensor, hidden: Tensor, context: Tensor, cell: Any, suffix: str = "", base: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: hidden and cell state ``b h``. ``base`` is added to the gates (``b 4h``)."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weight_ih, weight_hh, bias_ih, bias_hh = (getattr(cell, name + suffix) for name in names)
    gates = linear_sum([(x, weight_ih[:, : x.shape[-1]]), (hidden, weight_hh)], bias_ih + bias_hh)
    if base is not None:
        gates = gates + base
    enter, keep, _, leave = gates.sigmoid().chunk(4, dim=-1)
    candidate = gates.chunk(4, dim=-1)[2].tanh()
    context = torch.addcmul(keep * context, enter, candidate)
    return leave * context.tanh(), context


class Mlp(nn.Module):
    """CLIP's MLP."""

    def __init__(self, dim: int, hidden: int, act: str):
        super().__init__()
        self.act = activation(act)
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class NormedMlp(nn.Module):
    """An MLP over the normalised input."""

    def __init__(self, dim: int, hidden: int, act: str, eps: float):
        super().__init__()
        self.act = activation(act)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.act(self.linear1(self.norm(x))))


class Attention(nn.Module):
    """CLIP's causal attention over the rows so far, which ``cache`` keeps: ``b n d -> b last d``."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, cache: "KeyValues", last: int) -> Tensor:
        """Attend from the ``last`` few of the new rows to all rows up to themselves."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        key, value = cache.extend(key, value)
        mask = None
        if last > 1:
            total = key.shape[2]
            mask = torch.ones(last, total, dtype=torch.bool, device=x.device).tril(total - last)
        mixed = F.scaled_dot_product_attention(query[:, :, -last:], key, value, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class KeyValues:
    """Keys and values of one attention layer, ``b heads rows e``, growing up to ``capacity`` rows."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self._stored: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new rows; all rows so far."""
        start, self.length = self.length, self.length + key.shape[2]
        if torch.is_grad_enabled():  # autograd needs the tensors of every step: no writing in place
            if self._stored is not None:
                key = torch.cat([self._stored[0], key], dim=2)
                value = torch.cat([self._stored[1], value], dim=2)
            self._stored = key, value
            return key, value
        if self._stored is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._stored = key.new_empty(shape), value.new_empty(shape)
        for stored, new in zip(self._stored, (key, value), strict=True):
            stored[:, :, start : self.length] = new
        return self._stored[0][:, :, : self.length], self._stored[1][:, :, : self.length]


class Window:
    """The last ``size`` rows for every new row, newest first; ``pad`` (``b 1 d``) before the first."""

    def __init__(self, size: int, pad: Tensor):
        self.size = size
        self.past = pad.expand(-1, max(size - 1, 0), -1)

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """``size`` tensors like ``rows`` (``b n d``): the rows, the rows before them, and so on."""
        if self.size < 2:
            return [rows] * self.size
        new, last = rows.shape[1], self.size - 1
        seen = torch.cat([self.past, rows], dim=1)
        self.past = seen[:, new:]
        return [seen[:, last - back : last - back + new] for back in range(self.size)]


def beside(embed: Tensor, rows: list[Tensor]) -> Tensor:
    """The embedding (``b 1 e``, repeated for every row) and the rows (``b n d`` each), side by side."""
    return torch.cat([embed.expand(-1, rows[0].shape[1], -1), *rows], dim=-1)
