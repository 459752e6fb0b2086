"""Transformers with cross-attention: where their blocks take the text, and why the others are refused.

Anima and Cosmos Predict2 have a list of patches in each cross-attention (``attn2_patch``, keywords in, a dictionary
out). ``host_slots`` has the models that hand each block its text through ``patches_replace["dit"]``, ``host_modules``
those without such a place.
"""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.walk import ModelBlocks, NotAUNet, stack
from .host_carry import PASS_KEY
from .host_layers import Call, UNetLayers, in_front, own_rows, untraced
from .host_modules import (
    CascadeLayers,
    CausalWanLayers,
    Cosmos1Layers,
    PixArtLayers,
    StableAudio3Layers,
    StageLayers,
    VaceLayers,
)
from .host_slots import (
    HunyuanDiTLayers,
    KandinskyLayers,
    LTXAVLayers,
    LTXVLayers,
    StableAudioLayers,
    WanLayers,
)
from .passes import Pass


class CosmosLayers(UNetLayers):
    """Cosmos Predict2: a patch per cross-attention, keys and values apart."""

    kind = "Cosmos Predict2"

    def blocks(self, model: Any) -> ModelBlocks:
        blocks = model.diffusion_model.blocks
        paths = [f"blocks.{number}" for number in range(len(blocks))]
        return stack(self.kind, paths, blocks[0].cross_attn.k_proj.weight.shape[1])

    def attach(self, model: ModelPatcher) -> None:
        in_front(model.model_options["transformer_options"], cosmos_patch)

    def enter(self, call: Call, current: Pass) -> None:
        in_front(call.options, cosmos_patch)


class AnimaLayers(CosmosLayers):
    """Anima: Cosmos' blocks after an adapter that joins two text encoders."""

    kind = "Anima"
    plain_text = False

    def prepared(self, model: Any, made: dict[str, Any], device: torch.device) -> Tensor:
        """The text after the adapter, which ComfyUI leaves to the model itself outside of inference mode."""
        tokens = made["c_crossattn"].cond
        if "t5xxl_ids" not in made:
            return tokens
        dtype = model.get_dtype_inference()
        ids, weights = made["t5xxl_ids"].cond.to(device), made["t5xxl_weights"].cond.to(device, dtype)
        return model.diffusion_model.preprocess_text_embeds(tokens.to(device, dtype), ids, weights)


@untraced
def cosmos_patch(
    q: Tensor, k: Tensor, v: Tensor, *, extra_options: dict[str, Any], **kwargs: Any
) -> dict[str, Tensor]:
    """In a Cosmos block's cross-attention: the contexts it is to see; nothing changed where nothing acts."""
    current = extra_options.get(PASS_KEY)
    if current is None or not own_rows(current, q, k):
        return {}
    keys, values = current.contexts(("block", extra_options["block_index"], 0), k, v)
    return {"k": keys, "v": values}


U_NET = UNetLayers()
KINDS: dict[str, UNetLayers] = {  # class of the network -> its kind; subclasses come first where they differ
    "Anima": AnimaLayers(),
    "MiniTrainDIT": CosmosLayers(),
    "VaceWanModel": VaceLayers(),
    "CausalWanModel": CausalWanLayers(),
    "WanModel": WanLayers(),
    "Kandinsky5": KandinskyLayers(),
    "LTXAVModel": LTXAVLayers(),
    "LTXVModel": LTXVLayers(),
    "HunYuanDiT": HunyuanDiTLayers(),
    "PixArtMS": PixArtLayers(),
    "GeneralDIT": Cosmos1Layers(),
    "StageC": CascadeLayers(),
    "PixelUNet": StageLayers(),
}
AUDIO = "AudioDiffusionTransformer"
REFUSED = {  # class of the network -> why its blocks cannot have prompts of their own
    "StageB": "it reads the pooled embedding of the prompt only. Inject into Stage C",
    "NaDiT": "its text is part of the weights and not a prompt",
}
ADVICE = (
    "Use a model of the SD1, SD2 or SDXL family, Anima, Cosmos, Wan, LTXV, LTX-2, Kandinsky 5, HunyuanDiT, PixArt, "
    "Stable Cascade, Stable Audio or an IF stage."
)


def layers_of(model: Any) -> UNetLayers:
    """The kind of a loaded model (``ModelPatcher.model``); NotAUNet where its blocks cannot be addressed."""
    network = model.diffusion_model
    if hasattr(network, "input_blocks"):
        return U_NET
    names = [kind.__name__ for kind in type(network).__mro__]
    for name in names:
        if name in REFUSED:
            raise NotAUNet(f"Block prompts are not available for {names[0]}: {REFUSED[name]}.")
        if name == AUDIO:
            return StableAudio3Layers() if _is_stable_audio_3(network) else StableAudioLayers()
        if name in KINDS:
            return KINDS[name]
    raise NotAUNet(
        f"{names[0]} has no cross-attention blocks that can be addressed. Models with joint attention (SD3, Flux, "
        f"Qwen-Image, Z-Image, ...) change the text from block to block, so a block has no prompt to replace. {ADVICE}"
    )


def _is_stable_audio_3(network: Any) -> bool:
    """Whether blocks have local conditioning, which ComfyUI's slot for a block leaves out."""
    return any(layer.to_local_embed is not None for layer in network.transformer.layers)
