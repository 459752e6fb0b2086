"""Reading ``config.json`` into a family's configuration, with errors that name the field."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import ClipConfig, Config
from .errors import DeprojectorError

# What transformers writes into every config.json and what no deprojector reads.
_INERT = """
    model_type architectures transformers_version torch_dtype dtype _name_or_path _commit_hash vocab_size
    num_hidden_layers initializer_range initializer_factor attention_dropout dropout pad_token_id
    bos_token_id eos_token_id sep_token_id decoder_start_token_id _attn_implementation
    attn_implementation return_dict output_hidden_states output_attentions torchscript use_bfloat16
    tf_legacy_loss pruned_heads tie_word_embeddings is_encoder_decoder is_decoder
    cross_attention_hidden_size add_cross_attention tie_encoder_decoder max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences chunk_size_feed_forward output_scores return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens finetuning_task id2label label2id tokenizer_class prefix
    task_specific_params problem_type use_cache
"""
INERT_FIELDS = frozenset(_INERT.split())
LARGEST = 65536  # of any size in config.json
LONGEST = 1024  # of any number of rows
# Each counts modules that hold tensors: a file of n tensors has at most n of them.
COUNTS = ("ensemble_size", "num_layers", "num_mlp_layers", "num_vt_layers", "m1_layers", "m2_layers")
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, UTF-8 with a byte order mark, or UTF-16 with one.

    DeprojectorError with the line and the name for anything else.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DeprojectorError(
            f"{path.name}, line {line}: this is not {encoding.removesuffix('-sig').upper()} text. Save the file as UTF-8."
        ) from error
    number = text[: text.index("\0")].count("\n") + 1 if "\0" in text else 0
    if number:
        raise DeprojectorError(
            f"{path.name}, line {number}: the file holds binary data or UTF-16 without a byte order mark. "
            "Save it as UTF-8 text."
        )
    return text


def parsed(text: str, name: str) -> dict[str, Any]:
    """The object that JSON text holds."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeprojectorError(f"{name} is not valid JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise DeprojectorError(f"{name} must hold a JSON object, got {type(fields).__name__}.")
    return fields


def read(kind: type[Config], fields: Mapping[str, Any], tensors: int) -> Config:
    """A checked configuration of ``kind`` from the fields of a config.json beside that many tensors.

    DeprojectorError names an unknown field (with the nearest one), a value of the wrong type, or a size that
    no such file has.
    """
    available = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in fields.items():
        if name in available:
            values[name] = _checked(name, value, type(available[name].default))
        elif name not in INERT_FIELDS:
            near = difflib.get_close_matches(name, available, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DeprojectorError(
                f"config.json: unknown field {str(name)[:80]!r} for {kind.model_type}{hint}. Remove or correct it."
            )
    config = kind(**values)
    positive = ["dim", "rows", "projection_dim", "ensemble_size"]
    if isinstance(config, ClipConfig):
        positive.append("num_attention_heads")
    for name in positive:
        if getattr(config, name) < 1:
            raise DeprojectorError(f"config.json: {name} must be positive, got {getattr(config, name)}.")
    if isinstance(config, ClipConfig) and config.hidden_size % config.num_attention_heads:
        raise DeprojectorError(
            f"config.json: hidden_size {config.hidden_size} must be a multiple of num_attention_heads, "
            f"which is {config.num_attention_heads}."
        )
    for name in ("rows", "vicinity", "m1_vicinity", "m2_vicinity"):
        if getattr(config, name, 0) > LONGEST:
            raise DeprojectorError(f"config.json: {name} must be at most {LONGEST}.")
    for name in COUNTS:
        if (count := getattr(config, name, 0)) > tensors:
            raise DeprojectorError(
                f"config.json: {name} is {count}, but the weights have only {tensors} tensors. They do not "
                "belong together."
            )
    return config


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(min(value, LARGEST + 1))
    if kind is str and value is None:
        value = ""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DeprojectorError(f"config.json: {name} must be {kind.__name__}, got {str(value)[:80]!r}.")
    if kind is int and name != "add_embed_at" and not 0 <= value <= LARGEST:
        raise DeprojectorError(f"config.json: {name} must be 0 to {LARGEST}, got {str(value)[:80]}.")
    if kind is float and not (math.isfinite(value) and 0 <= value <= 1):
        raise DeprojectorError(f"config.json: {name} must be 0 to 1, got {value}.")
    return value
