"""Transformers whose blocks are called through ``patches_replace["dit"]``, with their text among the arguments.

Before a block sees an injected prompt, the prompt passes the model's own text layers. The slot of a block holds one
patch: ours is put around whatever is there, in every pass again, so no later node can take it out.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

import comfy.ops
import torch
from torch import Tensor

from ..blocks.walk import ModelBlocks, SubBlock, stack
from .entries import InjectionError
from .host_hooks import Fused, Halves, Pair, before, with_argument
from .host_layers import Call, UNetLayers, untraced
from .passes import Pass


class SlotLayers(UNetLayers):
    """What these models have in common. ``text`` is the name of a block's text among its arguments."""

    kind, path, text = "", "blocks", "txt"

    def blocks(self, model: Any) -> ModelBlocks:
        network = model.diffusion_model
        count = len(network.get_submodule(self.path))
        return stack(self.kind, [f"{self.path}.{number}" for number in range(count)], self.width(network))

    def attach(self, model: Any) -> None:
        """Nothing: the slots are filled in every pass."""

    def enter(self, call: Call, current: Pass) -> None:
        replaced = dict(call.options.get("patches_replace", {}))
        slots, texts = dict(replaced.get("dit", {})), Texts(self, call, current)
        for layer in current.recipes:
            key = ("double_block", layer[1])
            slots[key] = _Swap(texts, layer, slots.get(key))
        replaced["dit"] = slots
        call.options["patches_replace"] = replaced

    def width(self, network: Any) -> int:
        """The width of the prompt's embedding; 0: it varies."""
        raise NotImplementedError

    def through(self, texts: "Texts", tokens: Tensor, args: dict[str, Any]) -> Tensor:
        """A text after the model's own text layers, as a block takes it."""
        raise NotImplementedError

    def attention(self, block: Any) -> Pair | Fused:
        """The cross-attention of a block."""
        raise NotImplementedError

    def arguments(
        self, texts: "Texts", layer: SubBlock, block: Any, args: dict[str, Any], stack: ExitStack
    ) -> dict[str, Any]:
        """The arguments of a block that change."""
        keys, values = texts.after(layer, lambda tokens: self.through(texts, tokens, args))
        return {self.text: self.attention(block).text(stack, keys, values)}

    def run(self, block: Any, args: dict[str, Any], original: Any) -> dict[str, Any]:
        """Run a block as it is, with these arguments."""
        return original(args)


class Texts:
    """The texts of one pass after the model's text layers, each computed once."""

    def __init__(self, layers: SlotLayers, call: Call, current: Pass):
        self.layers, self.call, self.current = layers, call, current
        self.network = call.model.diffusion_model
        self.done: dict[Any, Any] = {}  # tensors hash by identity

    def once(self, given: Any, make: Callable[[Any], Any]) -> Any:
        """What ``make`` returned for this tensor, or these, the first time."""
        if given not in self.done:
            self.done[given] = make(given)
        return self.done[given]

    def after(self, layer: SubBlock, through: Callable[[Tensor], Any]) -> tuple[Any, Any]:
        """What ``through`` makes of a layer's keys' text and of its values' text; one object where they agree."""
        keys, values = self.current.ready[layer]
        return self.once(keys, through), self.once(values, through)


class _Swap:
    """What stands in a block's slot during one pass: the block, or the patch that was there, with another text."""

    def __init__(self, texts: Texts, layer: SubBlock, inner: Any):
        self.texts, self.layer, self.inner = texts, layer, inner

    @untraced
    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        texts, layers = self.texts, self.texts.layers
        check_rows(args[layers.text].shape[0], texts.current)
        block = texts.network.get_submodule(f"{layers.path}.{self.layer[1]}")

        def original(given: dict[str, Any]) -> dict[str, Any]:
            return layers.run(block, given, extra["original_block"])

        with ExitStack() as stack:
            args = {**args, **layers.arguments(texts, self.layer, block, args, stack)}
            if self.inner is None:
                return original(args)
            return self.inner(args, {**extra, "original_block": original})


def check_rows(rows: int, current: Pass) -> None:
    """InjectionError where a block sees other rows of text than those of the pass."""
    if rows != current.rows:
        raise InjectionError(
            f"A block of this model sees {rows} rows of text where the pass has {current.rows}: another node changes "
            "them first. Remove that node, or the block prompts."
        )


class WanLayers(SlotLayers):
    """Wan 2.1 and 2.2: the text passes ``text_embedding``; image tokens stay in front of it."""

    kind = "Wan"

    def width(self, network: Any) -> int:
        return network.text_embedding[0].weight.shape[1]

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        return texts.network.text_embedding(tokens)

    def arguments(
        self, texts: Texts, layer: SubBlock, block: Any, args: dict[str, Any], stack: ExitStack
    ) -> dict[str, Any]:
        text = super().arguments(texts, layer, block, args, stack)[self.text]
        front = args[self.text].shape[1] - texts.current.context.shape[1]
        return {self.text: torch.cat([args[self.text][:, :front], text], dim=1) if front > 0 else text}

    def attention(self, block: Any) -> Pair:
        return Pair(block.cross_attn.k, block.cross_attn.v)


class StableAudioLayers(SlotLayers):
    """Stable Audio 1: the text, with the two times behind it, passes ``to_cond_embed``."""

    kind, path, plain_text = "Stable Audio", "transformer.layers", False

    def width(self, network: Any) -> int:
        return network.to_cond_embed[0].weight.shape[1]

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        return texts.network.to_cond_embed(tokens)

    def attention(self, block: Any) -> Fused:
        return Fused(block.cross_attn.to_kv, 3 if block.cross_attn.differential else 2)


