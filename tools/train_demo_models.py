"""Trains the demo models, see demo_models/README.md: ``train_demo_models.py all``.

Each model gets a fixed share of the minutes: of two cores on a CPU (counted as time of computing, so that a busy machine
only makes it last longer), of the GPU with ``--device cuda``, on several GPUs under ``torchrun --nproc-per-node N``. A
run that was stopped resumes from its checkpoints in the folder. One or more names train these models alone; each needs
the models before it that it reads (a new text encoder makes all later ones stale). ``publish`` copies a complete set to
demo_models/weights.
"""

import argparse
import importlib
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Minutes of 172, in an order in which each model finds what it needs.
SHARES = {
    "vae": 4.0, "clip": 15.0, "judge": 4.0, "unet": 75.0, "ink": 6.0, "night": 6.0, "tokens": 8.0,
    "stage1": 10.0, "stage2": 36.0, "deprojectors": 8.0,
}  # fmt: skip
WHOLE = 172.0
# Module below tools/demo_models, and what its run is given.
MODELS = {
    "ink": ("unet", {"style": "ink"}), "night": ("unet", {"style": "night"}),
    "stage1": ("stages", {"stage": "I"}), "stage2": ("stages", {"stage": "II"}),
}  # fmt: skip
PUBLISH = "publish"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=["all", *SHARES, PUBLISH])
    parser.add_argument(
        "--minutes", type=float, default=WHOLE, help="for the whole set, whichever models are named"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="checkpoints, weights and logs (default: .demo_models)")
    given = parser.parse_args()
    from refhost.pack import load_pack, use_comfyui

    load_pack()
    use_comfyui(cpu=given.device == "cpu")
    from demo_models import training

    training.settle(given.folder or training.SCRATCH, given.device)
    names = [name for name in SHARES if name in given.models or "all" in given.models]
    for name in names:
        module, arguments = MODELS.get(name, (name, {}))
        importlib.import_module(f"demo_models.{module}").run(
            given.minutes * SHARES[name] / WHOLE, **arguments
        )
    return publish(training.HERE) if PUBLISH in given.models else 0


def publish(here) -> int:
    """Copy the weights and logs to ``demo_models`` if the set is complete, and nothing otherwise."""
    from demo_models.training import COMPLETE, layout

    missing = [name for name in COMPLETE if not (here.weights / f"{name}.safetensors").is_file()]
    if missing:
        print(f"The set is not complete, nothing was copied. Missing: {', '.join(missing)}.", file=sys.stderr)
        return 1
    target = layout.ROOT / "demo_models"
    for folder in ("weights", "logs"):
        shutil.rmtree(target / folder, ignore_errors=True)
    for name in COMPLETE:
        path = target / "weights" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here.weights / f"{name}.safetensors", path)
    shutil.copytree(here.logs, target / "logs")
    size = sum(path.stat().st_size for path in (target / "weights").rglob("*.safetensors"))
    print(f"{len(COMPLETE)} files, {size / 1e6:.1f} MB in {target / 'weights'}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
