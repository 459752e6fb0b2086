"""Trains a CLIP text deprojector on the command line, on one device or several.

    python tools/train_deprojector.py --captions captions.txt --checkpoint model.safetensors --out runs/first
    torchrun --nproc-per-node 4 tools/train_deprojector.py --prepared runs/first --out runs/first --family "LSTM 2"

The first form encodes the captions with the checkpoint's CLIP-L (ComfyUI's classes), stores examples and encoder
in ``--out`` once, and trains. The second trains on stored examples. An interrupted run resumes; more ``--steps``
extend a finished one. ``--batch`` is the joint batch of all processes. Writes ``deprojector.safetensors``,
``history.json``, ``checkpoint.safetensors`` and ``snapshots`` into ``--out``.
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

load_pack()

from blockwork.deprojector import files  # noqa: E402 # pyright: ignore
from blockwork.deprojector.errors import DeprojectorError  # noqa: E402 # pyright: ignore
from blockwork.deprojector.train import examples, start, trainer  # noqa: E402 # pyright: ignore
from blockwork.deprojector.train.scores import History  # noqa: E402 # pyright: ignore

log = logging.getLogger("blockwork")


def parsed() -> argparse.Namespace:
    recipe = {field.name: field.default for field in fields(trainer.Recipe)}
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
        help="deprojector whose inverse projection is used; without it the encoder's own, if its file has one",
    )
    parser.add_argument("--test", type=int, default=100, help="captions held out for evaluation")
    parser.add_argument("--schedule", default=recipe["schedule"], choices=trainer.SCHEDULES)
    for name in ("steps", "batch", "evaluate_every", "patience", "seed", "part", "snapshot_every"):
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
    for path in (options.captions, options.checkpoint):
        if not path.is_file():
            raise DeprojectorError(f"There is no file {path}. Check --captions and --checkpoint.")
    if _rank() == 0:
        use_comfyui(cpu=options.device == "cpu")
        from blockwork.deprojector.host import encoder, training  # pyright: ignore

        clip, projection = encoder.load_clip(options.checkpoint, options.heads)
        training.prepare(
            clip, options.captions, options.out, options.test, options.seed, projection=projection
        )
    if dist.is_initialized():
        dist.barrier()
    return options.out


def train(options: argparse.Namespace) -> None:
    names = {field.name for field in fields(trainer.Recipe)}
    recipe = trainer.Recipe(**{name: value for name, value in vars(options).items() if name in names})
    inverse = None
    if options.projection_from:
        inverse = files.load(options.projection_from).inverse_projection().detach()
    folder = prepare(options)
    encoder, heads = start.prepared_encoder(folder)
    train_set = examples.read(folder / "train.safetensors")
    test_set = examples.read(folder / "test.safetensors")
    if inverse is None:
        inverse = start.inverse_projection(encoder)
    config = start.preset(options.family, encoder, heads)
    model = start.started(config, encoder, (encoder["start"], encoder["null"]), inverse, options.seed)
    out = options.out
    run = trainer.Trainer(
        model,
        train_set,
        test_set,
        recipe,
        _device(options),
        out / "checkpoint.safetensors",
        out / "snapshots",
    )
    history = run.run(_say if _rank() == 0 else None)
    if _rank() == 0:
        _write(run, history, out)


def _say(step: int, history: History) -> None:
    scored, scores = history.scores[-1]
    if scored == step:
        log.info(
            "step %d: loss %.4f, held out: from true rows %.4f, free-running %.4f (cosine %.4f)",
            step, history.losses[-1], scores.forced_weighted, scores.free_weighted, scores.free_cosine,
        )  # fmt: skip


def _write(run: trainer.Trainer, history: History, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "processes": run.world,
        "losses": history.losses,
        "scores": [{"step": step, **scores._asdict()} for step, scores in history.scores],
    }
    scratch = out / "history.json.tmp"
    scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scratch.replace(out / "history.json")
    number = 0
    while (path := out / f"deprojector{f'_{number}' if number else ''}.safetensors").exists():
        number += 1
    log.info("wrote %s", files.save(run.model.cpu(), path).name)


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
    except OSError as error:
        log.error("%s: %s. Check the paths.", error.filename, error.strerror)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
