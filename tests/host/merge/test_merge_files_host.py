"""Saved equals previewed: files, recipes run live, and the live merge nodes give the same weights to the bit."""

import os
from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from blockwork.blocks.names import SD1
from blockwork.merge.compare import host as host_compare
from blockwork.merge.errors import MergeError
from blockwork.merge.files import checkpoint
from blockwork.merge.files import host as host_recipe
from blockwork.merge.files.run import merge_files
from blockwork.merge.live import host
from blockwork.merge.recipe.grammar import parse
from blockwork.tests.support.loading import loaded_weight
from refhost import checkpoints, layout
from safetensors.torch import load_file, save_file

UNET = "diffusion_model."
WEIGHTS = [0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1, -0.5, 1.5, 0.1234567891, 0.3, 0.7] * 2 + [0.9]
RECIPE = "mix = sd15_a + sd15_b, alpha=[GRAD_V, BASE=0.3]\nout = __O1__ + sd15_c + sd15_b, 0.4, dtype=fp16"


def data_of(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def as_file(model, path: Path) -> None:
    save_file(
        {f"model.{key}": value.contiguous() for key, value in model.model_state_dict(UNET).items()}, path
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_live_merge_node_equals_the_file(build, tmp_path: Path, dtype: torch.dtype):
    """MODEL-only merging gives the numbers of the checkpoint path (each, key by key)."""
    a, b = build("SD15", 1, dtype), build("SD15", 2, dtype)
    as_file(a, tmp_path / "a.safetensors")
    as_file(b, tmp_path / "b.safetensors")
    live, _ = host.merge_models(a, b, ", ".join(map(repr, WEIGHTS)))
    m_a, m_b = (", ".join(map(repr, numbers)) for numbers in ([1 - w for w in WEIGHTS], WEIGHTS))
    recipe = f"o = a + b, m_a=[{m_a}], m_b=[{m_b}], method=each"
    saved = load_file(merge_files(recipe, tmp_path / "o", folders=[tmp_path]).path)
    short = merge_files(f"o = a + b, m_b=[{m_b}], method=each", tmp_path / "short", folders=[tmp_path])
    assert data_of(short.path) == data_of(tmp_path / "o.safetensors")
    assert len(WEIGHTS) == len(SD1.blocks)
    for key in saved:
        assert torch.equal(loaded_weight(live, key.removeprefix("model.")), saved[key]), key


def test_the_live_add_difference_node_equals_the_file(build, tmp_path: Path):
    models = [build("SD15", seed, torch.float16) for seed in (1, 2, 3)]
    for name, model in zip("abc", models, strict=True):
        as_file(model, tmp_path / f"{name}.safetensors")
    weights = ", ".join(map(repr, WEIGHTS))
    live, _ = host.add_model_difference(*models, weights)
    saved = load_file(
        merge_files(f"o = a + b + c, alpha=[{weights}]", tmp_path / "o", folders=[tmp_path]).path
    )
    for key in saved:
        assert torch.equal(loaded_weight(live, key.removeprefix("model.")), saved[key]), key


@pytest.fixture(scope="module")
def comfy_folders(tmp_path_factory):
    """The small SD1 checkpoints in ComfyUI's model folders, and an output folder of our own."""
    paths = checkpoints.make_named(["sd15_a", "sd15_b", "sd15_c"], layout.TESTS_BASE)
    before, output = folder_paths.get_output_directory(), tmp_path_factory.mktemp("output")
    listed = folder_paths.folder_names_and_paths["checkpoints"]
    folder_paths.folder_names_and_paths["checkpoints"] = (
        [str(paths[0].parent), str(output / "checkpoints")],
        listed[1],
    )
    folder_paths.set_output_directory(str(output))
    folder_paths.filename_list_cache.clear()
    yield output
    folder_paths.folder_names_and_paths["checkpoints"] = listed
    folder_paths.set_output_directory(before)
    folder_paths.filename_list_cache.clear()


def state(patcher) -> dict[str, torch.Tensor]:
    return patcher.model_state_dict()


def test_a_recipe_run_live_is_the_saved_file_loaded(comfy_folders):
    """MODEL, CLIP and VAE, every weight, bit for bit."""
    model, clip, vae, words = host_recipe.live(RECIPE)
    merged = host_recipe.to_file(RECIPE, "mixes/out")
    assert host_recipe.listed_name(merged.path) == "mixes/out.safetensors" and "out: " in words
    file_model, file_clip, file_vae = comfy.sd.load_checkpoint_guess_config(str(merged.path))[:3]
    for ours, theirs in (
        (model, file_model),
        (clip.patcher, file_clip.patcher),
        (vae.patcher, file_vae.patcher),
    ):
        ours, theirs = state(ours), state(theirs)
        assert ours.keys() == theirs.keys()
        for key in ours:
            if not key.endswith("text_projection.weight"):  # SD1 files have none: uninitialised in both
                assert ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]), key
    again, same, finding = host_recipe.replay_file("mixes/out.safetensors", "again")
    assert same and "byte for byte" in finding
    assert parse(host_recipe.read_recipe("mixes/out.safetensors")) == again.recipe


