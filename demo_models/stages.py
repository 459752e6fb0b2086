"""Where the pixel cascade that comes with the pack lies: two files in DeepFloyd's own key format."""

from pathlib import Path

from .files import weights_file

STAGES = {"I": "stage1", "II": "stage2"}


def stage_file(stage: str) -> Path:
    """The file of stage ``"I"`` (text to 16 x 16) or ``"II"`` (to 64 x 64). FileNotFoundError when it is gone."""
    return weights_file(STAGES[stage])
