"""XTI files in ComfyUI: where they lie, how a CLIP encodes a prompt once for all 16 layers."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor

from ..blocks.spec import Setting, Spec, parse
from ..blocks.walk import SubBlock, UNetBlocks
from .conditioning import Conditioning, stretches
from .entries import InjectionError, injection
from .host import blocks_of
from .host_change import Change
from .report import layer_names
from .xti import LAYERS, SD1, XTI, is_xti

log = logging.getLogger("blockwork")

FOLDER = "embeddings"
SUFFIXES = (".safetensors", ".pt", ".bin")
EMBEDDING = re.compile(r"embedding:([^\s,;:()\[\]<>]+)")
TokenList = list[list[tuple[Any, float]]]


def files() -> list[str]:
    """Names of the files in the embedding folders."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIXES)]


def path_of(name: str) -> Path:
    """The path of an embedding file; FileNotFoundError when there is none."""
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def save_path(name: str) -> Path:
    """Where an embedding of this name is saved: in the first embedding folder, never outside of it."""
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0]).resolve()
    path = (folder / f"{name.strip().removesuffix('.safetensors')}.safetensors").resolve()
    if not name.strip() or not path.is_relative_to(folder):
        raise InjectionError(f"{name!r} is no name for a file in the embeddings folder.")
    return path


def embedded_xti(text: str) -> list[str]:
    """Names in ``embedding:name`` of a prompt that are XTI files, and a warning for each.

    ComfyUI's own loader takes the first embedding of such a file for all layers.
    """
    found = []
    for name in dict.fromkeys(EMBEDDING.findall(text)):
        for suffix in ("", *SUFFIXES):
            path = folder_paths.get_full_path(FOLDER, name + suffix)
            if path is not None and path.endswith(SUFFIXES):
                if _holds_xti(Path(path)):
                    found.append(name)
                break
    for name in found:
        log.warning(
            "embedding:%s is an extended textual inversion with an embedding per layer, of which ComfyUI takes "
            "the first for all. Use the nodes Load XTI and XTI Encode.",
            name,
        )
    return found


def _holds_xti(path: Path) -> bool:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return is_xti(dict.fromkeys(file.keys()))
    return is_xti(torch.load(path, weights_only=True, map_location="cpu"))


def mixed_layers(blocks: str) -> tuple[int, ...]:
    """The XTI layers that a block spec names, read for SD1's U-Net."""
    wanted = parse(blocks, SD1).settings
    return tuple(number for number, sub_block in enumerate(SD1.sub_blocks) if sub_block in wanted)


def encode(model: ModelPatcher, clip: Any, text: str, concepts: Sequence[XTI]) -> tuple[Change, Conditioning]:
    """A prompt with ``<name>`` for each concept, encoded for every layer: the change, and the first layer's text.

    All different layers go through CLIP in one call. Raises InjectionError for models and text encoders that
    are not SD1's and for concepts that the text does not name.
    """
    blocks = blocks_of(model)
    if len(blocks.sub_blocks) != len(LAYERS):
        raise InjectionError(
            f"an XTI has {len(LAYERS)} layers and this model {len(blocks.sub_blocks)}: XTI is for SD1 checkpoints."
        )
    _check(clip, text, concepts)
    tokens = [layer_tokens(clip, text, concepts, layer) for layer in range(len(LAYERS))]
    encoded = encode_layers(clip, tokens)
    same: dict[int, list[SubBlock]] = {}
    for conditioning, sub_block in zip(encoded, blocks.sub_blocks, strict=True):
        same.setdefault(id(conditioning), []).append(sub_block)
    base = encoded[0]
    names = " ".join(f"<{one.name}>" for one in concepts)
    injections = []
    for one in {id(one): one for one in encoded if one is not base}.values():
        spec = _spec(same[id(one)], blocks)
        injections.append(injection(spec, stretches(one, blocks), label=f"{names} of {spec.text}"))
    return Change(tuple(injections)), base


