"""T5 as IF reads it: 77 tokens, the padding masked inside T5 and visible to the U-Net."""

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy import sd1_clip
from comfy.text_encoders import genmo, sd3_clip

from .caption import clean_caption
from .host_files import tensors_of
from .host_model import POOLED_TEXT

LOG = logging.getLogger("blockwork")
TOKENS = 77
T5_MARK = "encoder.block.0.layer.0.SelfAttention.q.weight"
GATED_MARK = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"


class T5Tokenizer(sd3_clip.T5XXLTokenizer):
    """Exactly 77 tokens: padded, or cut with a warning, as the IF pipelines cut."""

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict | None = None):
        super().__init__(embedding_directory, tokenizer_data or {}, min_length=TOKENS)

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

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict | None = None):
        super().__init__(embedding_directory, tokenizer_data or {}, clip_name="t5xxl", tokenizer=T5Tokenizer)


def load_t5(path: str) -> comfy.sd.CLIP:
    """The CLIP of a T5 v1.1 encoder file (XXL, or any size: the shapes say it).

    ValueError when the file is no T5 encoder.
    """
    state_dict = tensors_of(path)
    if T5_MARK not in state_dict or GATED_MARK not in state_dict:
        examples = ", ".join(sorted(state_dict)[:3])
        raise ValueError(
            f"{Path(path).name} is not a T5 v1.1 encoder: {T5_MARK} or {GATED_MARK} is not among its keys, "
            f"which start with {examples}. IF reads the encoder of google/t5-v1_1-xxl, in one file."
        )
    detected = sd3_clip.t5_xxl_detect(state_dict)
    quantization = detected.get("t5_quantization_metadata")
    options: dict[str, Any] = {"t5xxl_model_config": t5_config(state_dict)}
    if quantization is not None:
        options["t5xxl_quantization_metadata"] = quantization

    class Encoder(genmo.MochiT5XXL):
        """T5 with its attention mask on, in the file's dtype."""

        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None):
            dtype = detected.get("dtype_t5", dtype)
            super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **options})

        def load_sd(self, sd: dict) -> Any:
            # Assigned, not copied: the weights stay the file's own pages, one copy and no more.
            return self.t5xxl.transformer.load_state_dict(sd, strict=False, assign=True)

    target = comfy.supported_models_base.ClipTarget(CascadeTokenizer, Encoder)
    return comfy.sd.CLIP(
        target, state_dict=[state_dict], parameters=comfy.utils.calculate_parameters(state_dict)
    )


def t5_config(state_dict: dict[str, torch.Tensor]) -> dict[str, int]:
    """T5's hyper-parameters from the shapes of its tensors, under the names of its config file."""
    bias = state_dict["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    layers = 0
    while f"encoder.block.{layers}.layer.0.SelfAttention.q.weight" in state_dict:
        layers += 1
    vocabulary, width = state_dict["shared.weight"].shape
    heads = bias.shape[1]
    return {
        "d_model": width,
        "d_kv": state_dict[T5_MARK].shape[0] // heads,
        "d_ff": state_dict[GATED_MARK].shape[0],
        "num_heads": heads,
        "num_layers": layers,
        "vocab_size": vocabulary,
    }


def encode(clip: Any, text: str, clean: bool = False) -> Any:
    """CONDITIONING of a prompt; ``clean`` applies IF's caption cleaning, which ends weights syntax."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(clean_caption(text) if clean else text))


def with_pooled_text(content: Any, style: Any) -> Any:
    """A copy of the ``content`` CONDITIONING whose pooled embedding comes from the ``style`` prompt."""
    return [[text, {**options, POOLED_TEXT: style[0][0]}] for text, options in content]
