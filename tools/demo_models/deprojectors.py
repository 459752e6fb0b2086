"""Trains deprojectors for the demo models' text encoder, through the pack's own training: the families of the article's table."""

import csv
import dataclasses
import functools
import json
import random

import torch
from blockwork.demo_models import captions
from blockwork.deprojector import files
from blockwork.deprojector.train import examples, start, trainer
from blockwork.deprojector.train.scores import History

from .training import HERE, agreed, meet, scenes

FAMILIES = {
    "transformer": "transformer",
    **{f"lstm_{n}": f"LSTM 3, initial, {n} layer{'s' if n > 1 else ''}" for n in (1, 2, 3)},
    **{f"kept_{n}": f"LSTM 3, information kept, {n} layer{'s' if n > 1 else ''}" for n in (1, 2, 3)},
    **{f"wide_{n}": f"LSTM 3, wide 1x, {n} layer{'s' if n > 1 else ''}" for n in (1, 2)},
    **{f"wider_{n}": f"LSTM 3, wide 1.25x, {n} layer{'s' if n > 1 else ''}" for n in (1, 2)},
}
CAPTIONS, HELD_OUT, BATCH = 8000, 300, 64
# The inverse projection, which images need, leaves out what the text projection makes smaller than this share: the exact
# inverse enlarges there in what an image's embedding differs from its text's (cosine 0.02 to the text, 0.92 without it).
INVERTED = 0.1
ROWS = 32  # rows that are trained: no caption is longer, and all rows behind its end are alike


def texts(seed: int) -> list[str]:
    """Captions of training scenes, the last 300 of them held out."""
    chance = random.Random(seed)
    said = dict.fromkeys(captions.caption(scene, chance) for scene in scenes(2 * CAPTIONS, seed))
    return list(said)[:CAPTIONS]


def run(minutes: float, seed: int = 51) -> None:
    """Train and publish ``deprojector/atelier_<name>.safetensors`` for each family, each for the same time."""
    import blockwork.demo_models.host as demo_models
    from blockwork.deprojector.host import training

    folder = HERE.folder / "deprojectors"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "captions.txt"
    if HERE.rank == 0:
        file.write_text("\n".join(texts(seed)), encoding="utf-8")
    state, _ = demo_models.read("clip")
    projection = state["clip_l.transformer.text_projection.weight"].float()
    inverse = torch.linalg.pinv(projection.double(), rtol=INVERTED).float()
    if HERE.rank == 0:
        training.prepare(demo_models.load_clip(), file, folder, HELD_OUT, seed, projection=projection)
    meet()
    train_set, test_set = (short(examples.read(folder / f"{name}.safetensors")) for name in ("train", "test"))
    encoder, heads = start.prepared_encoder(folder)
    for name, family in FAMILIES.items():
        target = HERE.weights / "deprojector" / f"atelier_{name}.safetensors"
        if target.exists():
            continue
        config = dataclasses.replace(start.preset(family, encoder, heads), max_position_embeddings=ROWS)
        rows = encoder["start"], encoder["null"]
        model = start.started(config, encoder, rows, inverse, seed)
        steps = steps_of(name, model, train_set, test_set, minutes / len(FAMILIES), seed)
        recipe = trainer.Recipe(
            steps=steps, batch=BATCH, seed=seed, patience=0, evaluate_every=max(steps // 5, 1)
        )
        checkpoint = HERE.folder / "checkpoints" / f"deprojector_{name}.safetensors"
        run_of = trainer.Trainer(model, train_set, test_set, recipe, HERE.device, checkpoint)
        history = run_of.run(functools.partial(_say, name))
        if HERE.rank == 0:
            _write_log(name, history)
            target.parent.mkdir(parents=True, exist_ok=True)
            files.save(whole(run_of.model.cpu()), target, torch.float16)
        meet()


def short(of: examples.Examples) -> examples.Examples:
    """The first rows of the examples alone."""
    return dataclasses.replace(of, states=of.states[:, :ROWS].clone())


def whole(model):
    """The same deprojector for as many rows as the text encoder has."""
    config = dataclasses.replace(model.config, max_position_embeddings=77)
    longer = files.build(config, "cpu")
    state = {
        key: value
        for key, value in model.state_dict().items()
        if longer.state_dict()[key].shape == value.shape
    }
    longer.load_state_dict(state, strict=False)
    for key, value in model.state_dict().items():  # positions behind the trained ones: as the last
        if key not in state and value.is_floating_point():
            rows = longer.state_dict()[key]
            rows[: len(value)].copy_(value)
            rows[len(value) :].copy_(value[-1:].expand_as(rows[len(value) :]))
    return longer


def steps_of(name: str, model, train_set, test_set, minutes: float, seed: int) -> int:
    """How many steps fit the minutes: measured once, and kept for a run that resumes."""
    kept = HERE.folder / "deprojectors" / "steps.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if name not in known:
        trial = trainer.Trainer(
            type(model)(model.config),
            train_set,
            test_set,
            trainer.Recipe(batch=BATCH, schedule="self-fed"),
            HERE.device,
        )
        trial._one_step()
        began = HERE.seconds()
        for _ in range(3):
            trial._one_step()
        known[name] = max(10, round(agreed(60 * minutes / ((HERE.seconds() - began) / 3))))
        if HERE.rank == 0:
            kept.write_text(json.dumps(known))
    return known[name]


def _write_log(name: str, history: History) -> None:
    HERE.logs.mkdir(parents=True, exist_ok=True)
    with (HERE.logs / f"deprojector_{name}.csv").open("w", newline="") as log:
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
