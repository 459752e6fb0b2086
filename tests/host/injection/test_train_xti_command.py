"""The training command line on the demo model: from a folder of images to an embedding file, and again."""

import importlib.util
import os
import subprocess
import sys

import comfy.utils
import folder_paths
import pytest
import torch
from blockwork.injection import host_xti, xti
from PIL import Image
from refhost import layout

TOOL = layout.ROOT / "tools" / "train_xti.py"


@pytest.fixture
def command(tmp_path):
    """``command(**changes)`` -> arguments for two images, one of them with a caption."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate(("green", "red")):
        Image.new("RGB", (40, 32), colour).save(photos / f"{number}.png")
    (photos / "1.txt").write_text("a {} on a red background")
    (tmp_path / "notes.safetensors").write_bytes(b"not weights")

    def arguments(**changes):
        given = {
            "checkpoint": "demo", "images": photos, "concept": "gem: circle", "out": tmp_path / "out", "size": 32,
            "steps": 2, "dtype": "fp32", "device": "cpu", "save-every": 2, **changes,
        }  # fmt: skip
        return [str(part) for name, value in given.items() for part in (f"--{name}", value)]

    return arguments


@pytest.fixture
def tool(monkeypatch):
    """``tool(arguments)``: the command line in this process; ComfyUI's folders are put back."""
    output, embeddings = (
        folder_paths.get_output_directory(),
        folder_paths.folder_names_and_paths[host_xti.FOLDER],
    )
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = ([*embeddings[0]], embeddings[1])
    spec = importlib.util.spec_from_file_location("train_xti", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
        return module.main()

    yield run
    comfy.utils.set_progress_bar_global_hook(None)
    folder_paths.set_output_directory(output)
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = embeddings


def test_a_folder_of_images_becomes_an_embedding(command, tool, tmp_path, caplog):
    done = subprocess.run(
        [sys.executable, str(TOOL), *command()],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "step 2 of 2" in done.stdout and "<gem>: XTI, 2 images, 2 steps of 1" in done.stdout
    path = tmp_path / "out" / "gem.safetensors"
    concept = xti.load(path)
    assert concept.name == "gem" and concept.widths == (128,)
    assert not torch.equal(concept.layers[0], concept.layers[1])
    snapshot = xti.load(tmp_path / "out" / "gem" / "gem_000002.safetensors")
    assert all(map(torch.equal, snapshot.layers, concept.layers))
    with caplog.at_level("INFO"):
        assert tool(command(steps=3)) == 0
    assert "resumed at step 2" in caplog.text
    longer = xti.load(path.with_name("gem_00001_.safetensors"))
    assert not any(map(torch.equal, longer.layers, concept.layers))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "There is no file nowhere.safetensors"),
        ({"checkpoint": "notes.safetensors"}, "cannot be read as a checkpoint"),
        ({"images": "."}, "There are no images in"),
        ({"size": 4}, "--size is 4. Give at least 16"),
        ({"concept": "gem"}, "not a valid concept"),
        ({"vectors": 0}, "0 vectors, and 1 or more are expected"),
        ({"steps": 0}, "must be at least 1"),
        ({"custom-template": "a photo"}, "where the token belongs"),
    ],
)
def test_bad_input_is_explained(command, tool, tmp_path, monkeypatch, changes, message, caplog):
    monkeypatch.chdir(tmp_path)
    assert tool(command(**changes)) == 1
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named(command, tool, tmp_path, caplog):
    (tmp_path / "photos" / "2.png").write_bytes(b"no image")
    assert tool(command()) == 1
    assert "2.png cannot be read as an image" in caplog.text
