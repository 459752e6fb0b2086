"""What file merges leave behind: metadata, byte-exact replay, nothing half-written, sources untouched."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files, recipe_of, replay
from blockwork.tests.support.merge_kit import digest, same, tensors, three_files
from refhost import layout
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return three_files(tmp_path)


def test_metadata_tells_everything_and_no_path(folder: Path):
    recipe = f"__A__ = {folder / 'a.safetensors'}\nmix = __A__ + b, 0.5"
    merged = merge_files(recipe, folder / "sub" / "o", folders=[folder])
    told, metadata = recipe_of(merged.path)
    hashes = {name: digest(folder / f"{name}.safetensors") for name in "ab"}
    assert dict(told.pins) == {"a.safetensors": hashes["a"], "b": hashes["b"]} and told == merged.recipe
    models = json.loads(metadata["sd_merge_models"])
    assert set(models) == set(hashes.values()) and models[hashes["b"]]["name"] == "b"
    assert json.loads(metadata["sd_merge_recipe"])["primary_model_hash"] == hashes["a"]
    assert (
        metadata["blockwork_a.author"] == "maker of a"
        and metadata["modelspec.merged_from"] == "a.safetensors, b"
    )
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert json.loads(metadata["blockwork_versions"])["torch"] == torch.__version__
    head = merged.path.read_bytes()[: 8 + int.from_bytes(merged.path.read_bytes()[:8], "little")]
    assert str(folder).encode() not in head


def test_sources_of_sources_are_kept(folder: Path):
    merge_files("m = a + b, 0.5", folder / "m", folders=[folder])
    merged = merge_files("o = m + b, 0.5", folder / "o", folders=[folder])
    models = json.loads(recipe_of(merged.path)[1]["sd_merge_models"])
    assert {model["name"] for model in models.values()} == {"m", "a", "b"}
    assert replay(merged.path, folder / "again", folders=[folder])[1]


def test_replay_reproduces_the_file_byte_for_byte(folder: Path):
    recipe = "m = a + b, alpha=MINE\no = __O1__ + c, 0.3, method=dare, seed=9, dtype=fp16"
    merged = merge_files(
        recipe, folder / "o", folders=[folder], own_presets={"MINE": [0.01 * i for i in range(25)]}
    )
    again, equal, words = replay(merged.path, folder / "again", folders=[folder])  # without the user's preset
    assert equal and digest(again.path) == digest(merged.path) and "byte for byte" in words
    with pytest.raises(MergeError, match="Choose another output name"):
        replay(merged.path, merged.path, folders=[folder], overwrite=True)
    with pytest.raises(MergeError, match="contains no Blockwork recipe"):
        replay(folder / "a.safetensors", folder / "again2", folders=[folder])


def test_replay_refuses_other_sources_and_sees_changed_files(folder: Path):
    merged = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    raw = bytearray(merged.path.read_bytes())
    raw[-1] ^= 1
    (folder / "changed.safetensors").write_bytes(raw)
    _, equal, words = replay(folder / "changed.safetensors", folder / "again", folders=[folder])
    assert not equal and "changed after it was merged" in words
    save_file(tensors(77), folder / "b.safetensors")
    with pytest.raises(MergeError, match="b is not the file this recipe was made with"):
        replay(merged.path, folder / "again3", folders=[folder])
    assert not (folder / "again3.safetensors").exists()


def test_an_existing_file_is_safe(folder: Path):
    first = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    stamp = first.path.stat().st_mtime_ns
    assert (
        "already exists and matches this recipe"
        in merge_files("o = a + b, 0.5", folder / "o", folders=[folder]).report
    )
    assert first.path.stat().st_mtime_ns == stamp
    with pytest.raises(MergeError, match="already exists and is not a merge of this recipe"):
        merge_files("o = a + b, 0.6", folder / "o", folders=[folder])
    for name in ("a", "link"):
        if name == "link":
            (folder / "link.safetensors").symlink_to(folder / "b.safetensors")
        with pytest.raises(MergeError, match="is the source"):
            merge_files(
                "o = a + b, 0.5",
                folder / name,
                folders=[folder],
                files={"a": folder / "a.safetensors", "b": folder / "b.safetensors"},
                overwrite=True,
            )
    assert same(load_file(folder / "a.safetensors"), tensors(1)) and same(
        load_file(folder / "b.safetensors"), tensors(2)
    )


def test_stopping_half_way_leaves_nothing(folder: Path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        merge_files("o = a + b, 0.5", folder / "o", folders=[folder], on_progress=stop)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


SLOW = """
import sys, time
sys.path.insert(0, {tools!r})
from refhost.pack import load_pack
load_pack()
from blockwork.merge.files import merged
from blockwork.merge.files import merge_files
{more}
read = merged.MergedCheckpoint.read
def slow(self, *args):
    print("reading", flush=True)
    time.sleep(0.02)
    return read(self, *args)
merged.MergedCheckpoint.read = slow
merge_files("o = a + b, 0.5", {out!r}, folders=[{folder!r}], threads=1)
"""


def script(folder: Path, more: str = "") -> list[str]:
    text = SLOW.format(tools=str(layout.ROOT / "tools"), out=str(folder / "o"), folder=str(folder), more=more)
    return [sys.executable, "-c", textwrap.dedent(text)]


@pytest.mark.skipif(
    not hasattr(os, "O_TMPFILE"), reason="only systems with nameless files survive SIGKILL cleanly"
)
def test_killed_half_way_leaves_nothing(folder: Path):
    process = subprocess.Popen(script(folder), stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


def test_a_full_disk_is_a_clear_error(folder: Path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))"
    done = subprocess.run(script(folder, limit), capture_output=True, text=True)
    assert "MergeError: Cannot write o.safetensors (0.00 GB): File too large" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]
