"""XTI files in ComfyUI: where they lie, how a CLIP encodes a prompt once for all 16 layers."""

import copy
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor

from ..blocks.spec import Setting, Spec, parse
from ..blocks.walk import ModelBlocks, SubBlock
from .conditioning import Conditioning, stretches
from .entries import InjectionError, injection
from .host import blocks_of
from .host_change import Change
from .report import layer_names
from .xti import LAYERS, SD1, XTI, is_xti, read_pickle

log = logging.getLogger("blockwork")

FOLDER = "embeddings"
LONGEST_NAME = 200  # bytes: file systems take 255, and a number and a suffix follow
MARK = "blockwork-concept-"
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
    """Where an embedding of this name is saved: in the first embedding folder or a folder inside it."""
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0]).resolve()
    plain = name.strip().removesuffix(".safetensors").replace("\\", "/")
    parts = plain.split("/")
    odd = any(part.strip(". ") == "" or part.startswith("~") or not part.isprintable() for part in parts)
    if odd or any(len(part.encode()) > LONGEST_NAME for part in parts) or ":" in plain:
        raise InjectionError(
            f"{name[:80]!r} is not a valid file name for the embeddings folder. Use a name of up to {LONGEST_NAME} "
            "characters, or folder/name."
        )
    path = (folder / f"{plain}.safetensors").resolve()
    if not path.is_relative_to(folder):
        raise InjectionError(
            f"{name[:80]!r} is outside of the embeddings folder. Use a name, or folder/name."
        )
    return path


def embedded_xti(text: str) -> list[str]:
    """Names in ``embedding:name`` of a prompt that are XTI files, and a warning for each.

    ComfyUI's own loader takes the first embedding of such a file for all layers. It looks in subfolders too.
    """
    names = dict.fromkeys(EMBEDDING.findall(text))
    found = [name for name in names if (path := _embedding_path(name)) is not None and _holds_xti(path)]
    for name in found:
        log.warning(
            "embedding:%s is an extended textual inversion with an embedding per layer, and ComfyUI takes the first "
            "for all layers. Use the nodes Load XTI and XTI Encode.",
            name,
        )
    return found


def _embedding_path(name: str) -> Path | None:
    """The file that ComfyUI takes for ``embedding:name``."""
    for folder in comfy.sd1_clip.expand_directory_list(folder_paths.get_folder_paths(FOLDER)):
        for suffix in ("", *SUFFIXES):
            path = Path(folder, name + suffix)
            if path.suffix in SUFFIXES and path.is_file():
                return path
    return None


def _holds_xti(path: Path) -> bool:
    """Whether a file is an XTI; a file that cannot be read is not: ComfyUI's loader says what is wrong with it."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return is_xti(dict.fromkeys(file.keys()))
        return is_xti(read_pickle(path))
    except Exception:
        return False


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
            f"An XTI has {len(LAYERS)} layers and this model {len(blocks.sub_blocks)}: XTI is for SD1 checkpoints. "
            "Connect an SD1 model."
        )
    _check(clip, text, concepts)
    tokens = [layer_tokens(clip, text, concepts, layer) for layer in range(len(LAYERS))]
    encoded = encode_layers(clip, tokens)
    same: list[tuple[Conditioning, list[SubBlock]]] = []
    for conditioning, sub_block in zip(encoded, blocks.sub_blocks, strict=True):
        layers = next((layers for one, layers in same if one is conditioning), None)
        if layers is None:
            same.append((conditioning, [sub_block]))
        else:
            layers.append(sub_block)
    names = " ".join(f"<{one.name}>" for one in concepts)
    injections = []
    for conditioning, layers in same[1:]:
        spec = _spec(layers, blocks)
        injections.append(injection(spec, stretches(conditioning, blocks), label=f"{names} of {spec.text}"))
    return Change(tuple(injections)), encoded[0]


def layer_tokens(clip: Any, text: str, concepts: Sequence[XTI], layer: int) -> TokenList:
    """The tokens of one layer's prompt, in sections, with the concepts' embeddings in their places.

    ComfyUI's own tokenizer places them, as it does for ``embedding:``, so it keeps a concept's vectors together.
    """
    tokenizer = copy.copy(getattr(clip.tokenizer, clip.tokenizer.clip))
    places = {f"{MARK}{number}": concept.tokens(layer) for number, concept in enumerate(concepts)}
    from_files = tokenizer._try_get_embedding

    def embedding(name: str) -> tuple[Tensor | None, str, str]:
        first, *rest = name.split()
        return (places[first], first, " ".join(rest)) if first in places else from_files(name)

    tokenizer._try_get_embedding = embedding
    tokenizer.embedding_directory = tokenizer.embedding_directory or []
    for number, concept in enumerate(concepts):
        text = text.replace(f"<{concept.name}>", f" {tokenizer.embedding_identifier}{MARK}{number} ")
    options = getattr(clip, "tokenizer_options", {})
    return tokenizer.tokenize_with_weights(text, tokenizer_options=options)


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
        raise InjectionError(
            "An XTI is made for SD1's text encoder, and this CLIP is of another kind. Connect an SD1 CLIP."
        )
    return models[0].transformer.get_input_embeddings().weight.detach()


def _key(sections: TokenList) -> tuple[Any, ...]:
    """What makes two token lists equal: numbers, weights, and the bytes of embeddings."""
    return tuple(
        (_bytes(token) if isinstance(token, Tensor) else token, weight)
        for section in sections
        for token, weight in section
    )


def _bytes(token: Tensor) -> tuple[torch.dtype, bytes]:
    plain = token.detach().cpu().contiguous()
    return plain.dtype, plain.view(torch.uint8).numpy().tobytes()


def _check(clip: Any, text: str, concepts: Sequence[XTI]) -> None:
    width = vocabulary(clip).shape[1]
    names = [concept.name for concept in concepts]
    if len(set(names)) < len(names):
        raise InjectionError(f"Two concepts have the same name: {', '.join(names)}. Give one another token.")
    for concept in concepts:
        if f"<{concept.name}>" not in text:
            raise InjectionError(
                f"The text does not use <{concept.name}>. Write it where the concept belongs."
            )
        if concept.width != width:
            raise InjectionError(
                f"<{concept.name}> has embeddings {concept.width} wide, and this text encoder takes {width}. Connect the "
                "CLIP that the concept was trained for."
            )


def _spec(layers: Sequence[SubBlock], blocks: ModelBlocks) -> Spec:
    return Spec(layer_names(layers, blocks), dict.fromkeys(layers, (Setting(),)))
