"""Transformers with cross-attention: where their blocks take the text, and why the others are refused.

Anima and Cosmos Predict2 have a list of patches in each cross-attention (``attn2_patch``, keywords in, a dictionary
out), so keys and values can have prompts of their own. Wan, Kandinsky 5 and Stable Audio hand each block its text
through ``patches_replace["dit"]``; there an injected prompt first passes the model's own text layers. That slot holds
one patch per block: ours is put around whatever is there, in every pass anew, so no later node can take it out.
"""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.walk import ModelBlocks, NotAUNet, SubBlock, stack
from .entries import InjectionError
from .host_carry import PASS_KEY
from .host_layers import UNetLayers, in_front, own_rows, untraced
from .passes import Pass


class CosmosLayers(UNetLayers):
    """Cosmos Predict2: a patch per cross-attention, keys and values apart."""

    kind = "Cosmos Predict2"

    def blocks(self, model: Any) -> ModelBlocks:
        blocks = model.diffusion_model.blocks
        return stack(
            self.kind, "blocks", len(blocks), blocks[0].cross_attn.k_proj.weight.shape[1], apart=True
        )

    def attach(self, model: ModelPatcher) -> None:
        in_front(model.model_options["transformer_options"], cosmos_patch)

    def enter(self, options: dict[str, Any], model: Any, current: Pass) -> None:
        in_front(options, cosmos_patch)


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