class KandinskyLayers(SlotLayers):
    """Kandinsky 5: the text passes an embedder and the text blocks, which also see the time.

    ComfyUI's ``original_block`` for this model gives the block arguments that it does not have, so the block is
    called here.
    """

    kind, path, text = "Kandinsky 5", "visual_transformer_blocks", "context"
    repeats = False

    def width(self, network: Any) -> int:
        return network.text_embeddings.in_layer.weight.shape[1]

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        network, options = texts.network, args["transformer_options"]
        text = network.text_embeddings(tokens)
        place = {"device": text.device, "dtype": text.dtype, "transformer_options": options}
        freqs = network.rope_encode_1d(tokens.shape[1], **place)
        for block in network.text_transformer_blocks:
            text = block(text, args["time_embed"], freqs, transformer_options=options)
        return text

    def attention(self, block: Any) -> Pair:
        return Pair(block.cross_attention.to_key, block.cross_attention.to_value)

    def run(self, block: Any, args: dict[str, Any], original: Any) -> dict[str, Any]:
        names = ("x", "context", "time_embed", "freqs")
        return {"x": block(*(args[name] for name in names), transformer_options=args["transformer_options"])}


class LTXVLayers(SlotLayers):
    """LTXV: the text passes ``caption_projection``; each prompt has a mask, which goes with it."""

    kind, path = "LTXV", "transformer_blocks"
    beside: ClassVar = {"attention_mask": "attention_mask"}
    masks: ClassVar = frozenset(beside)

    def width(self, network: Any) -> int:
        return network.caption_channels

    def attention(self, block: Any) -> Pair:
        return Halves(block.attn2.to_k, block.attn2.to_v)

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Any:
        return texts.network._prepare_context(tokens, tokens.shape[0], args["img"])[0]

    def arguments(
        self, texts: Texts, layer: SubBlock, block: Any, args: dict[str, Any], stack: ExitStack
    ) -> dict[str, Any]:
        changed = super().arguments(texts, layer, block, args, stack)
        return changed | self.mask(texts, layer, args["img"].dtype)

    def mask(self, texts: Texts, layer: SubBlock, dtype: torch.dtype) -> dict[str, Any]:
        """The mask of a layer's keys, as its blocks take it."""
        beside = texts.current.beside.get("attention_mask")
        if beside is None:
            return {}
        mask = beside.ready[layer][0].squeeze(-1)
        return {"attention_mask": texts.network._prepare_attention_mask(mask, dtype)}


class LTXAVLayers(LTXVLayers):
    """LTX-2: one text for the video and one for the audio, side by side in a prompt."""

    kind, text, plain_text = "LTX-2", "v_context", False

    def width(self, network: Any) -> int:
        return 0

    def arguments(
        self, texts: Texts, layer: SubBlock, block: Any, args: dict[str, Any], stack: ExitStack
    ) -> dict[str, Any]:
        changed = self.mask(texts, layer, args["img"][0].dtype)
        keys, values = texts.after(layer, lambda tokens: self.through(texts, tokens, args))
        for number, (name, cross) in enumerate(
            (("v_context", block.attn2), ("a_context", block.audio_attn2))
        ):
            pair = Halves(cross.to_k, cross.to_v)
            same = keys is values
            changed[name] = pair.text(stack, keys[number], keys[number] if same else values[number])
        return changed


class HunyuanDiTLayers(SlotLayers):
    """HunyuanDiT: the text is that of CLIP and, after ``mlp_t5``, that of T5, with its own tokens where masked.

    T5's states are pooled into the time embedding, too.
    """

    kind, repeats, pools = "HunyuanDiT", False, "encoder_hidden_states_t5"
    beside: ClassVar = {
        "text_embedding_mask": "attention_mask",
        "encoder_hidden_states_t5": "conditioning_mt5xl",
        "text_embedding_mask_t5": "attention_mask_mt5xl",
    }
    masks: ClassVar = frozenset({"text_embedding_mask", "text_embedding_mask_t5"})

    def width(self, network: Any) -> int:
        return network.text_states_dim

    def attention(self, block: Any) -> Fused:
        return Fused(block.attn2.kv_proj)

    def enter(self, call: Call, current: Pass) -> None:
        super().enter(call, current)
        if current.pooled is not None:
            pooled, pooler = current.pooled, call.model.diffusion_model.pooler
            before(call.stack, pooler, lambda args, kwargs: with_argument(args, kwargs, 0, "x", pooled))

    def arguments(
        self, texts: Texts, layer: SubBlock, block: Any, args: dict[str, Any], stack: ExitStack
    ) -> dict[str, Any]:
        current, network = texts.current, texts.network
        beside = [current.beside[name].ready[layer] for name in self.beside]
        keys, values = (
            texts.once(
                (current.ready[layer][half], *(one[half] for one in beside)),
                lambda parts: self.joined(network, *parts),
            )
            for half in (0, 1)
        )
        return {self.text: self.attention(block).text(stack, keys, values)}

    def joined(self, network: Any, clip: Tensor, mask: Tensor, t5: Tensor, t5_mask: Tensor) -> Tensor:
        """The text of a block, as the model joins it."""
        rows, count, width = t5.shape
        t5 = network.mlp_t5(t5.view(-1, width)).view(rows, count, -1)
        padding = comfy.ops.cast_to_input(network.text_embedding_padding, clip)
        return torch.cat(
            [
                _padded(clip, mask, padding[: network.text_len]),
                _padded(t5, t5_mask, padding[network.text_len :]),
            ],
            dim=1,
        )


def _padded(states: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
    """``states`` with the model's own tokens in the last places where the mask is zero."""
    last = len(padding)
    kept = torch.where(mask[:, -last:].bool(), states[:, -last:], padding)
    return torch.cat([states[:, :-last], kept], dim=1)
