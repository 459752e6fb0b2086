"""One command makes every committed image again: `tools/draw_all.py`."""

import fnmatch
import subprocess

import draw_all
import draw_thumbnails
import pytest
from refhost import layout, templates

IMAGES = ("*.jpg", "*.png", "*.gif", "*.webp", "*.svg")


def test_every_committed_image_has_one_maker():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *IMAGES], cwd=layout.ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    images = [name for name in listed if name and not name.startswith("tests/")]
    if not images:
        pytest.skip("this is not a git checkout")
    patterns = [pattern for step in draw_all.STEPS for pattern in step.images]
    for name in images:
        makers = [pattern for pattern in patterns if fnmatch.fnmatch(name, pattern)]
        assert len(makers) == 1, f"{name} is made by {makers or 'no step'} of tools/draw_all.py"
    unused = [p for p in patterns if not fnmatch.filter(images, p)]
    assert not unused, "these patterns match no committed image"


def test_every_script_is_there():
    for step in draw_all.STEPS:
        assert (layout.ROOT / step.script).is_file(), step.script


def test_steps_run_in_order_and_stop_at_a_failure(monkeypatch, capsys):
    ran = []

    def run(command, **_):
        ran.append(command[1].name)
        return subprocess.CompletedProcess(command, int(ran[-1] == "draw_articles.py"))

    monkeypatch.setattr(draw_all.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["draw_all.py"])
    assert draw_all.main() == 1
    assert ran == [step.script.rpartition("/")[2] for step in draw_all.STEPS][: len(ran)]
    assert ran[-1] == "draw_articles.py" and f"1/{len(draw_all.STEPS)} draw_icon" in capsys.readouterr().out
    ran.clear()
    monkeypatch.setattr("sys.argv", ["draw_all.py", "draw_thumbnails"])
    assert draw_all.main() == 0 and ran == ["draw_thumbnails.py"]
    monkeypatch.setattr("sys.argv", ["draw_all.py", "--list"])
    assert draw_all.main() == 0 and len(ran) == 1


@pytest.mark.parametrize("name", templates.names())
def test_a_thumbnail_needs_no_released_model(name):
    """... so that anyone can make it again; texts that the demo models cannot read are exchanged."""
    prompt = draw_thumbnails.prompt_of(name)
    kinds = {node["class_type"] for node in prompt.values()}
    assert not kinds & {"CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "CLIPVisionLoader"}
    assert not {kind for kind in kinds if kind.startswith("BlockworkCascade") and kind.endswith("Loader")}
    for node in prompt.values():
        for value in node["inputs"].values():
            assert not isinstance(value, str) or ("lighthouse" not in value and "corgi" not in value)
