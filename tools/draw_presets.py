"""Writes presets.mjs, layouts.mjs and lora_lists.mjs in web/deck, which the block deck reads, from the pack's own tables."""

import json
import sys

from refhost import layout
from refhost.pack import load_pack

TARGET = layout.ROOT / "web" / "deck" / "presets.mjs"
LAYOUTS_TARGET = layout.ROOT / "web" / "deck" / "layouts.mjs"
LORA_TARGET = layout.ROOT / "web" / "deck" / "lora_lists.mjs"
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


LORA_HEAD = """// @ts-check
/** Lists and presets of LoRA Block Weight. Written by tools/draw_presets.py from merge/lora/weights.py. */
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


def lora_text() -> str:
    """The module of lists by layout and length, and of presets, with those that differ for SDXL."""
    load_pack()
    from blockwork.blocks.names import SD1, SDXL  # pyright: ignore[reportMissingImports]
    from blockwork.merge.lora import weights  # pyright: ignore[reportMissingImports]

    lines = [LORA_HEAD, "/** @type {Record<string, Record<number, string[]>>} */", "export const LISTS = {"]
    for shape, lists in weights.LISTS.items():
        lines.append(f"  {shape}: {{")
        lines += [f"    {count}: {json.dumps(names)}," for count, names in lists.items()]
        lines.append("  },")
    lines.append("};")
    common = {name: weights.preset(name, SD1) for name in weights.PRESETS}
    sdxl = {name: weights.preset(name, SDXL) for name in weights.PRESETS}
    changed = {name: values for name, values in sdxl.items() if values != common[name]}
    for name, table in (("PRESETS", common), ("SDXL_PRESETS", changed)):
        lines += ["", "/** @type {Record<string, string>} */", f"export const {name} = {{"]
        lines += [f"  {json.dumps(preset)}: {json.dumps(values)}," for preset, values in table.items()]
        lines.append("};")
    return "\n".join(lines) + "\n"


def main() -> int:
    TARGET.write_text(text(), encoding="utf-8", newline="\n")
    LAYOUTS_TARGET.write_text(layouts_text(), encoding="utf-8", newline="\n")
    LORA_TARGET.write_text(lora_text(), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
