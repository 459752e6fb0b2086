"""Writing merges: names that cannot be, races, changed sources, parts that killed processes left, metadata."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from blockwork.blocks.names import SD1, SDXL
from blockwork.merge.errors import MergeError
from blockwork.merge.files import atomic, merge_files, replay, run
from blockwork.merge.files.header import Entry
from blockwork.merge.files.metadata import architecture_of, versions
from blockwork.tests.support.merge_kit import UNET, tensors, three_files
from safetensors.torch import load_file, save_file

RECIPE = "o = a + b, 0.5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return three_files(tmp_path)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"a.safetensors", "b.safetensors", "c.safetensors"}


def test_a_name_that_cannot_be_is_refused_before_the_merge(folder: Path):
    (folder / "dir.safetensors").mkdir()
    (folder / "file").write_text("x")
    cases = {
        folder / "dir": "is a folder",
        folder / "file" / "o": "Not a directory",
        folder / ("n" * 244): "more than 255 bytes",
        folder / "a\0b": "zero byte",
    }
    for output, told in cases.items():
        with pytest.raises(MergeError, match=told):
            merge_files(
                RECIPE, output, folders=[folder], on_progress=lambda done, total: pytest.fail("merged")
            )
    assert left(folder) == {"dir.safetensors", "file"}
    assert merge_files(
        RECIPE, folder / ("n" * 243), folders=[folder]
    ).path.exists()  # 255 bytes with the suffix


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_a_folder_that_cannot_be_written_is_a_merge_error(folder: Path, monkeypatch, error: OSError):
    plain = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_RDWR:
            raise error
        return plain(path, flags, *rest, **more)

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(
        MergeError, match=rf"Cannot write o\.safetensors: {error.strerror}\. Check the folder"
    ):
        merge_files(RECIPE, folder / "o", folders=[folder])


@pytest.mark.parametrize("nameless", [True, False])
def test_two_merges_to_one_name_do_not_lose_one(folder: Path, monkeypatch, nameless: bool):
    """Both start before either has the name: one gets it, the other is told, and the first file stays."""
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    meeting, results = threading.Barrier(2), []

    def merge(alpha: float) -> None:
        waited = False

        def meet(done: int, total: int) -> None:
            nonlocal waited
            if total > 1 and not waited:
                waited = True
                meeting.wait(30)

        try:
            merge_files(f"o = a + b, {alpha}", folder / "o", folders=[folder], on_progress=meet)
            results.append(alpha)
        except MergeError as error:
            results.append(str(error))

    threads = [threading.Thread(target=merge, args=(alpha,)) for alpha in (0.25, 0.75)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    won = [result for result in results if isinstance(result, float)]
    lost = [result for result in results if isinstance(result, str)]
    assert len(won) == len(lost) == 1 and "appeared while the merge ran" in lost[0]
    key = UNET + "middle_block.1.proj_in.weight"
    a, b = (load_file(folder / f"{name}.safetensors")[key] for name in "ab")
    assert torch.equal(
        load_file(folder / "o.safetensors")[key], torch.lerp(a.float(), b.float(), won[0]).half()
    )
    assert left(folder) == {"o.safetensors"}


def test_without_links_a_name_is_claimed_first(tmp_path: Path, monkeypatch):
    def no_links(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(atomic.os, "link", no_links)
    part, path = tmp_path / "p", tmp_path / "x"
    part.write_text("new")
    atomic._name(part, path)
    assert path.read_text() == "new" and not part.exists()
    part.write_text("newer")
    with pytest.raises(FileExistsError):
        atomic._name(part, path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("how", ["rewritten", "replaced", "longer"])
def test_a_source_changed_during_the_merge_is_noticed(folder: Path, how: str):
    path, changed = folder / "b.safetensors", []

    def change(done: int, total: int) -> None:
        if changed or total <= 1:
            return
        changed.append(True)
        if how == "replaced":
            save_file(tensors(9), folder / "new")
            (folder / "new").replace(path)
        else:
            stamp = path.stat()
            with path.open("r+b") as file:
                file.seek(-50, 2)
                file.write(b"\x11" * (50 if how == "rewritten" else 60))
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # ctime tells all the same

    with pytest.raises(MergeError, match="b was changed while it was being merged"):
        merge_files(RECIPE, folder / "o", folders=[folder], on_progress=change)
    assert changed and left(folder) == set()


def test_the_hash_of_a_file_is_not_that_of_its_past(folder: Path):
    first = merge_files(RECIPE, folder / "o", folders=[folder]).recipe.pins
    path = folder / "b.safetensors"
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(-50, 2)
        file.write(b"\x11" * 50)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same inode, size and mtime
    second = merge_files(RECIPE, folder / "o2", folders=[folder]).recipe.pins
    assert dict(first)["a"] == dict(second)["a"] and dict(first)["b"] != dict(second)["b"]


def test_parts_of_killed_merges_are_removed_and_of_living_ones_kept(folder: Path):
    dead, living = folder / f"{atomic.PART}dead.part", folder / f"{atomic.PART}living.part"
    fresh = folder / f"{atomic.PART}fresh.part"
    for path in (dead, living, fresh):
        path.write_bytes(b"x")
    for path in (dead, living):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    descriptor = atomic._locked(os.open(living, os.O_RDWR))
    try:
        merge_files(RECIPE, folder / "o", folders=[folder])
    finally:
        os.close(descriptor)
    assert left(folder) == {"o.safetensors", living.name, fresh.name}


def test_bytes_are_on_the_disk_before_the_name(folder: Path, monkeypatch):
    steps, sync, link = [], os.fsync, os.link
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: steps.append("sync") or sync(fd))
    monkeypatch.setattr(atomic.os, "link", lambda *a, **k: steps.append("name") or link(*a, **k))
    merge_files(RECIPE, folder / "o", folders=[folder])
    assert steps[:2] == ["sync", "name"] and steps[-1] == "sync"


def test_a_damaged_file_in_the_way_is_not_blamed_as_a_source(folder: Path):
    for content in (b"", b"not a model", (folder / "a.safetensors").read_bytes()[:-7]):
        (folder / "o.safetensors").write_bytes(content)
        with pytest.raises(
            MergeError, match=r"o\.safetensors already exists and is not a merge of this recipe"
        ):
            merge_files(RECIPE, folder / "o", folders=[folder])
        assert (folder / "o.safetensors").read_bytes() == content
    assert merge_files(RECIPE, folder / "o", folders=[folder], overwrite=True).report


def test_replay_names_the_processor_where_it_differs(folder: Path, monkeypatch):
    merged = merge_files(RECIPE, folder / "o", folders=[folder])
    assert versions()["cpu"] == torch.backends.cpu.get_cpu_capability() and versions()["pack"] != "unknown"
    from blockwork.merge.files import metadata

    monkeypatch.setattr(metadata, "versions", lambda: {**versions(), "cpu": "OTHER"})
    _, same, words = replay(merged.path, folder / "again", folders=[folder])
    assert not same and "has the same tensors as o.safetensors, bit for bit" in words and "cpu OTHER" in words
    plain = run.MergedCheckpoint.read

    def rounds_otherwise(self, key, start=0, stop=None):
        found = plain(self, key, start, stop)
        return found + 1 if key.endswith("middle_block.1.proj_in.weight") else found

    monkeypatch.setattr(run.MergedCheckpoint, "read", rounds_otherwise)
    _, same, words = replay(merged.path, folder / "again2", folders=[folder])
    assert not same and "Rounding can differ" in words and "was changed" not in words


def test_architectures_in_the_metadata():
    def keys(*names: str, channels: int = 4) -> dict[str, Entry]:
        found = {name: Entry(torch.float16, (2, 2)) for name in names}
        return {**found, UNET + "input_blocks.0.0.weight": Entry(torch.float16, (320, channels, 3, 3))}

    sd1, sd2 = "cond_stage_model.transformer.x", "cond_stage_model.model.x"
    base, refiner = "conditioner.embedders.1.model.x", "conditioner.embedders.0.model.x"
    cases = [
        (keys(sd1), SD1, "stable-diffusion-v1"),
        (keys(sd1, channels=9), SD1, "stable-diffusion-v1-inpainting"),
        (keys(sd1, channels=8), SD1, "stable-diffusion-v1-edit"),
        (keys(sd2), SD1, ""),
        (keys(sd2, channels=9), SD1, "stable-diffusion-v2-inpainting"),
        (keys(refiner), SD1, ""),
        (keys(refiner, UNET + "label_emb.0.0.weight"), SD1, "stable-diffusion-xl-v1-refiner"),
        (keys(base), SDXL, "stable-diffusion-xl-v1-base"),
        (keys(base, channels=9), SDXL, "stable-diffusion-xl-v1-inpainting"),
        (keys(), SD1, ""),
        (keys(), SDXL, ""),
        ({sd1: Entry(torch.float16, (2, 2))}, SD1, ""),
    ]
    assert [architecture_of(found, layout) for found, layout, _ in cases] == [name for *_, name in cases]


def test_deep_or_loose_json_of_other_tools_is_kept_as_text(folder: Path):
    """Metadata of a source may be anything; what other programs cannot read as JSON is quoted."""
    for text in ("[" * 5000 + "]" * 5000, "NaN", "[" * 900 + "]" * 900, "9" * 5000, "{"):
        save_file(
            tensors(1), folder / "a.safetensors", metadata={"sd_merge_recipe": text, "sd_merge_models": text}
        )
        merged = merge_files(RECIPE, folder / "o", folders=[folder], overwrite=True)
        assert merged.path.exists()


def test_a_link_to_nothing_is_not_a_name(folder: Path):
    (folder / "o.safetensors").symlink_to(folder / "nowhere")
    with pytest.raises(MergeError, match="is a link to a file that does not exist"):
        merge_files(RECIPE, folder / "o", folders=[folder])
