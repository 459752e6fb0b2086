"""The U-Net of a pixel stage (DeepFloyd IF, after ADM and Imagen's efficient U-Net), in plain torch.

Modules have diffusers' names, which LoRA files use. What depends on the text alone is computed by ``encode_text``,
once per sampling run, and passed to every ``forward``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import keys
from .unet_blocks import (
    GROUPS,
    RESIDUAL_SCALE,
    Attention,
    Residual,
    StepEmbedding,
    TextEmbedding,
    TextKV,
    sinusoid,
)
from .unet_config import UNetConfig, config_from_shapes


class TextStates(NamedTuple):
    """What a U-Net needs of a text: pooled embedding (``b time_dim``), keys and values per attention."""

    pooled: Tensor
    kv: list[TextKV]


class Stack(nn.Module):
    """The blocks of one level on one side; missing lists are empty."""

    def __init__(self, **lists: Sequence[nn.Module]):
        super().__init__()
        for name, modules in lists.items():
            if modules:
                self.add_module(name, nn.ModuleList(modules))

    def all(self, name: str) -> list[Any]:
        """The modules of one list, none where the stack has no such list."""
        return list(cast(nn.ModuleList, self.get_submodule(name))) if hasattr(self, name) else []

    def blocks(self) -> Iterator[tuple[Residual, Attention | None]]:
        """Residual blocks, each with the attention that follows it."""
        resnets, attentions = self.all("resnets"), self.all("attentions")
        return zip(resnets, attentions or [None] * len(resnets), strict=True)


class PixelUNet(nn.Module):
    """A stage's U-Net; build one with ``from_state_dict``.

    ``operations`` is a namespace with ``Linear``, ``Conv2d``, ``GroupNorm`` and ``LayerNorm``.
    """

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config, self.dtype = config, dtype
        ops, kwargs = operations, {"dtype": dtype, "device": device}
        widths, layers, time_dim = config.widths, config.layers, config.time_dim
        top = len(widths) - 1
        scale = RESIDUAL_SCALE if config.super_resolution else 1.0

        def residual(channels: int, out: int, resample: str = "") -> Residual:
            return Residual(channels, out, time_dim, ops, resample=resample, scale=scale, **kwargs)

        def attention(width: int, kind: str) -> Attention:
            joint = kind == "joint"
            return Attention(width, config.context_dim, config.head_channels, joint, ops, **kwargs)

        self.time_embedding = StepEmbedding(widths[0], time_dim, ops, **kwargs)
        if config.super_resolution:
            self.class_embedding = StepEmbedding(widths[0], time_dim, ops, **kwargs)
        if config.projects_text:
            self.encoder_hid_proj = ops.Linear(config.text_dim, config.context_dim, **kwargs)
        self.add_embedding = TextEmbedding(config.text_dim, time_dim, config.pool_heads, ops, **kwargs)
        self.conv_in = ops.Conv2d(config.in_channels, widths[0], 3, padding=1, **kwargs)

        skips, channels = [widths[0]], widths[0]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            resnets = [residual(channels if s == 0 else width, width) for s in range(layers[level])]
            kind = config.attention[level]
            attentions = [attention(width, kind) for _ in resnets if kind != "none"]
            downsamplers = [residual(width, width, "down")] if level < top else []
            self.down_blocks.append(Stack(resnets=resnets, attentions=attentions, downsamplers=downsamplers))
            skips += [width] * (len(resnets) + len(downsamplers))
            channels = width

        self.mid_block = Stack(
            resnets=[residual(channels, channels), residual(channels, channels)],
            attentions=[attention(channels, config.middle_attention)],
        )

        self.up_blocks = nn.ModuleList()
        for level in range(top, -1, -1):
            resnets, attentions, width = [], [], widths[level]
            for _ in range(layers[level] + 1):
                resnets.append(residual(channels + skips.pop(), width))
                channels = width
                if config.attention[level] != "none":
                    attentions.append(attention(width, config.attention[level]))
            upsamplers = [residual(width, width, "up")] if level else []
            self.up_blocks.append(Stack(resnets=resnets, attentions=attentions, upsamplers=upsamplers))

        self.conv_norm_out = ops.GroupNorm(GROUPS, widths[0], **kwargs)
        self.conv_out = ops.Conv2d(widths[0], config.out_channels, 3, padding=1, **kwargs)

    def attentions(self) -> list[Attention]:
        """All attention blocks in the order of the forward pass."""
        stacks = cast(list[Stack], [*self.down_blocks, self.mid_block, *self.up_blocks])
        return [block for stack in stacks for block in stack.all("attentions")]

    def encode_text(self, text: Tensor, pooled_text: Tensor | None = None) -> TextStates:
        """Everything the U-Net derives from the text states (``b tokens text_dim``).

        ``pooled_text`` replaces the text in the pooled embedding alone (IF's style prompt).
        """
        context = self.project_text(text)
        pooled = self.add_embedding(text if pooled_text is None else pooled_text)
        return TextStates(pooled, [block.text_kv(context) for block in self.attentions()])

    def project_text(self, text: Tensor) -> Tensor:
        """The text states as the attention blocks take them (``b context_dim tokens``)."""
        context = self.encoder_hid_proj(text) if self.config.projects_text else text
        return context.transpose(1, 2).contiguous()

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        aug_steps: Tensor | None = None,
        text: TextStates | None = None,
    ) -> Tensor:
        """Predict noise, and variance where the stage learned it: ``b in h w`` -> ``b out h w``.

        ``timesteps`` (``b``) run from 0 to 999. The text comes as ``context`` (``b tokens text_dim``) or
        as ``text``, which ``encode_text`` made of it. ``aug_steps`` (``b``) is the noise level of the
        low-resolution image in the second half of a super-resolution stage's ``x``.
        """
        if text is None:
            if context is None:
                raise ValueError("An IF stage needs text. Pass context, or text from encode_text.")
            text = self.encode_text(context)
        widest = self.config.widths[0]
        emb = self.time_embedding(sinusoid(timesteps, widest, x.dtype)) + text.pooled
        if self.config.super_resolution:
            if aug_steps is None:
                raise ValueError(
                    "A super-resolution stage needs aug_steps, the noise level of its low-resolution image."
                )
            emb = emb + self.class_embedding(sinusoid(aug_steps, widest, x.dtype))
        emb = F.gelu(emb)  # every residual block activates it first, so it is done once

        # oneDNN's preference, and tokens are views; below 1024 pixels torch's group norm is 30 times slower so
        if x.device.type == "cpu" and x.shape[-2] * x.shape[-1] >= 1024:
            x = x.contiguous(memory_format=torch.channels_last)
        kv = iter(text.kv)
        h = self.conv_in(x)
        skips = [h]
        for stack in cast(list[Stack], self.down_blocks):
            for resnet, attention in stack.blocks():
                h = resnet(h, emb)
                if attention is not None:
                    h = attention(h, next(kv))
                skips.append(h)
            for resnet in stack.all("downsamplers"):
                h = resnet(h, emb)
                skips.append(h)

        first, second = self.mid_block.all("resnets")
        (attention,) = self.mid_block.all("attentions")
        h = second(attention(first(h, emb), next(kv)), emb)

        for stack in cast(list[Stack], self.up_blocks):
            for resnet, attention in stack.blocks():
                h = resnet(torch.cat([h, skips.pop()], dim=1), emb)
                if attention is not None:
                    h = attention(h, next(kv))
            for resnet in stack.all("upsamplers"):
                h = resnet(h, emb, skips[-1].shape[-2:])  # the skip's size, so that odd sizes work
        return self.conv_out(F.gelu(self.conv_norm_out(h)))


def describe(
    state_dict: Mapping[str, Tensor], *, head_channels: int = 64, pool_heads: int = 64
) -> UNetConfig:
    """The configuration of a state dict under diffusers' keys, after its keys and shapes are checked.

    KeysError names missing and unknown tensors, and those of another shape.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    config = config_from_shapes(shapes, head_channels, pool_heads)
    expected = {
        key: tuple(tensor.shape) for key, tensor in PixelUNet(config, device="meta").state_dict().items()
    }
    problems = [
        f"{label}: {', '.join(found[:3])}{' ...' if len(found) > 3 else ''} ({len(found)})"
        for label, found in (
            ("missing", sorted(expected.keys() - shapes.keys())),
            ("unknown", sorted(shapes.keys() - expected.keys())),
            ("of another shape", sorted(k for k in expected.keys() & shapes if expected[k] != shapes[k])),
        )
        if found
    ]
    if problems:
        raise keys.KeysError(
            f"This is not a complete IF stage. Its tensors do not fit together: {'; '.join(problems)}. Download the "
            "file again."
        )
    return config


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    operations: Any = nn,
    head_channels: int = 64,
    pool_heads: int = 64,
) -> nn.Module:
    """A stage's U-Net with these tensors (not copied where the format allows), in either released format.

    Everything but the two head counts is derived from the tensors' shapes; those are 64 in every
    released stage. KeysError when the state dict is not a complete stage.
    """
    converted = keys.to_diffusers(state_dict, head_channels)
    config = describe(converted, head_channels=head_channels, pool_heads=pool_heads)
    dtype = converted["conv_in.weight"].dtype
    unet = PixelUNet(config, operations, dtype, "meta")
    unet.load_state_dict(converted, assign=True)
    return unet.requires_grad_(False).eval()
