"""Encodes block prompts with a CLIP: every different sentence once, whatever the number of blocks."""

import logging
import re
from typing import Any

from comfy.model_patcher import ModelPatcher

from ..blocks.walk import ModelBlocks
from .conditioning import Conditioning, stretches
from .entries import Injection, injection
from .host import blocks_of
from .host_change import Change
from .host_xti import embedded_xti
from .prompt_syntax import BlockPrompt, Variant, read
from .report import layer_names

log = logging.getLogger("blockwork")

FOREIGN = (
    (re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,200}>", re.IGNORECASE), "such tags"),
    (re.compile(r"\[[^\[\]:]{0,100}:[^\[\]:]{0,100}:\s*[0-9.]{1,10}%?\s*\]"), "prompt schedules"),
    (re.compile(r"\bBREAK\b"), "BREAK"),
)


def encode_block_prompt(model: ModelPatcher, clip: Any, text: str) -> tuple[Change, Conditioning, str]:
    """The change a block prompt makes, the conditioning of its base sentence, and what each block got as text."""
    blocks = blocks_of(model)
    prompt = read(text, blocks)
    warned = foreign_syntax(text)
    for warning in warned:
        log.warning("%s", warning)
    warned += [
        f"embedding:{name} is an XTI file; only its first layer is used here" for name in embedded_xti(text)
    ]
    encoded = {words: _encode(clip, words) for words in {prompt.base, *(v.text for v in prompt.variants)}}
    injections = tuple(_injection(variant, encoded[variant.text], blocks) for variant in prompt.variants)
    return Change(injections), encoded[prompt.base], "\n".join([resolved(prompt, blocks), *warned])


def split_block_prompt(model: ModelPatcher, text: str) -> tuple[str, list[str], list[str]]:
    """The base sentence of a block prompt, the other sentences, and the blocks of each as a block spec.

    Where no block differs, the base sentence stands in the list with the weight 0, so that a graph still runs.
    """
    blocks = blocks_of(model)
    prompt = read(text, blocks)
    pairs = [(variant.text, variant.blocks_text(blocks)) for variant in prompt.variants] or [
        (prompt.base, "all=0")
    ]
    return prompt.base, [words for words, _ in pairs], [spec for _, spec in pairs]


def foreign_syntax(text: str) -> list[str]:
    """Warnings for what other encoders understand and a CLIP reads as words: LoRA tags, schedules, BREAK."""
    return [
        f"{match.group()[:60]!r} is read as words here. Use Split Block Prompt and the encoder that knows {what}."
        for pattern, what in FOREIGN
        if (match := pattern.search(text))
    ]


def resolved(prompt: BlockPrompt, blocks: ModelBlocks) -> str:
    """The sentence of every block, one line for those that share one."""
    lines = [f"{'other blocks' if prompt.variants else 'all blocks'}: {prompt.base}"]
    for variant in prompt.variants:
        notes = [f"weight {variant.weight:g}"] if variant.weight != 1 else []
        notes += [{"k": "keys only", "v": "values only"}[variant.part]] if variant.part != "kv" else []
        notes += [variant.window.text()] if variant.window is not None else []
        note = f" ({', '.join(notes)})" if notes else ""
        lines.append(f"{layer_names(variant.layers, blocks)}{note}: {variant.text}")
    return "\n".join(lines)


def _encode(clip: Any, text: str) -> Conditioning:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _injection(variant: Variant, encoded: Conditioning, blocks: ModelBlocks) -> Injection:
    return injection(variant.spec, stretches(encoded, blocks), label=variant.text)
