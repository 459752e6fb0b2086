"""The selection half of a block spec: names, ranges and groups in any dialect to cross-attention layers."""

import re
from collections.abc import Container
from functools import cached_property

from .walk import Block, ModelBlocks, SubBlock

COARSE = 4  # blocks at a quarter of the latent's side and below hold object and composition


class Fault(ValueError):
    """A selection that cannot be read: ``problem`` says why, ``start`` and ``end`` say where in it."""

    def __init__(self, problem: str, start: int, end: int):
        super().__init__(problem)
        self.problem, self.start, self.end = problem, start, end


_DIGITS = r"\d{1,4}(?!\d)"  # no model has more blocks, and longer numbers are slow to read
_ENDPOINTS = {
    "name": rf"(IN|OUT|B)_?({_DIGITS})",
    "middle": r"(?:MID(?![a-z_])|M_?0{1,4}(?!\d)|middle(?:_block)?[:.]0(?!\d))",
    "comfy": rf"(input|output)(?:_blocks)?[:.]({_DIGITS})",
    "ordinal": rf"([dmu])({_DIGITS})",
    "index": rf"idx:({_DIGITS})",
    "diffusers": rf"((?:down|up)_blocks\.{_DIGITS}|mid_block)(?:\.attentions\.({_DIGITS}))?"
    r"(?:\.transformer_blocks(?=\.\d))?",
    "stack": rf"(?:[a-z]+_)*(?:transformer\.layers|blocks?)[.:]({_DIGITS})",
    "plus": rf"\(\s*({_DIGITS})\s*,\s*(down|mid|up)\s*,\s*({_DIGITS})\s*\)",
}
_PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _ENDPOINTS.items()}
_INNER = re.compile(rf"\.({_DIGITS})(?:-({_DIGITS})(?![:.]))?")
_STEP = re.compile(rf"\+\s*({_DIGITS})\s*")
_SIDES = {"in": "input", "out": "output", "b": "block", "d": "input", "m": "middle", "u": "output"}
_MEANT = {"middle": "mid", "input": "down", "output": "up", "in": "down", "out": "up", "every": "all"}


