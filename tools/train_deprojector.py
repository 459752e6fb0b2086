"""Trains a CLIP text deprojector on the command line, on one device or several.

    python tools/train_deprojector.py --captions captions.txt --checkpoint model.safetensors --out runs/first
    torchrun --nproc-per-node 4 tools/train_deprojector.py --prepared runs/first --out runs/first --family "LSTM 2"

The first form encodes the captions with the checkpoint's CLIP-L (ComfyUI's classes), stores examples and encoder
in ``--out`` once, and trains. The second trains on what is stored there. A stopped run goes on where it was.
``--batch`` is the joint batch of all processes. Writes ``deprojector.safetensors``, ``history.json`` and
``checkpoint.safetensors`` into ``--out``.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from refhost.pack import load_pack, use_comfyui  # noqa: E402
from safetensors import safe_open  # noqa: E402

load_pack()

from blockwork.deprojector import examples, loading, start, training  # noqa: E402 # pyright: ignore
from blockwork.deprojector.errors import DeprojectorError  # noqa: E402 # pyright: ignore

log = logging.getLogger("blockwork")


def parsed() -> argparse.Namespace:
    recipe = {field.name: field.default for field in fields(training.Recipe)}
    parser = argparse.ArgumentParser(description="Trains a CLIP text deprojector.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--captions", type=Path, help="text file, one caption per line")
    source.add_argument("--prepared", type=Path, help="folder of an earlier run with its stored examples")
    parser.add_argument(
        "--checkpoint", type=Path, help="SD1 checkpoint or CLIP-L file to encode the captions with"
    )
    parser.add_argument(
        "--heads", type=int, help="attention heads, for a text encoder of another width than 768"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--family", default="LSTM 3, wide 1.5x, 1 layer", choices=list(start.PRESETS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--projection-from",
        type=Path,
        help="deprojector whose inverse projection is taken over; without it the encoder's own, if its file has one",
    )
    parser.add_argument("--test", type=int, default=100, help="captions held out for evaluation")
    parser.add_argument("--schedule", default=recipe["schedule"], choices=training.SCHEDULES)
    for name in ("steps", "batch", "evaluate_every", "patience", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=recipe[name])
    for name in ("learning_rate", "noise", "clip"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=recipe[name])
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> Path:
    """The folder with examples and encoder; made by the first process, the others wait for it."""
    if options.prepared:
        return options.prepared
    if options.checkpoint is None:
        raise DeprojectorError("--captions needs --checkpoint, the model whose CLIP-L encodes them.")
    if _rank() == 0:
        use_comfyui(cpu=options.device == "cpu")
        from blockwork.deprojector import host_encoder, host_training  # pyright: ignore

        clip, projection = host_encoder.load_clip(options.checkpoint, options.heads)
        host_training.prepare(
            clip, options.captions, options.out, options.test, options.seed, projection=projection
        )
    if dist.is_initialized():
        dist.barrier()
    return options.out


def train(options: argparse.Namespace) -> None:
    folder = prepare(options)
    train_set = examples.read(folder / "train.safetensors")
    test_set = examples.read(folder / "test.safetensors")
    with safe_open(folder / "encoder.safetensors", framework="pt") as file:
        encoder = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        heads = int(file.metadata()["heads"])
    rows = encoder["start"], encoder["null"]
    config = start.preset(options.family, encoder, heads)
    if options.projection_from:
        inverse = loading.load(options.projection_from).projection_inverse.detach()
    else:
        inverse = start.inverse_projection(encoder)
    model = start.started(config, encoder, rows, inverse, options.seed)
    names = {field.name for field in fields(training.Recipe)}
    recipe = training.Recipe(**{name: value for name, value in vars(options).items() if name in names})
    trainer = training.Trainer(
        model, train_set, test_set, recipe, _device(options), options.out / "checkpoint.safetensors"
    )
    history = trainer.run(_say if _rank() == 0 else None)
    if _rank() == 0:
        _write(trainer, history, options.out)


def _say(step: int, history: training.History) -> None:
    scored, scores = history.scores[-1]
    if scored == step:
        log.info(
            "step %d: loss %.4f, held out: from true rows %.4f, free-running %.4f (cosine %.4f)",
            step, history.losses[-1], scores.forced_weighted, scores.free_weighted, scores.free_cosine,
        )  # fmt: skip


def _write(trainer: training.Trainer, history: training.History, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "processes": trainer.world,
        "losses": history.losses,
        "scores": [{"step": step, **scores._asdict()} for step, scores in history.scores],
    }
    scratch = out / "history.json.tmp"
    scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scratch.replace(out / "history.json")
    number = 0
    while (path := out / f"deprojector{f'_{number}' if number else ''}.safetensors").exists():
        number += 1
    log.info("wrote %s", loading.save(trainer.model.cpu(), path).name)


def _device(options: argparse.Namespace) -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if options.device == "cuda" else options.device


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = parsed()
    if "WORLD_SIZE" in os.environ:
        if options.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    try:
        train(options)
    except DeprojectorError as error:
        log.error("%s", error)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
