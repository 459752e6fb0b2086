"""Trains deprojectors for the demo models' text encoder, through the pack's own training."""

import csv
import dataclasses
import functools

import torch
from blockwork.deprojector import files
from blockwork.deprojector.train import examples, start, trainer
from blockwork.deprojector.train.scores import History
from refhost.pack import use_comfyui

from .clip import all_words
from .training import LOGS, SCRATCH, WEIGHTS

FAMILIES = {
    "lstm_1": ("LSTM 3, wide 1.5x, 1 layer", 1),
    "lstm_2": ("LSTM 3, wide 1.25x, 2 layers", 2),
    "lstm_3": ("LSTM 3, wide 1x, 2 layers", 3),
    "transformer": ("transformer", None),
}
HELD_OUT = 100


def run(steps: int = 1500, minutes: float | None = None, seed: int = 51) -> None:
    """Train and publish ``deprojector/atelier_<family>.safetensors``; ``minutes`` is not heeded here."""
    use_comfyui()
    import blockwork.demo_models.host as demo_models
    from blockwork.deprojector.host import training

    folder = SCRATCH / "deprojectors"
    folder.mkdir(parents=True, exist_ok=True)
    captions = folder / "captions.txt"
    captions.write_text("\n".join(dict.fromkeys(all_words())), encoding="utf-8")
    state, _ = demo_models.read("clip")
    projection = state["clip_l.transformer.text_projection.weight"].float()
    training.prepare(demo_models.load_clip(), captions, folder, HELD_OUT, seed, projection=projection)
    train_set, test_set = (examples.read(folder / f"{name}.safetensors") for name in ("train", "test"))
    encoder, heads = start.prepared_encoder(folder)
    for name, (family, layers) in FAMILIES.items():
        target = WEIGHTS / "deprojector" / f"atelier_{name}.safetensors"
        if target.exists():
            continue
        config = start.preset(family, encoder, heads)
        if layers:
            config = dataclasses.replace(config, num_layers=layers)
        rows = encoder["start"], encoder["null"]
        model = start.started(config, encoder, rows, start.inverse_projection(encoder), seed)
        recipe = trainer.Recipe(
            steps=steps, batch=64, seed=seed, patience=0, evaluate_every=max(steps // 10, 1)
        )
        run_of = trainer.Trainer(
            model, train_set, test_set, recipe, "cpu", SCRATCH / f"deprojector_{name}.safetensors"
        )
        history = run_of.run(functools.partial(_say, name))
        _write_log(name, history)
        files.save(run_of.model.cpu(), target, torch.float16)


def _write_log(name: str, history: History) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"deprojector_{name}.csv").open("w", newline="") as log:
        writer = csv.writer(log)
        writer.writerow(["step", *history.scores[0][1]._fields])
        writer.writerows([step, *scores] for step, scores in history.scores)


def _say(name: str, step: int, history: History) -> None:
    if history.scores and history.scores[-1][0] == step:
        scores = history.scores[-1][1]
        print(
            name,
            step,
            f"free-running {scores.free_weighted:.4f}, cosine {scores.free_cosine:.4f}",
            flush=True,
        )
