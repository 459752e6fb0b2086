"""What kind of file a source is: under which prefix its tensors are, and whether they can be merged at all.

Merges hold every diffusion model under ``model.diffusion_model.``, whatever prefix the file itself uses, so that
files from ``diffusion_models`` and checkpoints merge with each other. Prefixes as in ComfyUI's
``unet_prefix_from_state_dict``.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...blocks.keys import (
    ALONE,
    AUDIO_MODEL,
    CHECKPOINT,
    COSMOS,
    MODEL,
    PLAIN,
    PREFIXES,
    TEXT,
    UNET,
    VAE_PART,
    part_of,
)
from ...blocks.names import INPUT_BLOCKS, BlockError
from ...blocks.stacks import KNOWN, read_layout
from ..errors import MergeError

ENOUGH = 5  # ComfyUI takes a prefix that more keys than this have
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_LORA = re.compile(r"\.(?:lora_(?:down|up|A|B|mid)\b|hada_w\d|lokr_w\d|oft_blocks\b|dora_scale$)")
_TEXT_OR_VAE = (
    "text_model.", "vision_model.", "transformer.resblocks.", "encoder.block.", "encoder.layer.", "encoder.layers.",
    "encoder.conv_in.", "decoder.conv_in.", "encoder.conv1.", "decoder.conv1.", "encoder.down", "decoder.up",
    "encoder.mid", "decoder.mid", "shared.weight", "embeddings.", "token_embedding", "model.embed_tokens.",
    "model.language_model.", "embed_tokens.", "lm_head.",
)  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """The prefix of a file's keys, and the one under which a merge holds them."""

    own: str
    held: str

    def hold(self, key: str) -> str:
        """The key of the file as merges name it."""
        return self.held + key[len(self.own) :] if self.held and key.startswith(self.own) else key

    def give_back(self, keys: Collection[str]) -> Mapping[str, str]:
        """The keys of a merge as a file of this naming has them; prefixes stay where other parts came in."""
        if not self.held or (not self.own and not all(key.startswith(self.held) for key in keys)):
            return {key: key for key in keys}
        return {key: self.own + key[len(self.held) :] if key.startswith(self.held) else key for key in keys}


AS_IT_IS = Naming("", "")


def naming_of(keys: Collection[str]) -> Naming:
    """How the keys of a file map to those of a merge."""
    counts = {
        prefix: sum(key.startswith(prefix) for key in keys) for prefix in (CHECKPOINT, AUDIO_MODEL, COSMOS)
    }
    if counts[CHECKPOINT]:
        return AS_IT_IS
    best = max(counts, key=lambda prefix: counts[prefix])
    if counts[best] > ENOUGH and (best == COSMOS or _is_diffusion(keys, best)):
        return Naming(best, CHECKPOINT)
    if any(key.startswith(MODEL) for key in keys):
        return Naming(MODEL, CHECKPOINT)
    if any(key.startswith(PLAIN) for key in keys) and _is_diffusion(keys, PLAIN):
        return Naming(PLAIN, CHECKPOINT)
    if any(part_of(key) in (UNET, TEXT, VAE_PART) for key in keys):
        return AS_IT_IS
    return Naming("", CHECKPOINT if _is_diffusion(keys, "") else PREFIXES[ALONE][0])


def _is_diffusion(keys: Collection[str], prefix: str) -> bool:
    inside = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
    if any(key.startswith(f"{INPUT_BLOCKS}.0.") for key in inside):
        return True
    if any(key.startswith(_TEXT_OR_VAE) for key in (*keys, *inside)):
        return False
    try:
        layout = read_layout(CHECKPOINT + key for key in inside)
    except BlockError:
        return False
    return any(stack.title in KNOWN for stack in layout.stacks)


def refuse_unmergeable(name: str, entries: Collection[str]) -> None:
    """MergeError for LoRAs, one shard of several, and models in the diffusers format."""
    for key in entries:
        if _LORA.search(key):
            raise MergeError(
                f"{name} is a LoRA (it has {key}). A merge needs whole models. Load the LoRA onto a model and save that."
            )
    if shard := _SHARD.search(name.removesuffix(".safetensors")):
        raise MergeError(
            f"{name} is part {int(shard[1])} of {int(shard[2])} of one model. Join the parts into one file first."
        )
    if what := _diffusers(entries):
        raise MergeError(
            f"{name} is {what} in the diffusers format. A merge needs ComfyUI's names. Use the single-file "
            "checkpoint, or load it in ComfyUI and save it."
        )


def _diffusers(keys: Collection[str]) -> str:
    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in keys)

    if has(
        "down_blocks.0.resnets.",
        "down_blocks.0.attentions.",
        "unet.down_blocks.",
        "down_blocks.1.attentions.",
    ):
        return "a U-Net"
    if has("single_transformer_blocks.", "transformer.single_transformer_blocks."):
        return "a transformer"
    if has("time_text_embed.") and has("context_embedder.") and has("transformer_blocks."):
        return "a transformer"
    return ""
