"""Text encoders for training: read from a file, and as a function over texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch
from torch import Tensor

from ..errors import DeprojectorError
from ..train.examples import Encoded, Encoder
from .texts import end_row
from .texts import text_encoder as sd1_encoder

POSITIONS = "text_model.embeddings.position_embedding.weight"
FOREIGN = {1024: "Stable Diffusion 2's text encoder", 1280: "SDXL's second text encoder"}


class Sd1Target:
    """The argument of ``comfy.sd.CLIP``: the classes of Stable Diffusion 1's text encoder."""

    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params = {}


def load_clip(path: Path, heads: int | None = None) -> tuple[Any, Tensor | None]:
    """The CLIP of an SD1 checkpoint or CLIP-L file, and the text projection if the file has one.

    A text encoder of the same form but another width is read too; no file says how many attention ``heads``
    it has, so that must be given. DeprojectorError for files of other families.
    """
    if not path.is_file():
        raise DeprojectorError(f"There is no file {path}. Give an SD1 checkpoint or a CLIP-L file.")
    try:
        state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    except Exception as error:  # core raises many kinds, for files of many kinds
        raise DeprojectorError(f"{path.name} cannot be read as weights ({error}).") from error
    projection = next((value for key, value in state.items() if key.endswith("text_projection.weight")), None)
    projection = None if projection is None else projection.float()
    width = _width(state)
    if width is None or width in FOREIGN:
        what = FOREIGN.get(width or 0, "no text encoder of Stable Diffusion 1")
        raise DeprojectorError(
            f"{path.name} holds {what}. Deprojectors need an SD1 checkpoint or a CLIP-L file."
        )
    if width != 768:
        return _of_other_size(state, path.name, width, heads), projection
    if any(key.startswith("cond_stage_model.") for key in state):
        loaded = comfy.sd.load_state_dict_guess_config(
            state, output_model=False, output_vae=False, metadata=metadata
        )
        clip = loaded[1] if loaded else None
    else:
        clip = comfy.sd.load_text_encoder_state_dicts([state], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)
    if clip is None:
        raise DeprojectorError(f"{path.name} holds no text encoder of Stable Diffusion 1.")
    return clip, projection


def _width(state: Mapping[str, Tensor]) -> int | None:
    """Width of the text encoder in an SD1 checkpoint or CLIP file, in CLIP's or OpenCLIP's names; None without."""
    for key, tensor in state.items():
        if key.startswith("conditioner.") or "vision" in key or "visual" in key:
            continue
        if key.endswith(("embeddings.position_embedding.weight", "positional_embedding")):
            return tensor.shape[-1]
    return None


def _of_other_size(state: Mapping[str, Tensor], name: str, width: int, heads: int | None) -> Any:
    if heads is None or heads < 1 or width % heads:
        raise DeprojectorError(
            f"The text encoder in {name} has width {width}, not CLIP-L's 768. Give its number of attention heads "
            f"with --heads (a divisor of {width}; given: {heads})."
        )
    prefix = next((key.removesuffix(POSITIONS) for key in state if key.endswith(POSITIONS)), None)
    if prefix is None:
        raise DeprojectorError(f"The text encoder in {name} is not in CLIP's names (no {POSITIONS}).")
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    inner = own["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0]
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": own[POSITIONS].shape[0],
        "num_attention_heads": heads,
        "num_hidden_layers": len({key.split(".")[3] for key in own if ".encoder.layers." in key}),
        "projection_dim": width,
    }
    clip = comfy.sd.CLIP(Sd1Target, model_options={"clip_l_model_config": config})
    missing, _ = clip.load_sd(own)
    lacking = [key for key in missing if "text_projection" not in key and "logit_scale" not in key]
    if lacking:
        raise DeprojectorError(
            f"The text encoder in {name} lacks {lacking[0]!r} and {len(lacking) - 1} more."
        )
    return clip


def literal(text: str) -> str:
    """The text such that ComfyUI's tokenizer, without weights, reads every character as it is."""
    for bracket in "()":
        text = text.replace(f"\\{bracket}", f"\\\\{bracket}")
    return text.replace("embedding:", "embedding :")  # the same tokens, but not the name of an embedding


def text_encoder(clip: Any) -> tuple[Encoder, dict[str, Tensor], int]:
    """An SD1 CLIP for training: a function over texts, its weights in float32, and its number of heads.

    Captions are encoded literally: brackets, colons and ``embedding:`` are text.
    """
    own = sd1_encoder(clip)
    own.load_model()
    transformer = own.cond_stage_model.clip_l.transformer
    last = len(transformer.text_model.encoder.layers) - 1
    wanted = (
        f".layers.{last}.",
        ".layers.0.mlp.fc1.weight",
        "position_embedding",
        "final_layer_norm",
    )
    weights = {
        key: value.detach().float().cpu().clone()
        for key, value in transformer.state_dict().items()
        if any(part in key for part in wanted)
    }

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Encoded:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sections, ends, cut = [], [], []
        for text in texts:
            tokens = own.tokenize(literal(text), disable_weights=True)["l"]
            ends.append(end_row(own, tokens[0]))
            cut.append(len(tokens) > 1)
            sections.append([(token[0], 1.0) for token in tokens[0]])
        states, _ = own.encode_from_tokens({"l": sections}, return_pooled="unprojected")
        return Encoded(states.view(len(texts), -1, states.shape[-1]).cpu(), torch.tensor(ends), cut)

    return encode, weights, transformer.text_model.encoder.layers[0].self_attn.heads
