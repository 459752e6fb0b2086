"""XTI in ComfyUI: where the files are, and how a CLIP encodes a prompt once for all layers."""

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

from ..blocks.spec import Setting, Spec, SpecError, parse
from ..blocks.walk import ModelBlocks, SubBlock
from .concept import BLOCKS, LAYERS, SD1, SDXL, SDXL_LAYERS, XTI, layer_keys
from .conditioning import Conditioning, stretches
from .entries import InjectionError, injection
from .host import blocks_of
from .host_change import Change
from .report import layer_names
from .xti import is_xti, read_pickle

log = logging.getLogger("blockwork")

FOLDER = "embeddings"
LONGEST_NAME = 200  # bytes: file systems take 255, and a number and a suffix follow
MARK = "blockwork-concept-"
SUFFIXES = (".safetensors", ".pt", ".bin")
EMBEDDING = re.compile(r"embedding:([^\s,;:()\[\]<>]+)")
TokenList = list[list[tuple[Any, float]]]  # sections of tokens with their weights
Tokens = dict[str, TokenList]  # by text encoder, as a CLIP takes them: "l", "g", "h"
MODELS = {LAYERS: "SD1 or SD2", SDXL_LAYERS: "SDXL"}
ENCODERS = (("clip_l",), ("clip_h",), ("clip_l", "clip_g"))  # of SD1, SD2 and SDXL


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


def mixed_layers(blocks: str, concept: XTI) -> tuple[int, ...]:
    """The layers of a concept that a block spec names. Raises InjectionError for a part of an SDXL block."""
    layout = BLOCKS[concept.keys]
    wanted = set(parse(blocks, layout).settings)
    for block in layout.attending:
        if 0 < len(wanted & set(block.sub_blocks)) < block.depth:
            raise InjectionError(
                f"{blocks!r} names a part of {block.name}, and an XTI for SDXL has one token per block. Name whole blocks."
            )
    return tuple(n for n, block in enumerate(layout.attending) if wanted & set(block.sub_blocks))


def check_layers(blocks: str) -> None:
    """Raises SpecError for a block spec that is not valid for SD1 nor for SDXL."""
    try:
        parse(blocks, SD1)
    except SpecError as error:
        try:
            parse(blocks, SDXL)
        except SpecError:
            raise error from None


def encode(model: ModelPatcher, clip: Any, text: str, concepts: Sequence[XTI]) -> tuple[Change, Conditioning]:
    """A prompt with ``<name>`` for each concept, encoded for every layer: the change, and the first layer's text.

    All different layers go through CLIP in one call. Raises InjectionError for models and text encoders that
    the concepts are not made for and for concepts that the text does not name.
    """
    blocks = blocks_of(model)
    for concept in concepts:
        if layer_keys(blocks) != concept.keys:
            raise InjectionError(
                f"<{concept.name}> has {len(concept.keys)} layers: it is for {MODELS[concept.keys]}, and this model "
                f"({type(model.model).__name__}) has {len(blocks.attending)} blocks with cross-attention. Connect a "
                f"model of {MODELS[concept.keys]}."
            )
    _check(clip, text, concepts)
    encoded = encode_layers(
        clip, [layer_tokens(clip, text, concepts, n) for n in range(len(blocks.attending))]
    )
    same: list[tuple[Conditioning, list[SubBlock]]] = []
    for conditioning, block in zip(encoded, blocks.attending, strict=True):
        layers = next((layers for one, layers in same if one is conditioning), None)
        if layers is None:
            same.append((conditioning, [*block.sub_blocks]))
        else:
            layers += block.sub_blocks
    names = " ".join(f"<{one.name}>" for one in concepts)
    injections = []
    for conditioning, layers in same[1:]:
        spec = _spec(layers, blocks)
        injections.append(injection(spec, stretches(conditioning, blocks), label=f"{names} of {spec.text}"))
    return Change(tuple(injections)), encoded[0]


def layer_tokens(clip: Any, text: str, concepts: Sequence[XTI], layer: int, **options: Any) -> Tokens:
    """The tokens of one layer's prompt, with the concepts' embeddings in their places.

    ComfyUI's own tokenizer places them, as it does for ``embedding:``, so it keeps a concept's vectors together.
    ``options`` are the tokenizer's.
    """
    return {
        name.removeprefix("clip_"): _tokens(clip, name, number, text, concepts, layer, options)
        for number, name in enumerate(encoders(clip))
    }