class Selector:
    """Reads the selections of one spec for one model; ``groups`` maps a group's name to its blocks."""

    def __init__(self, model_blocks: ModelBlocks):
        self.model_blocks = model_blocks

    @cached_property
    def groups(self) -> dict[str, tuple[Block, ...]]:
        """Sides, coarse and fine, and the resolutions of this model."""
        model = self.model_blocks
        attending = model.attending
        found = {"all": attending}
        if model.native:
            limit = model.native // COARSE
            found |= {
                "down": tuple(b for b in attending if b.side == "input"),
                "mid": tuple(b for b in attending if b.side == "middle"),
                "up": tuple(b for b in attending if b.side == "output"),
                "coarse": tuple(b for b in attending if b.resolution <= limit),
                "fine": tuple(b for b in attending if b.resolution > limit),
            }
            for resolution in sorted({block.resolution for block in attending}):
                found[str(resolution)] = tuple(b for b in attending if b.resolution == resolution)
        return {name: blocks for name, blocks in found.items() if blocks}

    def select(self, text: str) -> tuple[SubBlock, ...]:
        """The layers that one item (without weight, window and part) names; Fault says what is wrong with it."""
        body, step = _without_step(text)
        group = self.groups.get(body.strip().lower())
        if group is not None:
            return _layers(group[::step], body)
        first, inner, place = self._endpoint(body, 0)
        rest = body[place:].strip()
        if not rest:
            return _layers(first[::step], body) if inner is None else _inner_layers(first, inner[::step])
        if not rest.startswith("-") or inner is not None:
            start = len(body) - len(body[place:].lstrip())
            raise Fault(f"Cannot read {_short(rest)!r} after {body[:place].strip()!r}.", start, len(body))
        return _layers(self._range(body, first, place)[::step], body)

    def _range(self, text: str, first: tuple[Block, ...], place: int) -> tuple[Block, ...]:
        """All blocks from ``first`` to the end point after the dash at ``place``."""
        after_dash = text[place:].lstrip()[1:].lstrip()
        start = len(text) - len(after_dash)
        prefix = re.match(r"(?:[a-z]+[_.])*[a-z]+[:.]?", text, re.IGNORECASE)
        if (
            after_dash.strip().isdigit() and prefix
        ):  # "input:4-8": the second number speaks the first's dialect
            last, inner, _ = self._endpoint(prefix.group() + after_dash.strip(), 0, start)
            end = len(text)
        else:
            last, inner, end = self._endpoint(text, start)
        if inner is not None or text[end:].strip():
            raise Fault("A range runs between whole blocks.", start, len(text))
        order = self.model_blocks.blocks
        low, high = order.index(first[0]), order.index(last[-1])
        if low > high:
            raise Fault(f"The range runs backwards; write {last[0].name}-{first[-1].name}.", 0, len(text))
        return order[low : high + 1]

    def _endpoint(self, text: str, start: int, shift: int = 0) -> tuple[tuple[Block, ...], range | None, int]:
        """Blocks and inner layers named at ``start``, where the name ends; faults point ``shift`` further."""
        for kind, pattern in _PATTERNS.items():
            match = pattern.match(text, start)
            if match is None:
                continue
            blocks = self._lookup(kind, match)
            if not blocks:
                raise Fault(f"Unknown block {match.group().strip()!r}.", start + shift, match.end() + shift)
            inner = _INNER.match(text, match.end())
            if inner is None:
                return blocks, None, match.end()
            low, high = int(inner.group(1)), int(inner.group(2) or inner.group(1))
            depth = min(block.depth for block in blocks)
            if high >= depth or low > high:
                there = f"has cross-attention layers 0-{depth - 1}" if depth else "has no cross-attention"
                problem = f"{blocks[0].name} {there}; {inner.group()[1:]!r} is not among them."
                raise Fault(problem, start + shift, inner.end() + shift)
            return blocks, range(low, high + 1), inner.end()
        unknown = text[start:].strip()
        raise Fault(
            f"Unknown block {_short(unknown)!r}.{_meant(unknown, self.groups)}",
            start + shift,
            len(text) + shift,
        )

    def _lookup(self, kind: str, match: re.Match[str]) -> tuple[Block, ...]:
        model, attending = self.model_blocks, self.model_blocks.attending
        if kind == "name":
            return _one(model.find(_SIDES[match.group(1).lower()], int(match.group(2))))
        if kind == "middle":
            return _one(model.find("middle", 0))
        if kind == "comfy":
            return _one(model.find(match.group(1).lower(), int(match.group(2))))
        if kind == "stack":
            return _one(model.find("block", int(match.group(1))))
        if kind == "ordinal":
            side = [block for block in attending if block.side == _SIDES[match.group(1).lower()]]
            return tuple(side[int(match.group(2)) :][:1])
        if kind == "index":
            return tuple(attending[int(match.group(1)) :][:1])
        if kind == "plus":
            return _at(attending, int(match.group(1)), match.group(2).lower(), int(match.group(3)))
        stem, number = match.group(1).lower(), match.group(2)
        if number is not None:
            return tuple(
                block for block in attending if block.diffusers == f"{stem}.attentions.{int(number)}"
            )
        return tuple(block for block in attending if block.diffusers.rpartition(".attentions.")[0] == stem)


def _meant(text: str, groups: Container[str]) -> str:
    """A suggestion for a word or number that is close to something that can be named."""
    word = text.lower().strip("s")
    if _MEANT.get(word, "") in groups:
        return f" Did you mean {_MEANT[word]}?"
    if re.fullmatch(r"[-+]?\d*\.?\d+", word[:20]):
        return f" A weight follows the blocks it is for. Did you mean all={word}?"
    return ""


def _without_step(text: str) -> tuple[str, int]:
    """The text before ``(+2)`` and the 2; 1 where there is none."""
    body = text.rstrip()
    place = body.rfind("(")
    match = _STEP.fullmatch(body[place + 1 : -1].strip()) if place >= 0 and body.endswith(")") else None
    if match is None:
        return text, 1
    if int(match.group(1)) < 1:
        raise Fault("A step counts blocks: (+1) or more.", place, len(text))
    return body[:place].rstrip(), int(match.group(1))


def _at(blocks: tuple[Block, ...], resolution: int, direction: str, place: int) -> tuple[Block, ...]:
    """The block at a coordinate of P+; the middle is also ``(resolution, mid, 0)``."""
    if direction == "mid":
        return tuple(b for b in blocks if b.side == "middle" and (b.resolution, place) == (resolution, 0))
    return tuple(block for block in blocks if block.plus == (resolution, direction, place))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _one(block: Block | None) -> tuple[Block, ...]:
    return () if block is None else (block,)


def _layers(blocks: tuple[Block, ...], text: str) -> tuple[SubBlock, ...]:
    """Every layer of the blocks; Fault when none of them has cross-attention."""
    found = tuple(sub for block in blocks for sub in block.sub_blocks)
    if not found:
        names = ", ".join(block.name for block in blocks)
        verb = "has" if len(blocks) == 1 else "have"
        raise Fault(f"{names} {verb} no cross-attention: no prompt reaches it.", 0, len(text))
    return found


def _inner_layers(blocks: tuple[Block, ...], inner: range) -> tuple[SubBlock, ...]:
    return tuple((block.side, block.number, i) for block in blocks for i in inner)
