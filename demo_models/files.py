"""Where the weights that come with the pack are."""

from pathlib import Path

PUBLISHED = Path(__file__).parent / "weights"
_folder = PUBLISHED


def use(folder: Path) -> None:
    """Read another set of weights, for a training or a study of it; before any of them is loaded."""
    global _folder
    _folder = folder


def weights_folder() -> Path:
    """The folder of the weights."""
    return _folder


def weights_file(name: str) -> Path:
    """``weights/<name>.safetensors``; FileNotFoundError says how to get it back."""
    path = _folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing from {path.parent}: it belongs to the pack; install the pack again, or make "
            "it with tools/train_demo_models.py."
        )
    return path
