"""Makes every committed image again, in order: `draw_all.py`, or the names of some steps; `--list` names the steps and their images.

Three hours on two cores. The weights of the demo models stay as they are (tools/train_demo_models.py makes them).
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass

from refhost import layout, templates


@dataclass(frozen=True)
class Step:
    """A command of tools/ or benchmarks/, and patterns of the images that it makes."""

    script: str
    images: tuple[str, ...]
    arguments: tuple[str, ...] = ()


PAGES = ("base", "block_roles", "merge_paths", "thresholding", "prompt_change", "deprojector", "xti")
STEPS = (
    Step("tools/draw_icon.py", ("docs/pictures/icon.png", "docs/pictures/banner.png")),
    Step("tools/draw_workflows.py", ()),
    Step(
        "tools/study_demo_models.py",
        tuple(f"docs/studies/{name}*" for name in PAGES),
    ),
    # What its page concludes is written by hand: read it again after this.
    Step(
        "tools/demo_models/study_search.py",
        ("docs/studies/search*",),
        (".demo_models/search", "--seeds", "4", "--page"),
    ),
    Step("tools/demo.py", ("docs/pictures/contact_sheet.jpg",), ("--docs",)),
    Step(
        "tools/draw_articles.py",
        ("docs/images/articles/*.jpg", "docs/images/block_sweep.jpg", "web/docs/pictures/block_sweep.jpg"),
    ),
    Step("tools/draw_thumbnails.py", ("example_workflows/*.jpg",), tuple(templates.names())),
    Step("tools/draw_help_pictures.py", ("web/docs/pictures/Blockwork*.jpg",), ("--all",)),
    Step("tools/draw_screenshots.py", ("docs/pictures/deck.jpg", "docs/pictures/walk-*.jpg")),
    Step(
        "benchmarks/deprojector_recipe.py",
        ("benchmarks/results/deprojector_recipe.png",),
        ("--steps", "800", "--seeds", "2", "--out", "benchmarks/results"),
    ),
)


def main() -> int:
    known = {step.script.rpartition("/")[2].removesuffix(".py"): step for step in STEPS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[*known, []], help="which; none for all")
    parser.add_argument(
        "--list", action="store_true", help="name the steps and their images, and draw nothing"
    )
    given = parser.parse_args()
    chosen = given.steps or list(known)
    for number, name in enumerate(chosen, start=1):
        step = known[name]
        print(f"{number}/{len(chosen)} {name}: {', '.join(step.images) or 'the workflows'}", flush=True)
        if given.list:
            continue
        started = time.monotonic()
        command = [layout.venv_bin("python"), layout.ROOT / step.script, *step.arguments]
        if subprocess.run(command, cwd=layout.ROOT, check=False).returncode:
            print(f"{name} failed; the images of the steps before it are made", file=sys.stderr)
            return 1
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
