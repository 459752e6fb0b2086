"""Finds how much of which candidate is in each block of a merged file.

    python tools/find_recipe.py MERGE.safetensors A.safetensors B.safetensors [C.safetensors ...] [--key-map mbw]

Prints the report, the weights (one line per candidate after A) and the recipe. Needs torch and no ComfyUI.
"""

import argparse
import sys
from contextlib import ExitStack, closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from refhost.pack import load_pack  # noqa: E402

load_pack()

from blockwork.blocks.keymap import KEY_MAPS  # noqa: E402  # pyright: ignore[reportMissingImports]
from blockwork.merge import find  # noqa: E402  # pyright: ignore[reportMissingImports]
from blockwork.merge.errors import MergeError  # noqa: E402  # pyright: ignore[reportMissingImports]
from blockwork.merge.files.checkpoint import FileCheckpoint  # noqa: E402  # pyright: ignore[reportMissingImports]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Finds how much of which candidate is in each block of a merge."
    )
    parser.add_argument("merge", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+", help="two to seven model files")
    parser.add_argument("--key-map", choices=KEY_MAPS, default="mbw")
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            merge, *candidates = [
                stack.enter_context(closing(FileCheckpoint(path)))
                for path in (options.merge, *options.candidates)
            ]
            found = find.find_recipe(merge, candidates, options.key_map)
    except MergeError as error:
        print(error, file=sys.stderr)
        return 1
    print(find.report(found), find.weights_text(found), find.recipe_text(found), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
