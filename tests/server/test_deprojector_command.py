"""The training command line on an SD1 checkpoint, with CLIP-L at its real size."""

import json
import os
import subprocess
import sys

import pytest
from blockwork.deprojector import load
from refhost import layout

WORDS = [
    "cat",
    "dog",
    "maid",
    "robot",
    "fox",
    "hat",
    "owl",
    "knight",
    "tree",
    "boat",
    "witch",
    "red",
    "blue",
    "old",
    "new",
    "tall",
    "small",
    "night",
    "sun",
    "rain",
    "snow",
]


@pytest.mark.usefixtures("server")  # makes the checkpoint
def test_a_deprojector_from_a_checkpoint(tmp_path):
    """One step on single words; the checkpoint has no text_projection."""
    (tmp_path / "captions.txt").write_text("\n".join(WORDS))
    checkpoint = layout.TESTS_BASE / "models" / "checkpoints" / "sd15_a.safetensors"
    tool = layout.ROOT / "tools" / "train_deprojector.py"
    given = {"captions": tmp_path / "captions.txt", "checkpoint": checkpoint, "out": tmp_path / "run", "family": "VRNN", "device": "cpu",
             "steps": 1, "batch": 2, "test": 2, "evaluate-every": 1}  # fmt: skip
    arguments = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, str(tool), *arguments],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "step 1: loss" in done.stdout
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())["losses"]) == 1
    module = load(tmp_path / "run" / "deprojector.safetensors")
    assert (module.config.dim, module.config.rows, module.config.num_attention_heads) == (768, 77, 12)
    assert not module.deprojection.any(), "images are refused without a projection"
