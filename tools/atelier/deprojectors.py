"""Trains deprojectors for the atelier's text encoder, through the pack's own training."""

import csv
import dataclasses
import functools

import torch
from blockwork.deprojector import examples, loading, start, training
from refhost.pack import use_comfyui
from safetensors import safe_open

from .clip import all_words
from .studio import LOGS, SCRATCH, WEIGHTS

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
    import blockwork.atelier.host as atelier
    from blockwork.deprojector import host_training

    folder = SCRATCH / "deprojectors"
    folder.mkdir(parents=True, exist_ok=True)
    captions = folder / "captions.txt"
    captions.write_text("\n".join(dict.fromkeys(all_words())), encoding="utf-8")
    state, _ = atelier.read("clip")
    projection = state["clip_l.transformer.text_projection.weight"].float()
    host_training.prepare(atelier.load_clip(), captions, folder, HELD_OUT, seed, projection=projection)
    train_set, test_set = (examples.read(folder / f"{name}.safetensors") for name in ("train", "test"))
    with safe_open(folder / "encoder.safetensors", framework="pt") as file:
        encoder = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        heads = int(file.metadata()["heads"])
    for name, (family, layers) in FAMILIES.items():
        target = WEIGHTS / "deprojector" / f"atelier_{name}.safetensors"
        if target.exists():
            continue
        config = start.preset(family, encoder, heads)
        if layers:
            config = dataclasses.replace(config, num_layers=layers)
        rows = encoder["start"], encoder["null"]
        model = start.started(config, encoder, rows, start.inverse_projection(encoder), seed)
        recipe = training.Recipe(
            steps=steps, batch=64, seed=seed, patience=0, evaluate_every=max(steps // 10, 1)
        )
        trainer = training.Trainer(
            model, train_set, test_set, recipe, "cpu", SCRATCH / f"deprojector_{name}.safetensors"
        )
        history = trainer.run(functools.partial(_say, name))
        _write_log(name, history)
        loading.save(trainer.model.cpu(), target, torch.float16)


def _write_log(name: str, history: training.History) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"deprojector_{name}.csv").open("w", newline="") as log:
        writer = csv.writer(log)
        writer.writerow(["step", *history.scores[0][1]._fields])
        writer.writerows([step, *scores] for step, scores in history.scores)


def _say(name: str, step: int, history: training.History) -> None:
    if history.scores and history.scores[-1][0] == step:
        scores = history.scores[-1][1]
        print(
            name,
            step,
            f"free-running {scores.free_weighted:.4f}, cosine {scores.free_cosine:.4f}",
            flush=True,
        )
