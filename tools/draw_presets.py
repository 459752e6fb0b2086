"""Writes web/deck/presets.mjs, the weight presets that the block deck offers, from the pack's closed forms."""

import sys

from refhost import layout
from refhost.pack import load_pack

TARGET = layout.ROOT / "web" / "deck" / "presets.mjs"
HEAD = """// @ts-check
/** Weight presets by layout, in MBW order. Written by tools/draw_presets.py from blocks/presets.py. */

/** @type {Record<string, Record<string, number[]>>} */
export const PRESETS = {
"""


def text() -> str:
    """The module, with every number rounded to ten places as the field's tables have it."""
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


def main() -> int:
    TARGET.write_text(text(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