def layer_tokens(clip: Any, text: str, concepts: Sequence[XTI], layer: int) -> TokenList:
    """The tokens of one layer's prompt, in sections, with the concepts' embeddings in their places."""
    words = _markers(clip, text, concepts)
    queues: dict[int, list[Tensor]] = {}
    for concept, (word, number) in zip(concepts, words, strict=True):
        vectors = list(concept.tokens(layer))
        uses = text.count(f"<{concept.name}>")
        text = text.replace(f"<{concept.name}>", " " + " ".join([word] * len(vectors)) + " ")
        queues[number] = vectors * uses
    (sections,) = clip.tokenize(text).values()
    return [
        [(queues[token].pop(0), weight) if token in queues else (token, weight) for token, weight in section]
        for section in sections
    ]


def encode_layers(clip: Any, tokens: Sequence[TokenList]) -> list[Conditioning]:
    """The conditioning of each token list; equal lists share one, and all of a length go in one CLIP call."""
    keys = [_key(sections) for sections in tokens]
    different = {key: sections for key, sections in zip(keys, tokens, strict=True)}
    encoded: dict[Any, Conditioning] = {}
    for length in sorted({len(sections) for sections in different.values()}):
        group = {key: sections for key, sections in different.items() if len(sections) == length}
        joined = [section for sections in group.values() for section in sections]
        name = next(iter(clip.tokenize("")))
        encoded |= {key: [] for key in group}
        for cond, options in clip.encode_from_tokens_scheduled({name: joined}):
            rows = cond.reshape(len(group), -1, cond.shape[-1])  # 1 (layers tokens) d -> layers tokens d
            for number, key in enumerate(group):
                encoded[key].append([rows[number : number + 1], dict(options)])
    return [encoded[key] for key in keys]


def vocabulary(clip: Any) -> Tensor:
    """The token embeddings ``N d`` of an SD1 text encoder, as they are loaded."""
    models = [model for name, model in clip.cond_stage_model.named_children() if name.startswith("clip_")]
    if len(models) != 1 or not hasattr(models[0], "transformer"):
        raise InjectionError("an XTI is made for SD1's text encoder; this CLIP is of another kind.")
    return models[0].transformer.get_input_embeddings().weight.detach()


def _key(sections: TokenList) -> tuple[Any, ...]:
    """What makes two token lists equal: numbers, weights, and the bytes of embeddings."""
    return tuple(
        (token.numpy().tobytes() if isinstance(token, Tensor) else token, weight)
        for section in sections
        for token, weight in section
    )


def _markers(clip: Any, text: str, concepts: Sequence[XTI]) -> list[tuple[str, int]]:
    """For each concept a word of one token that the text does not contain, and that token."""
    tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip)
    used = {token for section in next(iter(clip.tokenize(text).values())) for token, _ in section}
    found = []
    for number in sorted(tokenizer.inv_vocab, reverse=True):
        if len(found) == len(concepts):
            break
        word = tokenizer.inv_vocab[number].removesuffix("</w>")
        if number in used or not word.isascii() or not word.isalpha():
            continue
        tokens = [token for token, _ in next(iter(clip.tokenize(f" {word} {word} ").values()))[0]]
        if tokens[1:3] == [number, number] and tokens.count(number) == 2:
            found.append((word, number))
    return found


def _check(clip: Any, text: str, concepts: Sequence[XTI]) -> None:
    width = vocabulary(clip).shape[1]
    names = [concept.name for concept in concepts]
    if len(set(names)) < len(names):
        raise InjectionError(f"two concepts have the same name: {', '.join(names)}. Give one another token.")
    for concept in concepts:
        if f"<{concept.name}>" not in text:
            raise InjectionError(
                f"the text does not use <{concept.name}>. Write it where the concept belongs."
            )
        if concept.layers[0].shape[1] != width:
            raise InjectionError(
                f"<{concept.name}> has embeddings {concept.layers[0].shape[1]} wide, this text encoder takes {width}."
            )


def _spec(layers: Sequence[SubBlock], blocks: UNetBlocks) -> Spec:
    return Spec(layer_names(layers, blocks), MappingProxyType(dict.fromkeys(layers, (Setting(),))))