def test_the_live_clip_and_vae_nodes_equal_the_checkpoint_path(comfy_folders):
    """CLIP-only and VAE-only merging against one recipe line for the whole checkpoint, each in the dtype it is loaded in."""
    folder = layout.TESTS_BASE / "models" / "checkpoints"
    (_, clip_a, vae_a), (_, clip_b, vae_b) = (
        comfy.sd.load_checkpoint_guess_config(str(folder / f"sd15_{name}.safetensors"))[:3] for name in "ab"
    )
    ratio = 0.3
    live_clip, _ = host.merge_clips(clip_a, clip_b, ratio)
    live_vae, _ = host.merge_vaes(vae_a, vae_b, ratio)
    share = f"m_a=[{1 - ratio!r}, VAE={1 - ratio!r}], m_b=[{ratio}, VAE={ratio}]"
    _, clip, vae, _ = host_recipe.live(f"o = sd15_a + sd15_b, {share}, method=each, dtype=fp32")
    for ours, theirs in ((live_clip.patcher, clip.patcher), (live_vae.patcher, vae.patcher)):
        compared = 0
        for key, weight in state(theirs).items():
            if key.endswith(("text_projection.weight", "position_ids")):
                continue
            merged = loaded_weight(ours, key)
            assert merged.dtype == weight.dtype and torch.equal(merged, weight), key
            compared += 1
        assert compared > 100


def test_a_live_recipe_holds_one_model_and_changes_no_source(comfy_folders):
    path = layout.TESTS_BASE / "models" / "checkpoints" / "sd15_a.safetensors"
    stamp = path.stat().st_mtime_ns
    line, _, _, _ = host_recipe.live(RECIPE, line=1)
    last, _, _, _ = host_recipe.live(RECIPE)
    key = UNET + "input_blocks.1.0.in_layers.2.weight"
    assert not torch.equal(state(line)[key], state(last)[key]) and path.stat().st_mtime_ns == stamp


def test_interrupting_stops_and_leaves_nothing(comfy_folders):
    import comfy.model_management as mm

    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        host_recipe.to_file(RECIPE, "interrupted")
    assert not list((comfy_folders / "checkpoints").glob("*interrupted*"))


def test_compare_sees_what_a_patch_changes(build):
    """Scaling one block by 0.75 moves that block by a quarter of its length and no other."""
    a = build("SD15", 1)
    scaled, _ = host.scale_blocks(a, "OUT04=0.75")
    found = host_compare.compare_live(a, scaled, "mbw")
    assert found.blocks["OUT04"].relative == pytest.approx(0.25, rel=1e-6)
    assert found.blocks["OUT04"].cosine == pytest.approx(1.0, abs=1e-9)
    assert all(one.distance == 0 for name, one in found.blocks.items() if name != "OUT04")
    image = host_compare.picture(found, "distance")
    assert image.ndim == 4 and image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1
    assert "OUT04" in found.table() and "25" in found.table()


def test_stop_is_heard_while_files_are_hashed(comfy_folders):
    """A pinned recipe hashes before it merges; nothing is written, and not even one file is hashed to its end."""
    import comfy.model_management as mm

    checkpoint._HASHES.clear()
    pinned = f"{RECIPE}\npin sd15_a = {'0' * 64}"
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        host_recipe.to_file(pinned, "interrupted")
    assert not checkpoint._HASHES


