"""Training in ComfyUI: captions through a CLIP, examples kept on disk, progress, interruption, a plot."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..errors import DeprojectorError
from ..files import write
from ..train import examples, start, trainer
from ..train.scores import History
from . import models
from .encoder import text_encoder
from .plots import line_plot

FOLDER = "deprojector_training"  # below ComfyUI's output folder: one folder per run


def captions_file(name: str) -> Path:
    """A caption file below ComfyUI's input folder; DeprojectorError where there is none."""
    root = folder_paths.get_input_directory()
    path = Path(root) / name
    if not path.is_file() or not folder_paths.is_within_directory(root, str(path)):
        raise DeprojectorError(
            f"There is no caption file {name!r} in ComfyUI's input folder. Put a text file there, one caption per line."
        )
    return path


def captions_stamp(name: str) -> tuple[float, int]:
    """What changes when the caption file does."""
    status = captions_file(name).stat()
    return status.st_mtime, status.st_size


def run_folder(name: str) -> Path:
    """The folder of a training run below ComfyUI's output folder."""
    return _below(Path(folder_paths.get_output_directory()) / FOLDER, name)


def _below(root: Path, name: str) -> Path:
    path = root / name
    if not name.strip() or path == root or not folder_paths.is_within_directory(str(root), str(path)):
        raise DeprojectorError(f"{name!r} is not a valid run name. Use letters, digits and dashes.")
    return path


def prepare(
    clip: Any,
    captions: Path,
    folder: Path,
    test: int,
    seed: int,
    on_text: Callable[[int, int], None] | None = None,
    projection: Tensor | None = None,
) -> None:
    """Encode the captions into ``train``, ``test`` and ``encoder.safetensors`` of a folder, once.

    The last ``test`` captions are held out and not augmented. A text ``projection`` is stored with the encoder;
    ComfyUI's own may be uninitialised memory and is never used. DeprojectorError where the folder holds other
    captions or another text encoder; nothing is overwritten.
    """
    texts = examples.read_captions(captions)
    if not 0 < test <= len(texts) // 2:
        raise DeprojectorError(
            f"{test} test captions of {len(texts)} do not leave enough to train on. Hold out at most half."
        )
    encode, weights, heads = text_encoder(clip)
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(weights[key].numpy().tobytes())
    identity = digest.hexdigest()
    wanted = {
        "train": examples.pairs(texts[:-test], seed),
        "test": examples.pairs(texts[-test:], seed, augment=False),
    }
    for name, found in wanted.items():
        examples.check_stamp(folder / f"{name}.safetensors", examples.stamp(found, identity))
    states = encode([""])
    rows = {"start": states.states[0, 0].float().clone(), "null": states.pooled[0].float().clone()}
    for name, found in wanted.items():
        examples.cached(folder / f"{name}.safetensors", found, encode, identity, on_text)
    if projection is not None:
        weights["text_projection.weight"] = projection
    write({**weights, **rows}, folder / "encoder.safetensors", {"heads": str(heads)})


def train(
    clip: Any,
    captions: str,
    run: str,
    family: str,
    recipe: trainer.Recipe,
    test: int,
    projection: models.LoadedDeprojector | None,
) -> tuple[models.LoadedDeprojector, Tensor, str]:
    """A trained deprojector, the plot of its run and the figures; an interrupted run resumes.

    The inverse projection is that of another deprojector, since SD1 checkpoints have none.
    """
    folder = run_folder(run)
    path = captions_file(captions)
    inverse = projection.module.inverse_projection().detach().float().cpu() if projection else None
    _, weights, heads = text_encoder(clip)
    config = start.preset(family, weights, heads)
    if inverse is not None and inverse.shape != (config.dim, config.projection_dim):
        raise DeprojectorError(
            f"The inverse projection of projection_from is {tuple(inverse.shape)}, this text encoder needs "
            f"{(config.dim, config.projection_dim)}. Use a deprojector of the same text encoder, or none."
        )
    with torch.inference_mode(False):
        bar = comfy.utils.ProgressBar(recipe.steps)
        prepare(clip, path, folder, test, recipe.seed, bar.update_absolute)
        encoder, _ = start.prepared_encoder(folder)
        model = start.started(config, encoder, (encoder["start"], encoder["null"]), inverse, recipe.seed)
        device = comfy.model_management.get_torch_device()
        size = comfy.model_management.module_size(model)
        comfy.model_management.free_memory(size * 4 + recipe.batch * 77 * config.dim * 4 * 40, device)

        def on_step(step: int, _: History) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(step, recipe.steps)

        sets = [examples.read(folder / f"{name}.safetensors") for name in ("train", "test")]
        snapshots = _below(Path(folder_paths.get_folder_paths(models.FOLDER)[0]), run)
        with torch.enable_grad():
            history = trainer.Trainer(
                model, sets[0], sets[1], recipe, device, folder / "checkpoint.safetensors", snapshots
            ).run(on_step)
        model.cpu().requires_grad_(False)
    return models.managed(model, run), plot(history), figures(history, len(sets[0]))


def plot(history: History) -> Tensor:
    """Training loss and both held-out errors over the steps."""
    every = max(len(history.losses) // 200, 1)
    groups = [history.losses[at : at + every] for at in range(0, len(history.losses), every)]
    series = {
        "training loss": [(every * (k + 0.5), sum(group) / len(group)) for k, group in enumerate(groups)],
        "held out, from true rows": [(step, scores.forced_weighted) for step, scores in history.scores],
        "held out, free-running": [(step, scores.free_weighted) for step, scores in history.scores],
    }
    highest = max(value for line in series.values() for _, value in line[len(line) // 10 :])
    return line_plot(series, "training", ("step", "weighted error"), (0, 1.1 * highest))


def figures(history: History, count: int) -> str:
    """The scores at the best and the last evaluation, as text."""
    assert history.best
    lines = [f"{count} examples, {len(history.losses)} steps"]
    for name, (step, scores) in (("best", history.best), ("last", history.scores[-1])):
        lines.append(
            f"{name} (step {step}): from true rows {scores.forced_weighted:.4f} (unweighted {scores.forced:.4f}), "
            f"free-running {scores.free_weighted:.4f} (unweighted {scores.free:.4f}), cosine {scores.free_cosine:.4f}"
        )
    return "\n".join(lines)
