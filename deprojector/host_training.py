"""Training in ComfyUI: captions through a CLIP, examples kept on disk, progress, interruption, a plot."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import examples, host, start, training
from .errors import DeprojectorError
from .host_encoder import text_encoder
from .host_plots import line_plot

log = logging.getLogger("blockwork")

FOLDER = "deprojector_training"  # below ComfyUI's output folder: one folder per run


def captions_file(name: str) -> Path:
    """A caption file below ComfyUI's input folder; DeprojectorError for one that is not there."""
    root = folder_paths.get_input_directory()
    path = Path(root) / name
    if not path.is_file() or not folder_paths.is_within_directory(root, str(path)):
        raise DeprojectorError(
            f"there is no caption file {name!r} in ComfyUI's input folder: put a text file there, one caption per line."
        )
    return path


def run_folder(name: str) -> Path:
    """The folder of a training run below ComfyUI's output folder."""
    root = Path(folder_paths.get_output_directory()) / FOLDER
    path = root / name
    if not name.strip() or not folder_paths.is_within_directory(str(root), str(path)):
        raise DeprojectorError(f"{name!r} is no name for a training run: use letters, digits and dashes.")
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
    ComfyUI's own may be uninitialised memory and is never looked at.
    """
    texts = examples.read_captions(captions)
    if not 0 < test <= len(texts) // 2:
        raise DeprojectorError(f"{test} test captions of {len(texts)} do not leave enough to train on.")
    encode, weights, heads = text_encoder(clip)
    states = encode([""])
    rows = {"start": states.states[0, 0].float().clone(), "null": states.pooled[0].float().clone()}
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(weights[key].numpy().tobytes())
    identity = digest.hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "train": examples.pairs(texts[:-test], seed),
        "test": examples.pairs(texts[-test:], seed, augment=False),
    }
    for name, found in wanted.items():
        examples.cached(folder / f"{name}.safetensors", found, encode, identity, on_text)
    scratch = folder / "encoder.safetensors.tmp"
    if projection is not None:
        weights["text_projection.weight"] = projection
    save_file({**weights, **rows}, scratch, {"heads": str(heads)})
    scratch.replace(folder / "encoder.safetensors")


def train(
    clip: Any,
    captions: str,
    run: str,
    family: str,
    recipe: training.Recipe,
    test: int,
    projection: host.LoadedDeprojector | None,
) -> tuple[host.LoadedDeprojector, Tensor, str]:
    """A trained deprojector, the plot of its run and the figures; a run stopped before goes on.

    The inverse projection is the one of another deprojector, since SD1 checkpoints have none.
    """
    folder = run_folder(run)
    with torch.inference_mode(False):
        bar = comfy.utils.ProgressBar(recipe.steps)
        prepare(
            clip,
            captions_file(captions),
            folder,
            test,
            recipe.seed,
            lambda done, of: bar.update_absolute(done, of),
        )
        with safe_open(folder / "encoder.safetensors", framework="pt") as file:
            encoder = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            heads = int(file.metadata()["heads"])
        inverse = projection.module.projection_inverse.detach().float().cpu() if projection else None
        config = start.preset(family, encoder, heads)
        model = start.started(config, encoder, (encoder["start"], encoder["null"]), inverse, recipe.seed)
        device = comfy.model_management.get_torch_device()
        size = comfy.model_management.module_size(model)
        comfy.model_management.free_memory(size * 4 + recipe.batch * 77 * config.dim * 4 * 40, device)

        def on_step(step: int, _: training.History) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(step, recipe.steps)

        sets = [examples.read(folder / f"{name}.safetensors") for name in ("train", "test")]
        with torch.enable_grad():
            trainer = training.Trainer(
                model, sets[0], sets[1], recipe, device, folder / "checkpoint.safetensors"
            )
            history = trainer.run(on_step)
        model.cpu().requires_grad_(False)
    return host.managed(model, run), plot(history), figures(history, len(sets[0]))


def plot(history: training.History) -> Tensor:
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


def figures(history: training.History, count: int) -> str:
    """The scores at the best and the last evaluation, as text."""
    assert history.best
    lines = [f"{count} examples, {len(history.losses)} steps"]
    for name, (step, scores) in (("best", history.best), ("last", history.scores[-1])):
        lines.append(
            f"{name} (step {step}): from true rows {scores.forced_weighted:.4f} (unweighted {scores.forced:.4f}), "
            f"free-running {scores.free_weighted:.4f} (unweighted {scores.free:.4f}), cosine {scores.free_cosine:.4f}"
        )
    return "\n".join(lines)
