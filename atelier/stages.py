"""Where the pixel cascade that comes with the pack lies: two files in DeepFloyd's own key format."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
STAGES = {"I": "stage1", "II": "stage2"}


def stage_file(stage: str) -> Path:
    """The file of stage ``"I"`` (text to 16 x 16) or ``"II"`` (to 64 x 64). FileNotFoundError when it is gone."""
    path = WEIGHTS / f"{STAGES[stage]}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing from {path.parent}: it belongs to the pack; install the pack anew, or make "
            f"it with `tools/train_atelier.py stages --stage {stage}`."
        )
    return path