def _tokens(
    clip: Any,
    name: str,
    encoder: int,
    text: str,
    concepts: Sequence[XTI],
    layer: int,
    options: dict[str, Any],
) -> TokenList:
    tokenizer = copy.copy(getattr(clip.tokenizer, name))
    places = {f"{MARK}{number}": concept.tokens(layer, encoder) for number, concept in enumerate(concepts)}
    from_files = tokenizer._try_get_embedding

    def embedding(name: str) -> tuple[Tensor | None, str, str]:
        first, *rest = name.split()
        return (places[first], first, " ".join(rest)) if first in places else from_files(name)

    tokenizer._try_get_embedding = embedding
    tokenizer.embedding_directory = tokenizer.embedding_directory or []
    for number, concept in enumerate(concepts):
        text = text.replace(f"<{concept.name}>", f" {tokenizer.embedding_identifier}{MARK}{number} ")
    clips_own = getattr(clip, "tokenizer_options", {})
    return tokenizer.tokenize_with_weights(text, tokenizer_options=clips_own, **options)


def encode_layers(clip: Any, tokens: Sequence[Tokens]) -> list[Conditioning]:
    """The conditioning of each layer's tokens; equal ones share one, and all of a length go in one CLIP call."""
    keys = [tuple((name, _key(sections)) for name, sections in one.items()) for one in tokens]
    different = dict(zip(keys, tokens, strict=True))
    encoded: dict[Any, Conditioning] = {}
    lengths = {key: max(map(len, one.values())) for key, one in different.items()}
    for length in sorted(set(lengths.values())):
        group = {key: one for key, one in different.items() if lengths[key] == length}
        joined = {
            name: [section for one in group.values() for section in one[name]] for name in clip.tokenize("")
        }
        encoded |= {key: [] for key in group}
        for cond, options in clip.encode_from_tokens_scheduled(joined):
            rows = cond.reshape(len(group), -1, cond.shape[-1])  # 1 (layers tokens) d -> layers tokens d
            for number, key in enumerate(group):
                encoded[key].append([rows[number : number + 1], dict(options)])
    return [encoded[key] for key in keys]


def encoders(clip: Any) -> dict[str, Any]:
    """The text encoders of a CLIP of SD1, SD2 or SDXL by name, in the order of a concept's embeddings.

    Raises InjectionError for others.
    """
    found = {
        name: model
        for name, model in clip.cond_stage_model.named_children()
        if hasattr(model, "transformer") and name in {name for kind in ENCODERS for name in kind}
    }
    if tuple(found) not in ENCODERS or len(found) != len(clip.tokenize("")):
        raise InjectionError(
            f"An XTI is made for the text encoders of SD1, SD2 and SDXL, and this CLIP is of another kind "
            f"({type(clip.cond_stage_model).__name__}). Connect the CLIP of such a checkpoint."
        )
    return found


def vocabularies(clip: Any) -> list[Tensor]:
    """The token embeddings ``N d`` of each text encoder, as they are loaded."""
    return [one.transformer.get_input_embeddings().weight.detach() for one in encoders(clip).values()]


def _key(sections: Sequence[Sequence[tuple[Any, float]]]) -> tuple[Any, ...]:
    """What makes the tokens of two layers equal: numbers, weights, and the bytes of embeddings."""
    return tuple(
        (_bytes(token) if isinstance(token, Tensor) else token, weight)
        for section in sections
        for token, weight in section
    )


def _bytes(token: Tensor) -> tuple[torch.dtype, bytes]:
    plain = token.detach().cpu().contiguous()
    return plain.dtype, plain.view(torch.uint8).numpy().tobytes()


def _check(clip: Any, text: str, concepts: Sequence[XTI]) -> None:
    widths = tuple(table.shape[1] for table in vocabularies(clip))
    names = [concept.name for concept in concepts]
    if len(set(names)) < len(names):
        raise InjectionError(f"Two concepts have the same name: {', '.join(names)}. Give one another token.")
    for concept in concepts:
        if f"<{concept.name}>" not in text:
            raise InjectionError(
                f"The text does not use <{concept.name}>. Write it where the concept belongs."
            )
        if concept.widths != widths:
            given, taken = (" and ".join(map(str, one)) for one in (concept.widths, widths))
            raise InjectionError(
                f"<{concept.name}> has embeddings {given} wide, and this text encoder takes {taken}. Connect the CLIP that "
                "the concept was trained for."
            )


def _spec(layers: Sequence[SubBlock], blocks: ModelBlocks) -> Spec:
    return Spec(layer_names(layers, blocks), dict.fromkeys(layers, (Setting(),)))
