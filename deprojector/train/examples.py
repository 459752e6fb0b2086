"""Training pairs: the embedding of a text, or of two merged ones, and the hidden states to be predicted.

Four in ten captions stay as they are, three in ten are split at a random word (input: the two halves' embeddings
merged; target: the whole), three in ten are combined with the next one (input: both merged; target: "a b").
Everything is encoded once and kept in one safetensors file.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..algebra import merged
from ..config import decoded
from ..errors import DeprojectorError
from ..files import write

NORMAL, SPLIT = 0.4, 0.3  # the rest is combined


class Encoded(NamedTuple):
    """Texts through a text encoder: hidden states ``b rows d``, the end row of each, and whether it was cut."""

    states: Tensor
    end: Tensor
    cut: list[bool]

    @property
    def pooled(self) -> Tensor:
        """The end rows, ``b d``: what CLIP pools."""
        return self.states[torch.arange(len(self.states)), self.end]


Encoder = Callable[[Sequence[str]], Encoded]


class Pair(NamedTuple):
    """One example: the texts whose embeddings are merged, and the text whose hidden states are wanted."""

    parts: tuple[str, ...]
    target: str


@dataclass
class Examples:
    """Examples in memory: merged embeddings ``n d``, hidden states ``n rows d`` (half precision), end rows ``n``."""

    embeds: Tensor
    states: Tensor
    end: Tensor
    null: Tensor  # d, the empty text's embedding

    def __len__(self) -> int:
        return len(self.embeds)

    def batch(self, chosen: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, hidden states and end rows of the chosen examples, in float32 on the device."""
        return (
            self.embeds[chosen].to(device, torch.float32),
            self.states[chosen].to(device, torch.float32),
            self.end[chosen].to(device),
        )


def pairs(captions: Sequence[str], seed: int, augment: bool = True) -> list[Pair]:
    """The examples that captions give, the empty text first; the same for the same seed."""
    chance = random.Random(seed)
    result = [Pair(("",), "")]
    waiting = iter(captions)
    for caption in waiting:
        draw = chance.random()
        words = caption.split(" ")
        if not augment or draw < NORMAL:
            result.append(Pair((caption,), caption))
            continue
        other = next(waiting, None) if draw >= NORMAL + SPLIT else None
        if other is not None:
            result.append(Pair((caption, other), f"{caption} {other}"))
        elif len(words) > 1:
            cut = chance.randint(1, len(words) - 1)
            result.append(Pair((" ".join(words[:cut]), " ".join(words[cut:])), caption))
        else:
            result.append(Pair((caption,), caption))
    return result


def encode(
    wanted: Sequence[Pair],
    encoder: Encoder,
    batch: int = 32,
    on_text: Callable[[int, int], None] | None = None,
) -> Examples:
    """Encode all texts that the pairs need, each once.

    A combination that does not fit into the encoder's rows is replaced by its first text.
    """
    null = encoder([""]).pooled[0].float()
    pooled: dict[str, Tensor] = {}
    embeds, states, ends = [], [], []
    for number, group in enumerate(_groups(wanted, batch)):
        group, encoded = _fitting(group, encoder)
        targets = [pair.target for pair in group]
        parts = [part for pair in group if len(pair.parts) > 1 for part in pair.parts]
        pooled = dict(zip(targets, encoded.pooled.float(), strict=True))
        for start in range(0, len(parts), batch):
            some = parts[start : start + batch]
            pooled |= zip(some, encoder(some).pooled.float(), strict=True)
        for pair in group:
            alone = len(pair.parts) == 1
            embeds.append(pooled[pair.target] if alone else merged([pooled[p] for p in pair.parts], null))
        states.append(encoded.states.half())
        ends.append(encoded.end)
        if on_text:
            on_text(min((number + 1) * batch, len(wanted)), len(wanted))
    return Examples(torch.stack(embeds), torch.cat(states), torch.cat(ends), null)


def _groups(wanted: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def _fitting(group: Sequence[Pair], encoder: Encoder) -> tuple[list[Pair], Encoded]:
    """The pairs, combinations that are too long replaced by their first text, and their targets encoded."""
    pairs = list(group)
    encoded = encoder([pair.target for pair in pairs])
    given_up = [n for n, pair in enumerate(pairs) if len(pair.parts) > 1 and encoded.cut[n]]
    if given_up:
        for number in given_up:
            first = pairs[number].parts[0]
            pairs[number] = Pair((first,), first)
        shorter = encoder([pairs[number].target for number in given_up])
        encoded.states[given_up], encoded.end[given_up] = shorter.states, shorter.end
    return pairs, encoded


def cached(
    path: Path,
    wanted: Sequence[Pair],
    encoder: Encoder,
    identity: str,
    on_text: Callable[[int, int], None] | None = None,
) -> Examples:
    """The examples at ``path``, encoded once and stored there.

    DeprojectorError if the file holds other pairs, or another encoder's (``identity``).
    """
    expected = stamp(wanted, identity)
    if path.exists():
        check_stamp(path, expected)
        return read(path)
    examples = encode(wanted, encoder, on_text=on_text)
    store(examples, path, expected)
    return examples


def stamp(wanted: Sequence[Pair], identity: str) -> str:
    """What tells prepared examples from others."""
    return hashlib.sha256(json.dumps([identity, wanted]).encode()).hexdigest()


def check_stamp(path: Path, expected: str) -> None:
    """DeprojectorError unless the file is missing or holds the examples of that stamp."""
    if path.exists() and _metadata(path).get("stamp") != expected:
        raise DeprojectorError(
            f"{path.name} in {path.parent.name!r} was prepared from other captions, another seed or another text "
            "encoder. Choose another run name, or delete the run's folder."
        )


def store(examples: Examples, path: Path, stamp: str = "") -> None:
    """Write the examples in one go; an interrupted write leaves no file."""
    names = ("embeds", "states", "end", "null")
    write({name: getattr(examples, name) for name in names}, path, {"stamp": stamp})


def read(path: Path) -> Examples:
    """Examples stored before; DeprojectorError where there are none."""
    _metadata(path)
    with safe_open(path, framework="pt") as file:
        return Examples(*(file.get_tensor(name) for name in ("embeds", "states", "end", "null")))


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DeprojectorError(f"There are no prepared examples at {path}. Prepare them with --captions.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise DeprojectorError(
            f"{path} is damaged ({error}). Delete the run's folder and start again."
        ) from error


def read_captions(path: Path) -> list[str]:
    """The lines of a caption file that hold text, without repeats.

    UTF-8, with or without a byte order mark, or UTF-16 with one. DeprojectorError for other files, and for fewer
    than 20 captions.
    """
    captions = list(dict.fromkeys(line.strip() for line in decoded(path).splitlines() if line.strip()))
    if len(captions) < 20:
        raise DeprojectorError(
            f"{path.name} holds {len(captions)} captions. Training needs at least 20, one per line."
        )
    return captions
