"""The author's own deprojector classes, imported from a folder that the user names.

The folder holds ``clip_text_deprojector.py`` of the repository nanashi161382/unstable_diffusion. It needs an old
transformers, in a folder of its own:

    pip install --no-deps --target FOLDER transformers==4.30.2 tokenizers==0.13.3 huggingface-hub==0.16.4
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch

NOT_READ = {"deprojection", "position_ids"}  # buffers that files may lack


def add_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """``--author`` and ``--transformers``."""
    parser.add_argument("--author", type=Path, required=required, help="folder with clip_text_deprojector.py")
    parser.add_argument(
        "--transformers", type=Path, help="folder with the transformers that the author's code needs"
    )


def author_classes(author: Path, transformers: Path | None) -> dict[str, Any]:
    """The classes by the ``model_type`` of their config.json."""
    sys.path[:0] = [str(folder.resolve()) for folder in (transformers, author) if folder]
    found = vars(importlib.import_module("clip_text_deprojector")).values()
    return {
        value.config_class.model_type: value
        for value in found
        if isinstance(value, type) and hasattr(value, "Inference") and getattr(value, "config_class", None)
    }


def author_model(classes: dict[str, Any], fields: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
    """The author's model with these weights; None for files of an earlier version of the class."""
    kind = classes[fields["model_type"]]
    model = kind(kind.config_class(**fields))
    missing, unexpected = model.load_state_dict(state, strict=False)
    return None if unexpected or set(missing) - NOT_READ else model.eval()
