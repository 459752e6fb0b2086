"""Building blocks of the IF U-Net: residual block, attention over image and text, text pooling."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
RESIDUAL_SCALE = 0.7071  # the literal of the released super-resolution stages, not 1 / sqrt(2)

TextKV = tuple[Tensor, Tensor]


def sinusoid(timesteps: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Timesteps (``b``) as cosines, then sines, of geometric frequencies (``b dim``)."""
    half = dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * exponent.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


class StepEmbedding(nn.Module):
    """Linear, GELU, linear: a sinusoid (``b c``) to the embedding (``b time_dim``)."""

    def __init__(self, channels: int, time_dim: int, ops: Any, **kwargs: Any):
        super().__init__()
        self.linear_1 = ops.Linear(channels, time_dim, **kwargs)
        self.linear_2 = ops.Linear(time_dim, time_dim, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class Residual(nn.Module):
    """Residual block with FiLM from the time embedding, halving or doubling the image size where asked.

    ``resample`` is ``""``, ``"down"`` or ``"up"``; ``scale`` multiplies the sum of both branches.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        time_dim: int,
        ops: Any,
        *,
        resample: str = "",
        scale: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__()
        self.resample, self.scale = resample, scale
        self.norm1 = ops.GroupNorm(GROUPS, channels, **kwargs)
        self.conv1 = ops.Conv2d(channels, out, 3, padding=1, **kwargs)
        self.time_emb_proj = ops.Linear(time_dim, 2 * out, **kwargs)
        self.norm2 = ops.GroupNorm(GROUPS, out, **kwargs)
        self.conv2 = ops.Conv2d(out, out, 3, padding=1, **kwargs)
        self.conv_shortcut = ops.Conv2d(channels, out, 1, **kwargs) if channels != out else None

    def forward(self, x: Tensor, emb: Tensor, size: torch.Size | None = None) -> Tensor:
        """``x`` (``b c h w``), the activated embedding (``b time_dim``), and the size to grow to."""
        h = F.gelu(self.norm1(x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = F.interpolate(h, size, mode="nearest"), F.interpolate(x, size, mode="nearest")
        h = self.conv1(h)
        scale, shift = self.time_emb_proj(emb)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(F.gelu(h))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + h if self.scale == 1.0 else (x + h) * self.scale


class Attention(nn.Module):
    """Image tokens attend to the text's keys and values, put before their own (Imagen, section D.1).

    ``joint`` False leaves out the image's own keys and values, as the super-resolution stages do.
    """

    def __init__(self, channels: int, context_dim: int, head: int, joint: bool, ops: Any, **kwargs: Any):
        super().__init__()
        self.head, self.joint = head, joint
        self.group_norm = ops.GroupNorm(GROUPS, channels, **kwargs)
        self.norm_cross = ops.GroupNorm(GROUPS, context_dim, **kwargs)
        self.to_q = ops.Linear(channels, channels, **kwargs)
        if joint:
            self.to_k = ops.Linear(channels, channels, **kwargs)
            self.to_v = ops.Linear(channels, channels, **kwargs)
        self.add_k_proj = ops.Linear(context_dim, channels, **kwargs)
        self.add_v_proj = ops.Linear(context_dim, channels, **kwargs)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **kwargs)])

    def text_kv(self, context: Tensor) -> TextKV:
        """Keys and values (``b heads tokens d``) of the projected text (``b c tokens``)."""
        tokens = self.norm_cross(context).transpose(1, 2)
        return self._heads(self.add_k_proj(tokens)), self._heads(self.add_v_proj(tokens))

    def forward(self, x: Tensor, text: TextKV) -> Tensor:
        """``x`` (``b c h w``) plus the output of attention."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q = self._heads(self.to_q(tokens))
        k, v = text
        if self.joint:
            k = torch.cat([k, self._heads(self.to_k(tokens))], dim=2)
            v = torch.cat([v, self._heads(self.to_v(tokens))], dim=2)
        read = F.scaled_dot_product_attention(q, k, v)
        read = self.to_out[0](read.transpose(1, 2).flatten(2))
        return x + read.transpose(1, 2).reshape(x.shape)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (-1, self.head)).transpose(1, 2)


class AttentionPooling(nn.Module):
    """The mean token of the text attends to all tokens and itself: ``b tokens dim`` -> ``b dim``."""

    def __init__(self, dim: int, heads: int, ops: Any, **kwargs: Any):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(1, dim, **kwargs))
        self.k_proj = ops.Linear(dim, dim, **kwargs)
        self.q_proj = ops.Linear(dim, dim, **kwargs)
        self.v_proj = ops.Linear(dim, dim, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True) + self.positional_embedding.to(x)
        x = torch.cat([mean, x], dim=1)
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(mean), self.k_proj(x), self.v_proj(x))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)


class TextEmbedding(nn.Module):
    """Pools the raw text states (``b tokens text_dim``) into an embedding (``b time_dim``)."""

    def __init__(self, text_dim: int, time_dim: int, heads: int, ops: Any, **kwargs: Any):
        super().__init__()
        self.norm1 = ops.LayerNorm(text_dim, **kwargs)
        self.pool = AttentionPooling(text_dim, heads, ops, **kwargs)
        self.proj = ops.Linear(text_dim, time_dim, **kwargs)
        self.norm2 = ops.LayerNorm(time_dim, **kwargs)

    def forward(self, text: Tensor) -> Tensor:
        return self.norm2(self.proj(self.pool(self.norm1(text))))
