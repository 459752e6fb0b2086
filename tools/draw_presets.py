"""Writes web/deck/presets.mjs and web/deck/layouts.mjs, which the block deck reads, from the pack's own tables."""

import json
import sys

from refhost import layout
from refhost.pack import load_pack

TARGET = layout.ROOT / "web" / "deck" / "presets.mjs"
LAYOUTS_TARGET = layout.ROOT / "web" / "deck" / "layouts.mjs"
HEAD = """// @ts-check
/** Weight presets by layout, in MBW order. Written by tools/draw_presets.py from blocks/presets.py. */

/** @type {Record<string, Record<string, number[]>>} */
export const PRESETS = {
"""
LAYOUTS_HEAD = """// @ts-check
/**
 * Layouts that a weight text can name: stacks as letter, title and number of blocks, then the names outside them.
 * Written by tools/draw_presets.py from blocks/names.py.
 */

/** @type {Record<string, [[string, string, number][], string[]]>} */
export const NAMED = {
"""


def text() -> str:
    """The module of presets, with every number rounded to ten places as the community's tables have it."""
    load_pack()
    from blockwork.blocks import presets  # pyright: ignore[reportMissingImports]
    from blockwork.blocks.weights import number_text  # pyright: ignore[reportMissingImports]

    lines = []
    for shape in ("sd1", "sdxl"):
        lines.append(f"  {shape}: {{")
        for name in presets.names(shape):
            numbers = ", ".join(number_text(round(value, 10) + 0.0) for value in presets.preset(name, shape))
            lines.append(f'    "{name}": [{numbers}],')
        lines.append("  },")
    return HEAD + "\n".join(lines) + "\n};\n"


def layouts_text() -> str:
    """The module of layouts."""
    load_pack()
    from blockwork.blocks.names import LAYOUTS  # pyright: ignore[reportMissingImports]

    lines = []
    for shape in LAYOUTS.values():
        stacks = [[stack.letter, stack.title, stack.count] for stack in shape.stacks]
        lines.append(f"  {shape.name}: [{json.dumps(stacks)}, {json.dumps(list(shape.apart))}],")
    return LAYOUTS_HEAD + "\n".join(lines) + "\n};\n"


def main() -> int:
    TARGET.write_text(text(), encoding="utf-8", newline="\n")
    LAYOUTS_TARGET.write_text(layouts_text(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
