"""Loads a T5 v1.1 encoder as IF reads it: 77 tokens, the padding masked inside T5 and visible to the U-Net."""

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy import sd1_clip
from comfy.text_encoders import genmo, sd3_clip

from . import t5
from .host_files import tensors_of

LOG = logging.getLogger("blockwork")
TOKENS = 77
DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
DEVICES = ("default", "cpu")


class T5Tokenizer(sd3_clip.T5XXLTokenizer):
    """Exactly 77 tokens: padded, or cut with a warning, as the IF pipelines cut."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None):
        data = tokenizer_data or {}
        super().__init__(embedding_directory, data, min_length=TOKENS)
        self.embedding_size = data.get("t5xxl_width", self.embedding_size)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> list[list]:
        (tokens,) = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if len(tokens) > TOKENS:
            LOG.warning(
                "the prompt has %d tokens; IF reads %d, so the last %d are cut off: %.60s...",
                len(tokens), TOKENS, len(tokens) - TOKENS, text,
            )  # fmt: skip
            tokens = [*tokens[: TOKENS - 1], tokens[-1]]
        return [tokens]


class CascadeTokenizer(sd1_clip.SD1Tokenizer):
    """The one tokenizer of a T5-only CLIP."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None):
        super().__init__(embedding_directory, tokenizer_data or {}, clip_name="t5xxl", tokenizer=T5Tokenizer)


def load_t5(
    path: str, weight_dtype: str = "default", device: str = "default", disable_dynamic: bool = False
) -> comfy.sd.CLIP:
    """The CLIP of a T5 v1.1 encoder file (XXL, or any size: the shapes say it).

    ``weight_dtype`` (a key of ``DTYPES``) converts the weights, ``"default"`` keeps the file's; ``device`` ``"cpu"`` keeps T5
    off the GPU. ValueError when the file is not a complete T5 v1.1 encoder, or is quantised and to be converted.
    """
    name = Path(path).name
    state_dict = t5.untied(tensors_of(path))
    config = t5.config(state_dict, name)
    detected = sd3_clip.t5_xxl_detect(state_dict)
    quantization = detected.get("t5_quantization_metadata")
    wanted = DTYPES[weight_dtype]
    if wanted is not None and quantization is not None:
        raise ValueError(
            f"{name} is quantised, and weight_dtype is {weight_dtype}. A quantised file keeps its own format. Choose "
            "default, or use an fp16 file."
        )
    if wanted is not None:
        state_dict = {key: tensor.to(wanted) for key, tensor in state_dict.items()}
    options: dict[str, Any] = {"t5xxl_model_config": config}
    if quantization is not None:
        options["t5xxl_quantization_metadata"] = quantization

    class Encoder(genmo.MochiT5XXL):
        """T5 with its attention mask on, in the dtype of its weights."""

        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None):
            dtype = wanted or detected.get("dtype_t5", dtype)
            super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **options})

        def load_sd(self, sd: dict) -> Any:
            # Assigned, not copied: the weights stay the file's own pages, one copy and no more.
            encoder: Any = self.t5xxl
            return encoder.transformer.load_state_dict(sd, strict=False, assign=True)

    on_cpu = {"load_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(CascadeTokenizer, Encoder),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={"t5xxl_width": config["d_model"]},
        state_dict=[state_dict],
        parameters=comfy.utils.calculate_parameters(state_dict),
        model_options=on_cpu if device == "cpu" else {},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_patcher, (path, weight_dtype, device))
    return clip


def _load_patcher(path: str, weight_dtype: str, device: str, disable_dynamic: bool = False) -> Any:
    """T5's ModelPatcher alone, for core, which loads a model again where dynamic loading cannot serve it."""
    return load_t5(path, weight_dtype, device, disable_dynamic).patcher