def test_a_recipe_of_a_node_opens_only_what_comfyui_lists(comfy_folders, tmp_path: Path, monkeypatch):
    """Absolute paths, UNC names and paths out of the folders get one error, whether the file exists or not."""
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes((layout.TESTS_BASE / "models" / "checkpoints" / "sd15_b.safetensors").read_bytes())
    opened, plain = [], checkpoint._open_regular
    monkeypatch.setattr(
        checkpoint, "_open_regular", lambda path, name: opened.append(path) or plain(path, name)
    )
    names = [
        str(secret),
        str(tmp_path / "missing.safetensors"),
        "//host/share/x.safetensors",
        r"\\host\share\x",
    ]
    names.append(os.path.relpath(secret, layout.TESTS_BASE / "models" / "checkpoints"))
    words = set()
    for name in names:
        quoted = name.replace("\\", "\\\\")
        for recipe in (
            f'o = "{quoted}" + sd15_a, 0.5',
            f'o = sd15_a, 0.5, vae="{quoted}"',
            f'__X__ = "{quoted}"\no = __X__, 0.5',
        ):
            for run in (host_recipe.live, lambda text: host_recipe.to_file(text, "never")):
                with pytest.raises(MergeError, match="There is no model called") as caught:
                    run(recipe)
                words.add(str(caught.value).partition("Available")[2])
    assert len(words) == 1 and {path.name for path in opened} <= {"sd15_a.safetensors"}
    assert not (comfy_folders / "checkpoints" / "never.safetensors").exists()


def test_a_file_that_was_deleted_is_merged_again(comfy_folders):
    """The stamp of the output changes once after a deletion, so that ComfyUI's cache gives no success without a file."""
    before = host_recipe.output_stamp("stamped")
    path = host_recipe.to_file("o = sd15_a, alpha=IN04=0.5", "stamped").path
    assert host_recipe.output_stamp("stamped") == before
    path.unlink()
    gone = host_recipe.output_stamp("stamped")
    assert gone != before and host_recipe.output_stamp("stamped") == gone
    assert host_recipe.to_file("o = sd15_a, alpha=IN04=0.5", "stamped").path.exists()
    assert host_recipe.output_stamp("stamped") == gone


def test_a_diffusion_model_is_written_where_its_loader_looks(comfy_folders, tmp_path: Path, monkeypatch):
    whole = load_file(layout.TESTS_BASE / "models" / "checkpoints" / "sd15_a.safetensors")
    prefix = f"model.{UNET}"
    bare = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
    for name in ("bare_a.safetensors", "bare_b.SFT", "sd15_a.safetensors"):
        save_file(bare, tmp_path / name)
    listed = folder_paths.folder_names_and_paths["diffusion_models"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], listed[1]))
    folder_paths.filename_list_cache.clear()
    files = host_recipe.model_files()
    assert {
        "bare_a.safetensors",
        "bare_b.SFT",
        "diffusion_models/sd15_a.safetensors",
        "sd15_a.safetensors",
    } <= set(files)
    merged = host_recipe.to_file("o = bare_a + bare_b, alpha=[GRAD_V, BASE=0.5]", "bare/mix")
    assert merged.path == comfy_folders / "diffusion_models" / "bare" / "mix.safetensors"
    assert host_recipe.listed_name(merged.path) == "bare/mix.safetensors"
    assert load_file(merged.path).keys() == bare.keys()
    model = comfy.sd.load_diffusion_model(str(merged.path))
    live = host_recipe.live("o = bare_a + bare_b, alpha=[GRAD_V, BASE=0.5]")[0]
    for key, weight in state(model).items():
        assert torch.equal(weight, state(live)[key]), key
    assert host_recipe.target_of(parse("o = sd15_a, 1"), "x", 0).parent == comfy_folders / "checkpoints"
    assert host_recipe.target("x", "text_encoders").parent == comfy_folders / "clip"


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x", "C:\\x", "  ", "a\0b"])
def test_names_outside_the_output_folder_are_refused(comfy_folders, name: str):
    with pytest.raises(MergeError, match="Invalid output name"):
        host_recipe.target(name)


def test_a_changed_source_changes_the_fingerprint(comfy_folders):
    path = layout.TESTS_BASE / "models" / "checkpoints" / "sd15_a.safetensors"
    before = host_recipe.fingerprint(RECIPE)
    assert before.count(";") == 2 and host_recipe.fingerprint(RECIPE) == before
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    try:
        assert host_recipe.fingerprint(RECIPE) != before
    finally:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert host_recipe.fingerprint(None) == "" == host_recipe.fingerprint("no recipe")
