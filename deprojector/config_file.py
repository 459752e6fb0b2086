"""Reading the fields of a ``config.json`` into a record, with errors that name the field."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from .config import ClipConfig, Config
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


def read(kind: type[Config], fields: Mapping[str, Any]) -> Config:
    """A checked record of ``kind`` from the fields of a config.json.

    DeprojectorError names an unknown field (with the nearest known one), a value of the wrong type or a
    size that is not positive.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in fields.items():
        if name in known:
            values[name] = _checked(name, value, type(known[name].default))
        elif name not in INERT_FIELDS:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DeprojectorError(
                f"config.json: unknown field {name!r} for {kind.model_type}{hint}; remove or correct it."
            )
    config = kind(**values)
    for name in ("dim", "rows", "projection_dim", "ensemble_size"):
        if getattr(config, name) < 1:
            raise DeprojectorError(f"config.json: {name} must be positive, got {getattr(config, name)}.")
    if isinstance(config, ClipConfig) and config.hidden_size % config.num_attention_heads:
        raise DeprojectorError(
            f"config.json: hidden_size {config.hidden_size} is no multiple of num_attention_heads "
            f"{config.num_attention_heads}."
        )
    return config


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and value is None:
        value = ""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DeprojectorError(f"config.json: {name} must be {kind.__name__}, got {value!r}.")
    if kind is int and value < 0 and name != "add_embed_at":
        raise DeprojectorError(f"config.json: {name} must not be negative, got {value}.")
    return value
