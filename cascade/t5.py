"""The shape of a T5 v1.1 encoder, read from its tensors, and what a file must hold to be one."""

import re
from collections.abc import Mapping
from typing import Any

VOCABULARY = 32100  # tokens of T5's tokenizer
FIRST_ATTENTION = "encoder.block.0.layer.0.SelfAttention"
BIAS = f"{FIRST_ATTENTION}.relative_attention_bias.weight"
EMBEDDING = "shared.weight"
TIED_EMBEDDING = "encoder.embed_tokens.weight"
QUANTISED = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale")


class T5Error(ValueError):
    """The tensors are not those of a complete T5 v1.1 encoder; the message names the first of them."""


def config(tensors: Mapping[str, Any], name: str = "The file") -> dict[str, int]:
    """T5's hyper-parameters from the shapes of its tensors, under the names of its config file.

    T5Error, which starts with ``name``, when the tensors are not a complete T5 v1.1 encoder.
    """
    blocks = [int(found[1]) for key in tensors if (found := re.match(r"encoder\.block\.(\d+)\.", key))]
    if not blocks or not any("SelfAttention" in key for key in tensors):
        examples = ", ".join(sorted(tensors)[:3]) or "none"
        raise T5Error(f"{name} is not a T5 v1.1 encoder. Its keys start with {examples}. {ADVICE}")
    if any(key.endswith("DenseReluDense.wi.weight") for key in tensors):
        raise T5Error(f"{name} is a T5 v1.0 encoder, without gated layers. IF reads T5 v1.1. {ADVICE}")
    if BIAS.replace("block.0", "block.1") in tensors:
        raise T5Error(
            f"{name} is a UMT5 encoder, with a position table per block. IF reads T5 v1.1. {ADVICE}"
        )
    layers = max(blocks) + 1
    missing = sorted(_names(layers) - tensors.keys())
    if missing:
        raise T5Error(
            f"{name} lacks {len(missing)} of the {len(_names(layers))} tensors of a T5 encoder, the first: "
            f"{', '.join(missing[:3])}. It may be one shard of a sharded model, or only a part of one. {ADVICE}"
        )
    vocabulary, width = tensors[EMBEDDING].shape
    heads = tensors[BIAS].shape[1]
    if vocabulary < VOCABULARY:
        raise T5Error(f"{name} knows {vocabulary} tokens. T5 v1.1 has {VOCABULARY}. {ADVICE}")
    inner = tensors[f"{FIRST_ATTENTION}.q.weight"].shape[0]
    hidden = tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0]
    _check_shapes(tensors, name, layers, width, inner, hidden)
    return {
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": hidden,
        "num_heads": heads,
        "num_layers": layers,
        "vocab_size": vocabulary,
    }


ADVICE = "Use the encoder of google/t5-v1_1-xxl in one file, for example t5xxl_fp16.safetensors."


def untied(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors; a token table under its second name alone gets its first name."""
    if EMBEDDING in tensors or TIED_EMBEDDING not in tensors:
        return tensors
    return {EMBEDDING if key == TIED_EMBEDDING else key: tensor for key, tensor in tensors.items()}


def _names(layers: int) -> set[str]:
    return {EMBEDDING, BIAS, "encoder.final_layer_norm.weight"} | {
        f"encoder.block.{block}.layer.{name}.weight"
        for block in range(layers)
        for name in (
            *(f"0.SelfAttention.{part}" for part in "qkvo"),
            "0.layer_norm",
            *(f"1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
            "1.layer_norm",
        )
    }


def _check_shapes(
    tensors: Mapping[str, Any], name: str, layers: int, width: int, inner: int, hidden: int
) -> None:
    """T5Error for a tensor of another shape; quantised layers are left to core, which packs some of them."""
    expected = {"q": (inner, width), "k": (inner, width), "v": (inner, width), "o": (width, inner)}
    expected |= {"wi_0": (hidden, width), "wi_1": (hidden, width), "wo": (width, hidden)}
    for key in sorted(_names(layers) - {EMBEDDING, BIAS}):
        layer = key.removesuffix(".weight")
        if any(f"{layer}{suffix}" in tensors for suffix in QUANTISED):
            continue
        found, wanted = tuple(tensors[key].shape), expected.get(layer.rpartition(".")[2], (width,))
        if found != wanted:
            raise T5Error(f"{name} has {key} in the shape {found}. Its other tensors need {wanted}. {ADVICE}")
