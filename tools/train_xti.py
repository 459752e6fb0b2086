"""Trains an extended textual inversion (XTI) on the command line, as the node Train XTI does.

    python tools/train_xti.py --checkpoint sd15.safetensors --images photos --concept "gem: stone" --out embeddings

``--images`` is a folder. A text file beside an image (photo.txt for photo.png) is its caption; ``{}`` marks the token.
``--checkpoint demo`` is the pack's demo model. The state of the run is below ``--out``/runs, where it resumes; every
concept is written to ``--out``/NAME.safetensors with kohya's keys.
"""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import torch  # noqa: E402
from refhost.pack import load_pack, use_comfyui  # noqa: E402

load_pack()

from blockwork.injection.captions import TEMPLATES, CaptionError  # noqa: E402 # pyright: ignore
from blockwork.injection.entries import InjectionError  # noqa: E402 # pyright: ignore
from blockwork.injection.task import KINDS  # noqa: E402 # pyright: ignore
from blockwork.injection.train import LOSSES, OPTIMIZERS, Recipe, TrainingError  # noqa: E402 # pyright: ignore

log = logging.getLogger("blockwork")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SMALLEST = 16  # pixels of a shorter side


def parsed() -> argparse.Namespace:
    recipe = {field.name: field.default for field in fields(Recipe)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="SD1, SD2 or SDXL checkpoint, or demo")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--concept", action="append", required=True, help="name: word to start from; may be given several times"
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the embeddings")
    parser.add_argument(
        "--size", type=int, default=512, help="shorter side of the images in pixels; 0: as they are"
    )
    parser.add_argument("--template", choices=list(TEMPLATES), default="object")
    parser.add_argument(
        "--custom-template", action="append", default=[], help="a caption with {}; replaces --template"
    )
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--vectors", type=int, default=1)
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default=recipe["optimizer"])
    parser.add_argument("--loss-function", choices=list(LOSSES), default=recipe["loss_function"])
    parser.add_argument("--dtype", choices=("bf16", "fp32", "none"), default="bf16")
    parser.add_argument("--no-checkpointing", action="store_true", help="faster, needs more memory")
    parser.add_argument("--offloading", action="store_true")
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    for name in ("steps", "batch_size", "grad_accumulation_steps", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=recipe[name])
    for name in ("learning_rate", "density", "bandwidth"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=recipe[name])
    return parser.parse_args()


def read_images(folder: Path, size: int) -> tuple[list[torch.Tensor], list[str]]:
    """The images of a folder ``1 h w 3``, and the captions beside them."""
    import numpy as np
    from PIL import Image, ImageOps

    if size and size < SMALLEST:
        raise TrainingError(
            f"--size is {size}. Give at least {SMALLEST} pixels, or 0 for the images as they are."
        )
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise TrainingError(f"There are no images in {folder}. Put some there: {', '.join(SUFFIXES)}.")
    images, captions = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except OSError as error:
            raise TrainingError(f"{path} cannot be read as an image ({error}). Remove it.") from error
        if size:
            scale = size / min(image.size)
            image = image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
            )
        images.append(torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None])
        caption = path.with_suffix(".txt")
        captions.append(caption.read_text(encoding="utf-8-sig").strip() if caption.is_file() else "")
    return images, captions


def load(checkpoint: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint file, or of the demo model."""
    import comfy.sd
    from blockwork.demo_models import host as demo_models  # pyright: ignore

    if checkpoint == "demo":
        return demo_models.load_model(), demo_models.load_clip(), demo_models.load_vae()
    problem = "it has no U-Net, CLIP and VAE"
    try:
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(checkpoint)
    except Exception as error:  # ComfyUI raises what its readers raise
        model = clip = vae = None
        problem = str(error).strip().split("\n")[0] or type(error).__name__
    if model is None or clip is None or vae is None:
        raise TrainingError(
            f"{checkpoint} cannot be read as a checkpoint ({problem}). Use a checkpoint of SD1, SD2 or SDXL."
        )
    return model, clip, vae


def say(step: int, steps: int, preview: Any, node_id: Any = None) -> None:
    """The progress of the training, as often as a preview of the loss is drawn."""
    if preview is not None:
        log.info("step %d of %d", step, steps)


def train(options: argparse.Namespace) -> None:
    if options.checkpoint != "demo" and not Path(options.checkpoint).is_file():
        raise TrainingError(f"There is no file {options.checkpoint}. Check --checkpoint.")
    images, captions = read_images(options.images, options.size)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    use_comfyui(cpu=options.device == "cpu")
    import comfy.utils
    import folder_paths
    from blockwork.injection import host_train, xti  # pyright: ignore

    folder_paths.set_output_directory(str(options.out / "runs"))
    folder_paths.add_model_folder_path("embeddings", str(options.out.resolve()), is_default=True)
    model, clip, vae = load(options.checkpoint)
    how = host_train.Options(
        options.dtype, not options.no_checkpointing, options.offloading, options.save_every
    )
    with torch.no_grad():
        what = host_train.task(
            model, clip, "\n".join(options.concept), images, vae, [], captions, options.template,
            "\n".join(options.custom_template), options.kind, options.vectors,
        )  # fmt: skip
    comfy.utils.set_progress_bar_global_hook(say)
    found = host_train.train(model, clip, what, recipe, how)
    log.info("%s", found.text)
    for concept in found.concepts:
        log.info("wrote %s", xti.save(concept, options.out / f"{concept.name}.safetensors"))


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        train(parsed())
    except (TrainingError, CaptionError, InjectionError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
