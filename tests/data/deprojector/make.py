"""Runs the author's classes on drawn weights and stores their results in goldens.safetensors and flags.safetensors.

goldens.json and flags.json hold the models: configuration, shapes of the state dict, seed, call arguments. Three variants
of earlier revisions keep files of their own, with weights; this script leaves them alone.

    python tests/data/deprojector/make.py --author FOLDER --transformers FOLDER
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2] / folder) for folder in ("benchmarks", "tests/support")]

from deprojector_author import add_arguments, author_classes, author_model
from drawn_weights import draw, inputs

ROWS = [0, 1, 2, 3, 4, 9, 19, 38, 57, 76]  # each row depends on all rows before it


@torch.no_grad()
def results(classes: dict[str, Any], case: dict[str, Any], teacher: bool) -> dict[str, torch.Tensor]:
    """``out64``, the rows of the result in float64; ``teacher``, the teacher-forced result of one unit in float32."""
    state = draw(case["keys"], case["seed"])
    embeds, states = inputs(case)
    torch.set_default_dtype(torch.float64)  # the author's classes make tensors of the default dtype
    model = author_model(classes, case["config"], state)
    call = dict(case["kwargs"])
    type(model).default_fuse = call.pop("fuse", 0.0)  # class T takes it only so
    type(model).incremental = not case["config"].get("use_attention", False)  # LSTM 1 cannot otherwise
    out = model.double().Inference(embeds.double(), **call)
    torch.set_default_dtype(torch.float32)
    found = {"out64": out[:, [row for row in ROWS if row < out.shape[1]]].clone() if teacher else out}
    if teacher and hasattr(model, "RunForTraining") and case["config"].get("ensemble_size", 1) == 1:
        model = author_model(classes, case["config"], state)
        found["teacher"] = model.RunForTraining(embeds[:1], states).contiguous()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores the results of the author's deprojectors.")
    add_arguments(parser, required=True)
    options = parser.parse_args()
    classes = author_classes(options.author, options.transformers)
    for file, teacher in (("goldens", True), ("flags", False)):
        tensors = {}
        for name, case in json.loads((HERE / f"{file}.json").read_text()).items():
            if case.get("rev", "HEAD") == "HEAD":
                found = results(classes, case, teacher)
                tensors |= {f"{name}/{key}": value for key, value in found.items()}
        save_file(tensors, HERE / f"{file}.safetensors")


if __name__ == "__main__":
    main()
