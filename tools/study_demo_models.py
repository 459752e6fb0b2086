"""Remakes the pages of ``docs/studies``: ``study_demo_models.py`` for all, or the names of some."""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
STUDIES = ("base", "blocks", "merge", "thresholding", "prompt_change", "deprojector", "xti")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="which; none for all")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "studies")
    parser.add_argument("--weights", type=Path, help="another set of weights than demo_models/weights")
    parser.add_argument("--share", type=float, default=1.0, help="of the prompts, to try the code of a study")
    given = parser.parse_args()
    from refhost.pack import load_pack, use_comfyui

    load_pack()
    use_comfyui()
    if given.weights:
        importlib.import_module("blockwork.demo_models.files").use(given.weights.resolve())
    from demo_models import sampling

    sampling.share = given.share
    for name in given.studies or STUDIES:
        print(f"study: {name}", flush=True)
        importlib.import_module(f"demo_models.study_{name}").run(given.out)


if __name__ == "__main__":
    main()
