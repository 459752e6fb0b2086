"""The selection half of a block spec: names, ranges and groups in any dialect to cross-attention layers."""

import re

from .walk import Block, SubBlock, UNetBlocks

COARSE = 4  # blocks at a quarter of the latent's side and below hold object and composition


class Fault(ValueError):
    """A selection that cannot be read: ``problem`` says why, ``start`` and ``end`` say where in it."""

    def __init__(self, problem: str, start: int, end: int):
        super().__init__(problem)
        self.problem, self.start, self.end = problem, start, end


_ENDPOINTS = {
    "name": r"(IN|OUT)_?(\d+)",
    "middle": r"(?:MID(?![a-z_])|M_?0+(?!\d)|middle(?:_block)?[:.]0)",
    "comfy": r"(input|output)(?:_blocks)?[:.](\d+)",
    "ordinal": r"([dmu])(\d+)",
    "index": r"idx:(\d+)",
    "diffusers": r"((?:down|up)_blocks\.\d+|mid_block)(?:\.attentions\.(\d+))?"
    r"(?:\.transformer_blocks(?=\.\d))?",
    "plus": r"\(\s*(\d+)\s*,\s*(down|mid|up)\s*,\s*(\d+)\s*\)",
}
_PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _ENDPOINTS.items()}
_INNER = re.compile(r"\.(\d+)(?:-(\d+)(?![:.\d]))?")
_STEP = re.compile(r"\s*\(\s*\+\s*(\d+)\s*\)\s*$")
_SIDES = {"in": "input", "out": "output", "d": "input", "m": "middle", "u": "output"}


def groups(model_blocks: UNetBlocks) -> dict[str, tuple[Block, ...]]:
    """Group name -> its blocks: sides, coarse and fine, and the resolutions of this model."""
    attending = model_blocks.attending
    limit = model_blocks.native // COARSE
    found = {
        "all": attending,
        "down": tuple(b for b in attending if b.side == "input"),
        "mid": tuple(b for b in attending if b.side == "middle"),
        "up": tuple(b for b in attending if b.side == "output"),
        "coarse": tuple(b for b in attending if b.resolution <= limit),
        "fine": tuple(b for b in attending if b.resolution > limit),
    }
    for resolution in sorted({block.resolution for block in attending}):
        found[str(resolution)] = tuple(b for b in attending if b.resolution == resolution)
    return {name: blocks for name, blocks in found.items() if blocks}


def select(text: str, model_blocks: UNetBlocks) -> tuple[SubBlock, ...]:
    """The layers that one item (without weight, window and part) names; Fault says what is wrong with it."""
    body, step = text, 1
    if match := _STEP.search(text):
        body, step = text[: match.start()], int(match.group(1))
        if step < 1:
            raise Fault("A step counts blocks: (+1) or more.", match.start(), len(text))
    group = groups(model_blocks).get(body.strip().lower())
    if group is not None:
        return _layers(group[::step], body)
    first, inner, place = _endpoint(body, 0, model_blocks)
    rest = body[place:].strip()
    if not rest:
        return _layers(first[::step], body) if inner is None else _inner_layers(first, inner[::step])
    if not rest.startswith("-") or inner is not None:
        start = len(body) - len(body[place:].lstrip())
        raise Fault(f"Cannot read {rest!r} after {body[:place].strip()!r}.", start, len(body))
    return _layers(_range(body, first, place, model_blocks)[::step], body)


def _range(text: str, first: tuple[Block, ...], place: int, model_blocks: UNetBlocks) -> tuple[Block, ...]:
    """All blocks from ``first`` to the end point after the dash at ``place``."""
    after_dash = text[place:].lstrip()[1:].lstrip()
    start = len(text) - len(after_dash)
    bare = re.fullmatch(r"\d+\s*", after_dash)
    prefix = re.match(r"[a-z_]+[:.]?", text, re.IGNORECASE)
    if bare and prefix:  # "input:4-8": the second number speaks the first one's dialect
        last, inner, _ = _endpoint(prefix.group() + bare.group().strip(), 0, model_blocks, start)
        end = len(text)
    else:
        last, inner, end = _endpoint(text, start, model_blocks)
    if inner is not None or text[end:].strip():
        raise Fault("A range runs between whole blocks.", start, len(text))
    order = model_blocks.blocks
    low, high = order.index(first[0]), order.index(last[-1])
    if low > high:
        raise Fault(f"The range runs backwards; write {last[0].name}-{first[-1].name}.", 0, len(text))
    return order[low : high + 1]


def _endpoint(
    text: str, start: int, model_blocks: UNetBlocks, shift: int = 0
) -> tuple[tuple[Block, ...], range | None, int]:
    """Blocks and inner layers named at ``start``, and where the name ends; faults point ``shift`` further."""
    for kind, pattern in _PATTERNS.items():
        match = pattern.match(text, start)
        if match is None:
            continue
        blocks = _lookup(kind, match, model_blocks)
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
    raise Fault(f"Unknown block {text[start:].strip()!r}.", start + shift, len(text) + shift)


def _lookup(kind: str, match: re.Match[str], model_blocks: UNetBlocks) -> tuple[Block, ...]:
    attending = model_blocks.attending
    if kind == "name":
        return _one(model_blocks.find(_SIDES[match.group(1).lower()], int(match.group(2))))
    if kind == "middle":
        return _one(model_blocks.find("middle", 0))
    if kind == "comfy":
        return _one(model_blocks.find(match.group(1).lower(), int(match.group(2))))
    if kind == "ordinal":
        side = [block for block in attending if block.side == _SIDES[match.group(1).lower()]]
        return tuple(side[int(match.group(2)) :][:1])
    if kind == "index":
        return tuple(attending[int(match.group(1)) :][:1])
    if kind == "plus":
        resolution, direction, place = int(match.group(1)), match.group(2).lower(), int(match.group(3))
        if direction == "mid":
            return tuple(
                b for b in attending if b.side == "middle" and (b.resolution, place) == (resolution, 0)
            )
        return tuple(block for block in attending if block.plus == (resolution, direction, place))
    stem, number = match.group(1).lower(), match.group(2)
    if number is not None:
        return tuple(block for block in attending if block.diffusers == f"{stem}.attentions.{number}")
    return tuple(block for block in attending if block.diffusers.rpartition(".attentions.")[0] == stem)


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