class SlotLayers(UNetLayers):
    """Models whose blocks are called through ``patches_replace["dit"]`` with their text among the arguments."""

    kind, path, text = "", "blocks", "txt"

    def blocks(self, model: Any) -> ModelBlocks:
        network = model.diffusion_model
        blocks = network.get_submodule(self.path)
        return stack(self.kind, self.path, len(blocks), self.width(network), apart=False)

    def attach(self, model: ModelPatcher) -> None:
        """Nothing: the slots are filled in every pass."""

    def enter(self, options: dict[str, Any], model: Any, current: Pass) -> None:
        replaced = dict(options.get("patches_replace", {}))
        slots = dict(replaced.get("dit", {}))
        done: dict[Tensor, Tensor] = {}  # texts after the model's text layers, in this pass
        for layer in current.recipes:
            key = ("double_block", layer[1])
            slots[key] = _Swap(self, model.diffusion_model, current, layer, done, slots.get(key))
        replaced["dit"] = slots
        options["patches_replace"] = replaced

    def width(self, network: Any) -> int:
        """The width of the prompt's embedding."""
        raise NotImplementedError

    def through(self, network: Any, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        """A text after the model's own text layers, as a block takes it."""
        raise NotImplementedError

    def run(self, network: Any, number: int, args: dict[str, Any], original: Any) -> dict[str, Any]:
        """Run a block as it is, with these arguments."""
        return original(args)


class _Swap:
    """What stands in a block's slot during one pass: the block, or the patch that was there, with another text."""

    def __init__(
        self,
        layers: SlotLayers,
        network: Any,
        current: Pass,
        layer: SubBlock,
        done: dict[Tensor, Tensor],
        inner: Any,
    ):
        self.layers, self.network, self.current = layers, network, current
        self.layer, self.done, self.inner = layer, done, inner

    @untraced
    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        layers, own = self.layers, args[self.layers.text]
        if own.shape[0] != self.current.rows:
            raise InjectionError(
                f"A block of this model sees {own.shape[0]} rows of text where the pass has {self.current.rows}: "
                "another node changes them first. Remove that node, or the block prompts."
            )
        tokens, _ = self.current.ready[self.layer]
        if tokens not in self.done:
            self.done[tokens] = layers.through(self.network, tokens, args)
        text = self.done[tokens]
        front = (
            own.shape[1] - self.current.context.shape[1]
        )  # what the model puts before the text: image tokens
        text = text if front <= 0 else torch.cat([own[:, :front], text], dim=1)
        args = {**args, layers.text: text}

        def original(given: dict[str, Any]) -> dict[str, Any]:
            return layers.run(self.network, self.layer[1], given, extra["original_block"])

        return (
            original(args) if self.inner is None else self.inner(args, {**extra, "original_block": original})
        )


class WanLayers(SlotLayers):
    """Wan 2.1 and 2.2: the text passes ``text_embedding``; image tokens stay in front of it."""

    kind = "Wan"

    def width(self, network: Any) -> int:
        return network.text_embedding[0].weight.shape[1]

    def through(self, network: Any, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        return network.text_embedding(tokens)


class StableAudioLayers(SlotLayers):
    """Stable Audio 1: the text, with the two times behind it, passes ``to_cond_embed``."""

    kind, path, plain_text = "Stable Audio", "transformer.layers", False

    def blocks(self, model: Any) -> ModelBlocks:
        if any(layer.to_local_embed is not None for layer in model.diffusion_model.transformer.layers):
            raise NotAUNet(
                "Block prompts are not available for Stable Audio 3: ComfyUI's slot for a block leaves out its local "
                "conditioning. Use Stable Audio 1."
            )
        return super().blocks(model)

    def width(self, network: Any) -> int:
        return network.to_cond_embed[0].weight.shape[1]

    def through(self, network: Any, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        return network.to_cond_embed(tokens)


class KandinskyLayers(SlotLayers):
    """Kandinsky 5: the text passes an embedder and the text blocks, which also see the time.

    ComfyUI's ``original_block`` for this model gives the block arguments that it does not have, so the block is
    called here.
    """

    kind, path, text = "Kandinsky 5", "visual_transformer_blocks", "context"
    repeats = False

    def width(self, network: Any) -> int:
        return network.text_embeddings.in_layer.weight.shape[1]

    def through(self, network: Any, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        options, text = args["transformer_options"], network.text_embeddings(tokens)
        place = {"device": text.device, "dtype": text.dtype, "transformer_options": options}
        freqs = network.rope_encode_1d(tokens.shape[1], **place)
        for block in network.text_transformer_blocks:
            text = block(text, args["time_embed"], freqs, transformer_options=options)
        return text

    def run(self, network: Any, number: int, args: dict[str, Any], original: Any) -> dict[str, Any]:
        names = ("x", "context", "time_embed", "freqs")
        block = network.visual_transformer_blocks[number]
        return {"x": block(*(args[name] for name in names), transformer_options=args["transformer_options"])}


U_NET = UNetLayers()
KINDS: dict[str, UNetLayers] = {
    "Anima": AnimaLayers(),
    "MiniTrainDIT": CosmosLayers(),
    "WanModel": WanLayers(),
    "Kandinsky5": KandinskyLayers(),
    "AudioDiffusionTransformer": StableAudioLayers(),
}
UNSUPPORTED = {  # class in comfy.ldm -> why its blocks cannot be given prompts of their own
    "VaceWanModel": "its VACE blocks read the text where ComfyUI offers no place to change it",
    "CausalWanModel": "ComfyUI offers no place to change the text of its blocks",
    "LTXVModel": "each prompt has a mask that ComfyUI joins for all blocks",
    "LTXAVModel": "its blocks read a video text and an audio text, with masks joined for all blocks",
    "HunYuanDiT": "its text is joined of two encoders' outputs inside the model",
    "PixArtMS": "ComfyUI joins the prompts of a batch into one row there, and offers no place to change them",
    "GeneralDIT": "ComfyUI offers no place to change the text of one Cosmos 1 block",
    "PixelUNet": "an IF stage joins the text with its image tokens in one attention, and block prompts are not built for it",
    "StageC": "its blocks attend to the text and to their own tokens at once",
    "StageB": "its blocks attend to the text and to their own tokens at once",
}
ADVICE = (
    "Use a model of the SD1, SD2 or SDXL family, Anima, Cosmos Predict2, Wan, Kandinsky 5 or Stable Audio."
)


def layers_of(model: Any) -> UNetLayers:
    """The kind of a loaded model (``ModelPatcher.model``); NotAUNet where its blocks cannot be addressed."""
    network = model.diffusion_model
    if hasattr(network, "input_blocks"):
        return U_NET
    names = [kind.__name__ for kind in type(network).__mro__]
    for name in names:
        if name in UNSUPPORTED:
            raise NotAUNet(f"Block prompts are not available for {names[0]}: {UNSUPPORTED[name]}. {ADVICE}")
        if name in KINDS:
            return KINDS[name]
    raise NotAUNet(
        f"{names[0]} has no cross-attention blocks that can be addressed. Models with joint attention (SD3, Flux, "
        f"Qwen-Image, Z-Image, ...) change the text from block to block, so a block has no prompt to replace. {ADVICE}"
    )
