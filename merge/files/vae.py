"""Baking a VAE into a merge: which tensors of a file are its VAE, under which names, and whether they fit."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...blocks.keys import ALONE, PREFIXES, VAE_PART, part_of
from ..errors import MergeError
from .checkpoint import Checkpoint
from .header import Entry

FIRST_STAGE = "first_stage_model."
ENOUGH_HALF = "encoder.conv_in.weight", "decoder.conv_in.weight"
_NOT_WEIGHTS = ("loss.", "model_ema.", "discriminator.")
_BLOCK = re.compile(
    r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_ATTENTION = {
    "group_norm": "norm", "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


@dataclass(frozen=True)
class Baked:
    """A tensor of a VAE: the key in its file, and dtype and shape as the merge holds them."""

    key: str
    entry: Entry


def baked(vae: Checkpoint, a: Checkpoint) -> dict[str, Baked]:
    """The VAE of ``vae`` by the keys that it has in a merge with A; MergeError unless it is a whole one that fits.

    A VAE fits when it has the keys and shapes of A's own. Where A has none, its latent channels must be those
    that A's U-Net takes.
    """
    found = {FIRST_STAGE + name: Baked(key, entry) for name, key, entry in _tensors(vae)}
    if not found:
        raise MergeError(f"{vae.name} contains no VAE. Choose a VAE file, or a checkpoint that has one.")
    for half in ENOUGH_HALF:
        if FIRST_STAGE + half not in found:
            part = half.partition(".")[0]
            raise MergeError(f"{vae.name} is not a whole VAE: it has no {part}. Choose a whole VAE.")
    own = {
        key: entry.shape
        for key, entry in a.entries.items()
        if part_of(key) == VAE_PART and not key.removeprefix(FIRST_STAGE).startswith(_NOT_WEIGHTS)
    }
    if not own:
        _check_channels(vae.name, found, a)
        return found
    _check_same(vae.name, {key: it.entry.shape for key, it in found.items()}, own)
    return {key: Baked(it.key, Entry(it.entry.dtype, own[key])) for key, it in found.items()}


def _tensors(vae: Checkpoint) -> Iterator[tuple[str, str, Entry]]:
    """The VAE's tensors: the name without prefix, in ComfyUI's form, the key in the file, dtype and shape."""
    keys = list(vae.entries)
    alone = PREFIXES[ALONE][0]
    prefix = next((p for p in PREFIXES[VAE_PART] if any(key.startswith(p) for key in keys)), alone)
    names = {key[len(prefix) :]: key for key in keys if key.startswith(prefix)}
    diffusers = any(".down_blocks." in name or ".up_blocks." in name for name in names)
    if prefix == alone and not any(name.startswith(("encoder.", "decoder.")) for name in names):
        return
    for name, key in names.items():
        if name.startswith(_NOT_WEIGHTS):
            continue
        entry = Entry(vae.entries[key].dtype, vae.entries[key].shape)  # core's VAEs are not quantised
        yield _converted(name, key, entry) if diffusers else (name, key, entry)


def _converted(name: str, key: str, entry: Entry) -> tuple[str, str, Entry]:
    """A diffusers name as ComfyUI writes it; linear layers of attention are convolutions there."""
    if match := _BLOCK.fullmatch(name):
        side, level, kind, number, rest = match.groups()
        if side == "decoder.up":
            level = str(3 - int(level))
        rest = rest.replace("conv_shortcut.", "nin_shortcut.")
        if kind == "resnets":
            return f"{side}.{level}.block.{number}.{rest}", key, entry
        return f"{side}.{level}.{'down' if side == 'encoder.down' else 'up'}sample.{rest}", key, entry
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}", key, entry
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        layer = _ATTENTION.get(match[2], match[2])
        if layer != "norm" and match[3] == "weight" and len(entry.shape) == 2:
            entry = Entry(entry.dtype, (*entry.shape, 1, 1))
        return f"{match[1]}.mid.attn_1.{layer}.{match[3]}", key, entry
    return name.replace(".conv_norm_out.", ".norm_out."), key, entry


def _check_same(name: str, found: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> None:
    missing = [key for key in own if key not in found]
    extra = [key for key in found if key not in own]
    if missing or extra:
        what, keys = ("lacks", missing) if missing else ("has", extra)
        raise MergeError(
            f"The VAE of {name} is not of the same kind as A's: it {what} {len(keys)} tensors, first {keys[0]}. "
            "Choose a VAE for this kind of model."
        )
    for key, shape in own.items():
        if _without_ones(found[key]) != _without_ones(shape):
            raise MergeError(
                f"The VAE of {name} does not fit A: {key} has the shape {list(found[key])}, A's has {list(shape)}. "
                "Choose a VAE for this kind of model."
            )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without ones at its end: a linear layer and a 1x1 convolution hold the same numbers."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_channels(name: str, found: Mapping[str, Baked], a: Checkpoint) -> None:
    latent = found[FIRST_STAGE + ENOUGH_HALF[1]].entry.shape
    convolution = a.entries.get("model.diffusion_model.input_blocks.0.0.weight")
    if convolution is None:
        raise MergeError(
            f"{a.name} has no VAE, and it is not a U-Net, so no VAE can be checked against it. Use a checkpoint with a VAE."
        )
    takes, gives = convolution.shape[1], latent[1] if len(latent) > 1 else math.nan
    if gives != 4 or takes not in (4, 8, 9):
        raise MergeError(
            f"The VAE of {name} has {gives} latent channels and the U-Net of {a.name} takes {takes} channels. "
            "Choose a VAE for this kind of model."
        )
