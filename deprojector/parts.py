"""What the families share: activations, and layers that run all units of an ensemble at once.

Shapes: ``u`` units, ``b`` batch, ``n`` new rows, ``d`` width.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import DeprojectorError
from .linear import Linear


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
    """The activation of that name; DeprojectorError lists the known ones."""
    if name not in ACTIVATIONS:
        raise DeprojectorError(f"unknown activation {name!r}; known are {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]


class Attention(nn.Module):
    """The parameters of CLIP's attention, under its names."""

    def __init__(self, dim: int):
        super().__init__()
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)


class Mlp(nn.Module):
    """The parameters of CLIP's MLP, under its names."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)


class Norm:
    """One LayerNorm of every unit: ``u ... d -> u ... d``."""

    def __init__(self, norms: Iterable[Any]):
        norms = list(norms)
        self.shape = norms[0].normalized_shape
        self.eps = norms[0].eps
        self.units = len(norms)
        self.weight = per_unit([norm.weight for norm in norms])
        self.bias = per_unit([norm.bias for norm in norms])

    def __call__(self, x: Tensor) -> Tensor:
        if self.units == 1:
            return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        shape = (self.units,) + (1,) * (x.dim() - 2) + (-1,)
        normed = F.layer_norm(x, self.shape, None, None, self.eps)
        return torch.addcmul(self.bias.view(shape), normed, self.weight.view(shape))


def per_unit(tensors: Sequence[Tensor]) -> Tensor:
    """``u ...`` of one tensor per unit; a single unit's tensor is passed on as it is."""
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))


def positions(embeddings: Iterable[Any]) -> Tensor:
    """The units' position tables, ``u 1 rows d``."""
    return torch.stack([embedding.weight for embedding in embeddings])[:, None]


class CausalAttention:
    """CLIP's attention of every unit, one step or one chunk at a time: ``u b n d -> u b n d``.

    Keys and values of the rows seen so far are kept in a cache that the caller owns (``KeyValues``).
    """

    def __init__(self, modules: Iterable[Any], heads: int):
        modules = list(modules)
        self.heads = heads
        self.query_key_value = Linear.of(
            [m.q_proj for m in modules], [m.k_proj for m in modules], [m.v_proj for m in modules]
        )
        self.out = Linear.of([m.out_proj for m in modules])

    def __call__(self, x: Tensor, cache: "KeyValues", last: int) -> Tensor:
        """Attend from the ``last`` few of the new rows to all rows up to themselves."""
        units, batch, new, dim = x.shape
        heads = self.query_key_value(x).view(units * batch, new, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        key, value = cache.extend(key, value)
        mask = None
        if last > 1:
            total = key.shape[2]
            mask = torch.ones(last, total, dtype=torch.bool, device=x.device).tril(total - last)
        mixed = F.scaled_dot_product_attention(query[:, :, -last:], key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(units, batch, last, dim))


class KeyValues:
    """Keys and values of one attention layer, ``(u b) heads rows e``, growing up to ``capacity`` rows."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self._stored: tuple[Tensor, Tensor] | None = None

    @property
    def empty(self) -> bool:
        """Whether no row was seen yet."""
        return self._stored is None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new rows; all rows so far."""
        if torch.is_grad_enabled():
            # autograd needs the tensors of every step: nothing may be written in place
            if self._stored is not None:
                key = torch.cat([self._stored[0], key], dim=2)
                value = torch.cat([self._stored[1], value], dim=2)
            self._stored = key, value
            return key, value
        start, self.length = self.length, self.length + key.shape[2]
        if self._stored is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._stored = key.new_empty(shape), value.new_empty(shape)
        for stored, new in zip(self._stored, (key, value), strict=True):
            stored[:, :, start : self.length] = new
        return self._stored[0][:, :, : self.length], self._stored[1][:, :, : self.length]


def shifted(rows: Tensor, before: Tensor) -> Tensor:
    """Each row's predecessor, ``... n d``: ``before`` (``... 1 d``), then all rows but the last."""
    return before if rows.shape[-2] == 1 else torch.cat([before, rows[..., :-1, :]], dim=-2)


class Window:
    """The last ``size`` rows for every new row, newest first; ``pad`` (``u b 1 d``) before the first."""

    def __init__(self, size: int, pad: Tensor):
        self.size = size
        self.past = pad.expand(*pad.shape[:-2], max(size - 1, 0), -1)

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """``size`` tensors like ``rows`` (``u b n d``): the rows, their predecessors, and so on."""
        if self.size < 2:
            return [rows] * self.size
        new = rows.shape[-2]
        seen = torch.cat([self.past, rows], dim=-2)
        self.past = seen[..., new:, :]
        last = self.size - 1
        return [seen[..., last - back : last - back + new, :] for back in range(self.size)]
