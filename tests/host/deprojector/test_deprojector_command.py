"""The training command line from captions and a checkpoint: encode, stop, go on, write a deprojector."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from blockwork.deprojector import load
from blockwork.tests.support.deprojector_kit import sd1_clip
from refhost import layout
from safetensors.torch import save_file

TOOL = layout.ROOT / "tools" / "train_deprojector.py"
WIDTH = 128


@pytest.fixture
def command(tmp_path):
    """``command(out, **more)`` -> arguments; a text encoder of 128 with a projection stands in an SD1 checkpoint's keys."""
    clip = sd1_clip(hidden_size=WIDTH, intermediate_size=256, num_attention_heads=4)
    state = clip.cond_stage_model.clip_l.transformer.state_dict()
    state["text_projection.weight"] = torch.eye(WIDTH) * 2
    save_file(
        {f"cond_stage_model.transformer.{key}": value for key, value in state.items()},
        tmp_path / "a.safetensors",
    )
    captions = [
        f"{size} {colour} {shape}"
        for size in ("small", "large", "")
        for colour in ("red", "blue", "green")
        for shape in ("square", "circle", "star")
    ]
    (tmp_path / "captions.txt").write_text("\n".join(captions))

    def arguments(out, heads="4", **more):
        given = {
            "captions": tmp_path / "captions.txt", "checkpoint": tmp_path / "a.safetensors", "heads": heads,
            "out": tmp_path / out, "family": "LSTM 3, initial, 1 layer", "steps": 4, "batch": 4, "test": 3,
            "evaluate-every": 2, "device": "cpu", **more,
        }  # fmt: skip
        return [str(part) for name, value in given.items() if value for part in (f"--{name}", value)]

    return arguments


@pytest.fixture
def tool(monkeypatch):
    """``tool(arguments)``: the command line in this process."""
    spec = importlib.util.spec_from_file_location("train_deprojector", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
        return module.main()

    run.module = module
    return run


def test_a_stopped_run_goes_on(command, tool, tmp_path, monkeypatch):
    assert tool(command("whole")) == 0

    def stop(step, _):
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tool.module, "_say", stop)
        tool(command("stopped"))
    run = tmp_path / "stopped"
    assert not (run / "history.json").exists()
    encoded = {path.name: path.stat().st_mtime_ns for path in run.glob("t*.safetensors")}
    assert set(encoded) == {"train.safetensors", "test.safetensors"}

    done = subprocess.run(
        [sys.executable, str(TOOL), *command("stopped")],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "step 4: loss" in done.stdout and "step 2: loss" not in done.stdout
    assert "wrote deprojector.safetensors" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in run.glob("t*.safetensors")} == encoded
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "stopped")]
    assert len(histories[0]["losses"]) == 4
    assert histories[1]["losses"] == pytest.approx(histories[0]["losses"], rel=1e-4)
    modules = [load(tmp_path / name / "deprojector.safetensors") for name in ("whole", "stopped")]
    assert modules[1].config.dim == WIDTH
    torch.testing.assert_close(modules[1].deprojection, torch.eye(WIDTH) / 2)
    states = [module.deproject(torch.ones(1, WIDTH)) for module in modules]
    assert states[1].isfinite().all()
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"heads": None},
            "has width 128, not CLIP-L's 768. Give its number of attention heads with --heads",
        ),
        ({"heads": "3"}, "a divisor of 128; given: 3"),
        ({"checkpoint": None}, "--captions needs --checkpoint"),
        ({"checkpoint": "nowhere.safetensors"}, "There is no file nowhere.safetensors"),
        ({"captions": "nowhere.txt"}, "There is no file nowhere.txt"),
        ({"captions": None, "prepared": "nowhere"}, "There is no prepared text encoder at nowhere"),
        ({"projection-from": "nowhere"}, "There is no deprojector file or folder 'nowhere'"),
        ({"checkpoint": __file__}, "cannot be read as weights"),
        ({"test": 20}, "20 test captions of 27 do not leave enough"),
    ],
)
def test_bad_input_is_explained(command, tool, changes, message, caplog):
    assert tool(command("bad", **changes)) == 1
    assert message in caplog.text
