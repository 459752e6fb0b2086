"""Train XTI in ComfyUI: what is trained on, the loss of a batch, files, progress and interruption."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .captions import image_captions, read_concepts, templates
from .concept import XTI
from .density import WordDensity
from .host_denoiser import Denoiser, trained_layers
from .host_loss import batch_loss, caption_tokens
from .host_xti import encoders, save_path, vocabularies
from .plot import draw_losses
from .task import APART, KINDS, Task, concepts_of
from .train import LOSSES, Recipe, Trainer, TrainingError
from .xti import save

FOLDER = "xti_training"  # below ComfyUI's output folder: one folder per run
RECIPE = tuple(field.name for field in fields(Recipe))
PREVIEWS = 50  # at most, of the loss in a run
SAMPLED = 16  # numbers of each weight that say whether a model is the same


@dataclass(frozen=True)
class Options:
    """How to compute and where to write; ``save_every`` steps a file of each concept is written, 0: none."""

    dtype: str = "bf16"
    checkpointing: bool = True
    offloading: bool = False
    save_every: int = 0
    resumable: bool = True


@dataclass(frozen=True)
class Trained:
    """The concepts of a run, its losses, and what happened as text. ``values``: of keys and values apart."""

    concepts: list[XTI]
    losses: list[float]
    text: str
    values: list[XTI]


def task(
    model: ModelPatcher, clip: Any, concepts: str, images: Sequence[Tensor], vae: Any, latents: Sequence[Tensor],
    captions: Sequence[str], template: str, custom: str, kind: str, vectors: int,
) -> Task:  # fmt: skip
    """A task from a node's inputs: ``images`` ``b h w c`` with a VAE, or latents ``b c h w``.

    Everything is checked before anything is computed. Raises TrainingError, CaptionError and InjectionError.
    """
    named = read_concepts(concepts)
    lines = templates(template, custom)
    if vectors < 1:
        raise TrainingError(
            f"A concept has {vectors} vectors, and 1 or more are expected. Write a larger number."
        )
    if bool(images) == bool(latents):
        raise TrainingError(
            f"{'Both' if images else 'Neither'} images {'and' if images else 'nor'} latents are connected. Connect one of the "
            "two."
        )
    if images and vae is None:
        raise TrainingError("Images need a VAE to become latents. Connect the VAE of the checkpoint.")
    count = sum(len(one) for one in images or latents)
    ready = image_captions(captions, count, named, lines)
    trained_layers(model)
    for one in named:
        save_path(one.name)
        start_vectors(clip, one.word, vectors)
    channels = model.model.latent_format.latent_channels
    for one in latents:
        if one.ndim != 4 or one.shape[1] != channels:
            raise TrainingError(
                f"The latents have the shape {tuple(one.shape)}, and this model takes (images, {channels}, height, width). "
                "Encode the images with the VAE of the checkpoint."
            )
    singles = [vae.encode(picture[None, ..., :3]) for one in images for picture in one]
    singles += [single[None] for one in latents for single in one]
    return Task(named, [one.detach().cpu().float() for one in singles], ready, kind, vectors)


def start_vectors(clip: Any, word: str, count: int) -> list[Tensor]:
    """The first ``count`` tokens of a word, for each text encoder ``count d``; a shorter word is repeated."""
    found = []
    for name, table in zip(encoders(clip), vocabularies(clip), strict=True):
        tokenizer = getattr(clip.tokenizer, name)
        ids = tokenizer.tokenizer(word)["input_ids"][tokenizer.tokens_start :]
        ids = [one for one in ids if one != tokenizer.end_token]
        if not ids:
            raise TrainingError(f"{word[:80]!r} has no token to start from. Write a word.")
        chosen = [ids[number % len(ids)] for number in range(count)]
        found.append(table[torch.tensor(chosen, device=table.device)].detach().float().cpu())
    return found


def train(
    model: ModelPatcher, clip: Any, what: Task, recipe: Recipe, options: Options = Options()
) -> Trained:
    """Train the concepts of a task. MODEL and CLIP stay as they are; an interrupted run resumes when it is queued again.

    The same task, recipe and model are the same run, in ``output/xti_training``; more steps extend it.
    """
    bar = comfy.utils.ProgressBar(recipe.steps)
    with torch.inference_mode(False), torch.enable_grad():
        what = replace(what, latents=[one.clone() for one in what.latents])
        layers = len(trained_layers(model))
        started = _started(clip, what, layers)
        denoiser = Denoiser(model, clip, options.dtype, options.checkpointing, options.offloading)
        try:
            words = {}
            if recipe.density:
                words = {
                    name: WordDensity(table.float().cpu(), recipe.bandwidth).to(denoiser.device)
                    for name, table in zip(encoders(clip), vocabularies(denoiser.clip), strict=True)
                }
            checkpoint = None
            if options.resumable:
                checkpoint = run_folder(what, recipe, options, denoiser) / "checkpoint.safetensors"
            trainer = Trainer(
                started,
                partial(
                    batch_loss, denoiser, what, caption_tokens(clip, what), LOSSES[recipe.loss_function]()
                ),
                len(what.latents),
                recipe,
                {key: words[key.split("/")[1]] for key in started if words},
                checkpoint,
                denoiser.scale,
            )
            resumed = trainer.step
            comfy.model_management.in_training = True
            trainer.run(partial(_on_step, bar, what, layers, options))
        finally:
            comfy.model_management.in_training = False
            denoiser.close()
        return Trained(
            concepts_of(trainer.vectors, what, layers),
            trainer.losses,
            report(trainer, what, resumed, words),
            concepts_of(trainer.vectors, what, layers, values=True) if what.kind == APART else [],
        )


def report(trainer: Trainer, what: Task, resumed: int, words: Mapping[str, WordDensity]) -> str:
    """What a run did, as text."""
    recipe, losses = trainer.recipe, trainer.losses
    span = max(1, len(losses) // 10)
    names = ", ".join(f"<{one.name}>" for one in what.concepts)
    lines = [
        f"{names}: {what.kind}, {len(what.latents)} images, {len(losses)} steps of {recipe.batch_size}"
        + (f" x {recipe.grad_accumulation_steps}" if recipe.grad_accumulation_steps > 1 else ""),
        f"loss: {sum(losses[:span]) / span:.4g} in the first {span} steps, {sum(losses[-span:]) / span:.4g} in the last",
    ]
    if words:
        with torch.no_grad():
            lines.append(f"density: -log p / width is {float(trainer.unlikeness()):.4g} at the end")
    if resumed:
        lines.append(f"resumed at step {resumed}")
    return "\n".join(lines)


def trained_with_plot(
    model: ModelPatcher, clip: Any, what: Task, recipe: Recipe, options: Options
) -> tuple[Trained, Tensor]:
    """The same, and the plot of its losses as an IMAGE."""
    found = train(model, clip, what, recipe, options)
    plot = np.asarray(draw_losses(found.losses, len(found.losses)), dtype=np.float32) / 255
    return found, torch.from_numpy(plot)[None]


def run_folder(what: Task, recipe: Recipe, options: Options, denoiser: Denoiser) -> Path:
    """The folder of a run, named after its first concept and all that makes it that run."""
    digest = hashlib.sha256(recipe.identity.encode())
    said = [
        what.kind,
        what.vectors,
        options.dtype,
        [(one.name, one.word) for one in what.concepts],
        what.captions,
    ]
    digest.update(json.dumps(said).encode())
    for one in what.latents:
        digest.update(one.contiguous().numpy().tobytes())
    for part in (denoiser.base.diffusion_model, denoiser.clip.cond_stage_model):
        for key, weight in part.state_dict().items():
            sample = weight.detach().flatten()[:SAMPLED].float().cpu()
            digest.update(key.encode() + sample.numpy().tobytes())
    name = "".join(one if one.isalnum() or one in "-_." else "_" for one in what.concepts[0].name)
    return Path(folder_paths.get_output_directory()) / FOLDER / f"{name}-{digest.hexdigest()[:12]}"


def _started(clip: Any, what: Task, layers: int) -> dict[str, Tensor]:
    """The vectors to learn, by concept and text encoder: ``groups vectors dim``."""
    groups = {KINDS[0]: layers, KINDS[1]: 1, APART: 2 * layers}[what.kind]
    return {
        f"{number}/{name}": vector[None].repeat(groups, 1, 1)
        for number, concept in enumerate(what.concepts)
        for name, vector in zip(encoders(clip), start_vectors(clip, concept.word, what.vectors), strict=True)
    }


def _on_step(
    bar: comfy.utils.ProgressBar, what: Task, layers: int, options: Options, trainer: Trainer
) -> None:
    """After each step: progress, a preview of the loss now and then, files, and a stop where the user asks for it."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    steps, step = trainer.recipe.steps, trainer.step
    preview = None
    if step % max(1, steps // PREVIEWS) == 0:
        preview = ("JPEG", draw_losses(trainer.losses, steps), None)
    bar.update_absolute(step, steps, preview)
    if options.save_every and step % options.save_every == 0:
        for one in concepts_of(trainer.vectors, what, layers):
            save(one, save_path(f"{one.name}/{one.name}_{step:06}"))
