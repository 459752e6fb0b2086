"""State-dict keys of the two released formats, DeepFloyd's own and diffusers', converted without loss.

The modules of ``unet`` carry the diffusers names. In the original format an attention block packs its
projections, one head after the other (``q k v`` of head 0, then of head 1, ...), as 1x1 convolutions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

StateDict = Mapping[str, Tensor]

ORIGINAL_MARK = "encoder_pooling.1.positional_embedding"
DIFFUSERS_MARK = "add_embedding.pool.positional_embedding"

BASE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "aug_proj.0": "class_embedding.linear_1",
    "aug_proj.2": "class_embedding.linear_2",
    "encoder_proj": "encoder_hid_proj",
    "encoder_pooling.0": "add_embedding.norm1",
    "encoder_pooling.1.k_proj": "add_embedding.pool.k_proj",
    "encoder_pooling.1.q_proj": "add_embedding.pool.q_proj",
    "encoder_pooling.1.v_proj": "add_embedding.pool.v_proj",
    "encoder_pooling.2": "add_embedding.proj",
    "encoder_pooling.3": "add_embedding.norm2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "norm_encoder": "norm_cross"}
PROJECTIONS = {
    "qkv": ("to_q", "to_k", "to_v"),  # to_q alone where a block attends to the text only
    "encoder_kv": ("add_k_proj", "add_v_proj"),
    "proj_out": ("to_out.0",),
}
SUFFIXES = (".weight", ".bias")


class KeysError(ValueError):
    """The keys of a file are not those of an IF stage; the message names the first that do not fit."""


@dataclass(frozen=True)
class Layout:
    """What the block numbering depends on: residual blocks per level, and which levels have attention."""

    layers: tuple[int, ...]
    attends: tuple[bool, ...]

    @classmethod
    def of_original(cls, state_dict: StateDict) -> "Layout":
        """From the output blocks: a block whose last child is a residual block is the last of its level."""
        layers, attends, count, index = [], [], 0, 0
        while f"output_blocks.{index}.0.in_layers.0.weight" in state_dict:
            count += 1
            attending = f"output_blocks.{index}.1.qkv.weight" in state_dict
            if f"output_blocks.{index}.{1 + attending}.in_layers.0.weight" in state_dict:
                layers.append(count - 1)
                attends.append(attending)
                count = 0
            index += 1
        layers.append(count - 1)
        attends.append(f"output_blocks.{index - 1}.1.qkv.weight" in state_dict)
        return cls(tuple(layers[::-1]), tuple(attends[::-1]))

    @classmethod
    def of_diffusers(cls, state_dict: StateDict) -> "Layout":
        """From the down blocks, which are numbered level by level."""
        layers, attends = [], []
        while f"down_blocks.{len(layers)}.resnets.0.norm1.weight" in state_dict:
            level, count = len(layers), 0
            while f"down_blocks.{level}.resnets.{count}.norm1.weight" in state_dict:
                count += 1
            layers.append(count)
            attends.append(f"down_blocks.{level}.attentions.0.to_q.weight" in state_dict)
        return cls(tuple(layers), tuple(attends))

    def residuals(self) -> Iterator[tuple[str, str]]:
        """(original, diffusers) module names of all residual blocks."""
        yield "middle_block.0", "mid_block.resnets.0"
        yield "middle_block.2", "mid_block.resnets.1"
        top = len(self.layers) - 1
        index = 1
        for level, count in enumerate(self.layers):
            for s in range(count):
                yield f"input_blocks.{index + s}.0", f"down_blocks.{level}.resnets.{s}"
            index += count
            if level < top:
                yield f"input_blocks.{index}.0", f"down_blocks.{level}.downsamplers.0"
                index += 1
        index = 0
        for block, level in enumerate(range(top, -1, -1)):
            for s in range(self.layers[level] + 1):
                yield f"output_blocks.{index}.0", f"up_blocks.{block}.resnets.{s}"
                index += 1
            if level:
                child = 1 + self.attends[level]
                yield f"output_blocks.{index - 1}.{child}", f"up_blocks.{block}.upsamplers.0"

    def attentions(self) -> Iterator[tuple[str, str]]:
        """(original, diffusers) module names of all attention blocks."""
        yield "middle_block.1", "mid_block.attentions.0"
        top = len(self.layers) - 1
        index = 1
        for level, count in enumerate(self.layers):
            for s in range(count * self.attends[level]):
                yield f"input_blocks.{index + s}.1", f"down_blocks.{level}.attentions.{s}"
            index += count + 1
        index = 0
        for block, level in enumerate(range(top, -1, -1)):
            for s in range((self.layers[level] + 1) * self.attends[level]):
                yield f"output_blocks.{index + s}.1", f"up_blocks.{block}.attentions.{s}"
            index += self.layers[level] + 1

    def renamed(self) -> Iterator[tuple[str, str]]:
        """(original, diffusers) keys of every tensor that only changes its name."""
        yield ORIGINAL_MARK, DIFFUSERS_MARK
        modules = list(BASE.items())
        for original, diffusers in self.residuals():
            modules += [(f"{original}.{o}", f"{diffusers}.{d}") for o, d in RESIDUAL.items()]
        for original, diffusers in self.attentions():
            modules += [(f"{original}.{o}", f"{diffusers}.{d}") for o, d in ATTENTION.items()]
        for original, diffusers in modules:
            for suffix in SUFFIXES:
                yield original + suffix, diffusers + suffix


def format_of(state_dict: StateDict) -> str:
    """``"original"`` or ``"diffusers"``; KeysError when it is neither."""
    if ORIGINAL_MARK in state_dict:
        return "original"
    if DIFFUSERS_MARK in state_dict:
        return "diffusers"
    examples = ", ".join(sorted(state_dict)[:3]) or "none"
    raise KeysError(
        f"This is not an IF stage. Neither {ORIGINAL_MARK} (original format) nor {DIFFUSERS_MARK} (diffusers "
        f"format) is among its {len(state_dict)} keys; the first keys are {examples}. Choose the U-Net file of an IF "
        "stage."
    )


def to_diffusers(state_dict: StateDict, head_channels: int = 64) -> dict[str, Tensor]:
    """The same tensors under diffusers' keys; a state dict that has them already is returned unchanged.

    KeysError for a key that belongs to neither format.
    """
    rest = dict(state_dict)
    if format_of(rest) == "diffusers":
        return rest
    layout = Layout.of_original(rest)
    out = {diffusers: rest.pop(original) for original, diffusers in layout.renamed() if original in rest}
    for original, diffusers in layout.attentions():
        query = rest.get(f"{original}.qkv.weight")
        text_only = query is not None and query.shape[0] == query.shape[1]
        for packed, names in PROJECTIONS.items():
            names = names[:1] if packed == "qkv" and text_only else names
            for suffix in SUFFIXES:
                if f"{original}.{packed}{suffix}" in rest:
                    parts = _unpack(rest.pop(f"{original}.{packed}{suffix}"), len(names), head_channels)
                    for name, part in zip(names, parts, strict=True):
                        out[f"{diffusers}.{name}{suffix}"] = part
    _refuse(rest)
    return out


def to_original(state_dict: StateDict, head_channels: int = 64) -> dict[str, Tensor]:
    """The same tensors under DeepFloyd's keys; a state dict that has them already is returned unchanged.

    KeysError for a key that belongs to neither format.
    """
    rest = dict(state_dict)
    if format_of(rest) == "original":
        return rest
    layout = Layout.of_diffusers(rest)
    out = {original: rest.pop(diffusers) for original, diffusers in layout.renamed() if diffusers in rest}
    for original, diffusers in layout.attentions():
        for packed, names in PROJECTIONS.items():
            for suffix in SUFFIXES:
                keys = [f"{diffusers}.{name}{suffix}" for name in names]
                parts = [rest.pop(key) for key in keys if key in rest]
                if parts:
                    out[f"{original}.{packed}{suffix}"] = _pack(parts, head_channels)
    _refuse(rest)
    return out


def _unpack(packed: Tensor, parts: int, head: int) -> list[Tensor]:
    """A packed projection, weight ``(heads parts d) c 1`` or bias, as ``parts`` linear ones."""
    if packed.shape[0] % (head * parts):
        raise KeysError(
            f"An attention projection has {packed.shape[0]} rows. Expected a multiple of {parts * head}, for {parts} "
            f"projections with heads of {head} channels. The file is damaged or is not an IF stage."
        )
    linear = packed.squeeze(-1) if packed.ndim == 3 else packed
    split = rearrange(linear, "(heads part d) ... -> part (heads d) ...", part=parts, d=head)
    return [part.contiguous() for part in split]


def _pack(parts: list[Tensor], head: int) -> Tensor:
    """The inverse of ``_unpack``."""
    packed = rearrange(parts, "part (heads d) ... -> (heads part d) ...", d=head)
    return packed.unsqueeze(-1) if packed.ndim == 2 else packed


def _refuse(rest: dict[str, Tensor]) -> None:
    if rest:
        raise KeysError(
            f"{len(rest)} keys are not part of an IF stage, the first: {', '.join(sorted(rest)[:5])}. Choose a file "
            "with one complete stage I, II or III and nothing else."
        )
