"""Models that offer no place to change the text of one block: hooks on their blocks do it, for one call."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import comfy.model_management
from torch import Tensor, nn

from ..blocks.walk import Block, ModelBlocks, NotAUNet, SubBlock, numbered, stack
from .entries import InjectionError
from .host_hooks import Arguments, Fused, Halves, Keywords, Pair, before, uncompiled, with_argument
from .host_layers import POOLED, Call, UNetLayers
from .host_slots import SlotLayers, StableAudioLayers, Texts, WanLayers, check_rows
from .passes import Pass


class ModuleLayers(SlotLayers):
    """What these models have in common: a block gets its text as the argument ``text``, or at ``place``."""

    place = 1

    def enter(self, call: Call, current: Pass) -> None:
        texts = Texts(self, call, current)
        for layer in current.recipes:
            self.hook(call.stack, self.module(texts.network, layer[1]), texts, layer)
        call.stack.enter_context(uncompiled())

    def module(self, network: Any, number: int) -> nn.Module:
        """The module of a block."""
        return network.get_submodule(f"{self.path}.{number}")

    def hook(self, stack: ExitStack, block: nn.Module, texts: Texts, layer: SubBlock) -> None:
        """Give a block the layer's text until ``stack`` closes."""
        inside = stack.enter_context(ExitStack())

        def change(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
            inside.close()  # what an earlier run of this block left
            own = kwargs[self.text] if self.text in kwargs else args[self.place]
            check_rows(self.rows(args, own), texts.current)
            text = self.arguments(texts, layer, block, {self.text: own}, inside)[self.text]
            return with_argument(args, self.others(kwargs), self.place, self.text, text)

        before(stack, block, change)

    def rows(self, args: Arguments, own: Tensor) -> int:
        """The rows of a block's text."""
        return own.shape[0]

    def others(self, kwargs: Keywords) -> Keywords:
        """The other arguments that a block gets by name."""
        return kwargs


class CausalWanLayers(ModuleLayers, WanLayers):
    """The causal Wan: as Wan; the keys and values that it keeps of its own text are left out."""

    text, place = "context", 3

    def others(self, kwargs: Keywords) -> Keywords:
        return {**kwargs, "crossattn_cache": None}


class _Followers(ModuleLayers, WanLayers):
    text = "context"


class VaceLayers(WanLayers):
    """Wan VACE: as Wan, and each VACE block reads the text of the block that it follows."""

    followers = _Followers()

    def enter(self, call: Call, current: Pass) -> None:
        super().enter(call, current)
        network = call.model.diffusion_model
        texts = Texts(self.followers, call, current)
        for layer in current.recipes:
            number = network.vace_layers_mapping.get(layer[1])
            if number is not None:
                self.followers.hook(call.stack, network.vace_blocks[number], texts, layer)
        call.stack.enter_context(uncompiled())


class StableAudio3Layers(ModuleLayers, StableAudioLayers):
    """Stable Audio 3: as Stable Audio 1; ComfyUI's slot for a block leaves out its local conditioning."""

    text = "context"


class PixArtLayers(ModuleLayers):
    """PixArt: the text passes ``y_embedder``; the texts of a batch stand in one row."""

    kind, text = "PixArt", "y"

    def width(self, network: Any) -> int:
        return network.y_embedder.y_proj.fc1.weight.shape[1]

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        text = texts.network.y_embedder(tokens.unsqueeze(1), False)
        return text.squeeze(1).view(1, -1, text.shape[-1])

    def rows(self, args: Arguments, own: Tensor) -> int:
        return args[0].shape[0]

    def attention(self, block: Any) -> Fused:
        return Fused(block.cross_attn.kv_linear)


class Cosmos1Layers(ModuleLayers):
    """Cosmos 1: the text is used as it is, with its tokens first."""

    kind, text, place = "Cosmos 1", "crossattn_emb", 2

    def blocks(self, model: Any) -> ModelBlocks:
        network = model.diffusion_model
        if network.use_cross_attn_mask:
            raise NotAUNet(
                "Block prompts are not available for a Cosmos 1 model with masks in its cross-attention. Use a model "
                "without them; the released ones have none."
            )
        paths = [f"blocks.{name}" for name in network.blocks]
        return stack(self.kind, paths, _cross(network.blocks["block0"]).to_k[0].weight.shape[1])

    def module(self, network: Any, number: int) -> nn.Module:
        return network.blocks[f"block{number}"]

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        return tokens.transpose(0, 1)

    def attention(self, block: Any) -> Pair:
        return Pair(_cross(block).to_k[0], _cross(block).to_v[0])

    def rows(self, args: Arguments, own: Tensor) -> int:
        return own.shape[1]


def _cross(block: Any) -> Any:
    """The cross-attention of a block of Cosmos 1."""
    return next(part.block.attn for part in block.blocks if part.block_type in ("ca", "cross_attn"))


class CascadeLayers(ModuleLayers):
    """Stable Cascade's Stage C: the text, the pooled text and the images pass one norm; a block attends to all of
    them and to its own tokens."""

    kind, text, text_key, pooled_key = "Stable Cascade", "kv", "clip_text", "clip_text_pooled"

    def blocks(self, model: Any) -> ModelBlocks:
        network = model.diffusion_model
        return stack(self.kind, _attentions(network), network.clip_txt_mapper.weight.shape[1])

    def module(self, network: Any, number: int) -> nn.Module:
        return network.get_submodule(_attentions(network)[number])

    def batched(self, context: Tensor | None, given: Mapping[str, Any]) -> Tensor | None:
        return given.get(self.text_key)

    def through(self, texts: Texts, tokens: Tensor, args: dict[str, Any]) -> Tensor:
        given = [texts.call.given[name] for name in (self.pooled_key, "clip_img")]
        rest = [comfy.model_management.cast_to_device(one, tokens.device, tokens.dtype) for one in given]
        return texts.network.gen_c_embeddings(tokens, *rest)

    def attention(self, block: Any) -> Pair:
        inside = block.attention.attn
        return Halves(inside.to_k, inside.to_v)


def _attentions(network: Any) -> list[str]:
    """Module paths of the blocks with attention, in running order."""
    lists = (("down_blocks", network.down_blocks), ("up_blocks", network.up_blocks))
    return [
        f"{side}.{level}.{place}"
        for side, levels in lists
        for level, modules in enumerate(levels)
        for place, module in enumerate(modules)
        if hasattr(module, "kv_mapper")
    ]


class StageLayers(UNetLayers):
    """IF stages: keys and values of the text are computed apart from the image's, for each attention.

    The stage pools the text into its time embedding. Blocks are numbered as in the released files.
    """

    repeats, text_key, pools = False, "text", ""

    def blocks(self, model: Any) -> ModelBlocks:
        network = model.diffusion_model
        config = network.config
        side = SIDES[config.super_resolution]
        blocks, count = [Block("input", 0, 0, side, "conv_in")], 1
        for level, part in enumerate(network.down_blocks):
            for place, (_, attention) in enumerate(part.blocks()):
                name = f"down_blocks.{level}.attentions.{place}"
                blocks.append(Block("input", count, int(attention is not None), side >> level, name))
                count += 1
            for _ in part.all("downsamplers"):
                blocks.append(Block("input", count, 0, side >> level, f"down_blocks.{level}.downsamplers.0"))
                count += 1
        top, count = len(config.widths) - 1, 0
        blocks.append(Block("middle", 0, 1, side >> top, "mid_block.attentions.0"))
        for level, part in enumerate(network.up_blocks):
            for place, (_, attention) in enumerate(part.blocks()):
                name = f"up_blocks.{level}.attentions.{place}"
                blocks.append(Block("output", count, int(attention is not None), side >> top - level, name))
                count += 1
        return ModelBlocks(tuple(numbered(blocks)), side, config.text_dim, "IF stage")

    def attach(self, model: Any) -> None:
        """Nothing: the text is changed in every pass."""

    def tokens(self, conds: Mapping[str, Any]) -> Tensor | None:
        prompt = conds.get(self.text_key)
        return None if prompt is None else prompt.text

    def batched(self, context: Tensor | None, given: Mapping[str, Any]) -> Tensor | None:
        return given[self.text_key].tokens()

    def enter(self, call: Call, current: Pass) -> None:
        network = call.model.diffusion_model
        attentions = dict(
            zip(self.blocks(call.model).sub_blocks, enumerate(network.attentions()), strict=True)
        )

        if current.pooled is not None and call.given[self.text_key].has_style:
            raise InjectionError(
                "A prompt with an IF Style Prompt is pooled from the style. Set 'pooled' to base, or remove the style."
            )

        def change(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
            states, kv = kwargs["text"], list(kwargs["text"].kv)
            projected = {
                tokens: network.project_text(tokens)
                for tokens in {one for contexts in current.ready.values() for one in contexts}
            }
            for layer in current.recipes.keys() - {POOLED}:
                place, attention = attentions[layer]
                keys, values = (attention.text_kv(projected[one]) for one in current.ready[layer])
                kv[place] = keys[0], values[1]
            pooled = states.pooled if current.pooled is None else network.add_embedding(current.pooled)
            return args, {**kwargs, "text": type(states)(pooled, kv)}

        before(call.stack, network, change)
        call.stack.enter_context(uncompiled())


SIDES = {False: 64, True: 256}  # of a stage's image, by whether it enlarges one
