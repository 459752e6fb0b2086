"""Where the weights that come with the pack lie."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def weights_file(name: str) -> Path:
    """``weights/<name>.safetensors``; FileNotFoundError says how to get it back."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing from {path.parent}: it belongs to the pack; install the pack anew, or make "
            "it with tools/train_demo_models.py."
        )
    return path
