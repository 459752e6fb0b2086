"""What a conditioning injects where, as text."""

from collections.abc import Sequence

from ..blocks.walk import ModelBlocks, SubBlock
from .entries import Injection

PARTS = {"kv": "", "k": " to keys", "v": " to values"}


def layer_names(layers: Sequence[SubBlock], blocks: ModelBlocks) -> str:
    """Names of layers: whole blocks by name, parts of deep ones as ``OUT01.3``; ``all blocks`` for all."""
    chosen = set(layers)
    if chosen == set(blocks.sub_blocks):
        return "all blocks"
    names = []
    for block in blocks.attending:
        inside = [inner for _, _, inner in block.sub_blocks if (block.side, block.number, inner) in chosen]
        if len(inside) == block.depth:
            names.append(block.name)
        else:
            names += [f"{block.name}.{inner}" for inner in inside]
    return ", ".join(names)


def plan_text(injections: Sequence[Injection], blocks: ModelBlocks) -> str:
    """One line per injection and setting: what goes where, how, how strongly and when."""
    if not injections:
        return "No injections: every block gets the conditioning's own prompt."
    return "\n".join(line for number, one in enumerate(injections, 1) for line in _lines(number, one, blocks))


def _lines(number: int, one: Injection, blocks: ModelBlocks) -> list[str]:
    groups: dict[tuple[float, str, str], list[SubBlock]] = {}
    for sub_block, settings in one.layers.items():
        for setting in settings:
            when = setting.window.text() if setting.window else ""
            groups.setdefault((setting.weight, setting.part, when), []).append(sub_block)
    always = "".join(window.text() for window in one.windows)
    lines = [
        f"{number}. {one.label or 'prompt'}: {one.mode} {weight:g}{PARTS[part]} in {layer_names(layers, blocks)}"
        f"{' ' if always or when else ''}{always}{when}"
        for (weight, part, when), layers in groups.items()
    ]
    lines = lines or [f"{number}. {one.label or 'prompt'}: off (all weights are zero)"]
    if len(one.prompt) > 1:
        lines.append(f"   a schedule of {len(one.prompt)} prompts")
    if one.pooled != "base":
        lines.append(
            f"   pooled embedding: {'injected' if one.pooled == 'injected' else f'mixed by {one.weight:g}'}"
        )
    if one.for_controlnet:
        lines.append("   ControlNets see the injected prompt")
    if one.on_zeros:
        lines.append("   the conditioning itself is all zeros")
    if one.skipped:
        lines.append(f"   skipped, no cross-attention: {', '.join(one.skipped)}")
    return lines


def no_layer_note(names: Sequence[str]) -> str:
    """The warning that some blocks of a list of weights have no cross-attention."""
    return f"No prompt reaches {', '.join(names)} (no cross-attention). The weights there have no effect."
