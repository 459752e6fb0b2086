"""What file merges do with the odd: dtypes, channels, missing keys, NaN, position_ids, markers, bad files."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.files.run import merge_files
from blockwork.merge.methods import METHODS
from blockwork.merge.recipe.names import match_name
from blockwork.tests.support.merge_kit import IDS, UNET, merge, same, tensors, three_files
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return three_files(tmp_path)


def test_the_file_is_aligned_and_in_safetensors_order(folder: Path):
    path = merge_files("o = a + b, 0.5, dtype=bf16", folder / "o", folders=[folder]).path
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    widths = {"I64": 8, "F32": 4, "F16": 2, "BF16": 2}
    assert length % 8 == 0
    assert all(info["data_offsets"][0] % widths[info["dtype"]] == 0 for info in header.values())
    assert len(load_file(path)) == len(tensors(1))


def test_what_stays_as_it_is_is_copied_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """One read per changed tensor; the copy works alike where the system cannot copy between files."""
    plain, read = FileCheckpoint.read, []
    monkeypatch.setattr(
        FileCheckpoint, "read", lambda file, key, *span: read.append(key) or plain(file, key, *span)
    )
    recipe = "o = a, alpha=IN04=0.75"
    path = merge_files(recipe, folder / "o", folders=[folder]).path
    assert sorted(read) == [IDS, UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"]
    a, made = FileCheckpoint(folder / "a.safetensors"), FileCheckpoint(path)
    assert (made.start - a.start) % 4096 == 0  # or every page would be copied as two halves
    for file in (a, made):
        file.close()
    monkeypatch.setattr(os, "copy_file_range", _cross_device, raising=False)
    again = merge_files(recipe, folder / "again", folders=[folder]).path
    assert again.read_bytes() == path.read_bytes()


def _cross_device(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", ["same", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"])
def test_dtypes(tmp_path: Path, source: torch.dtype, target: str):
    for seed, name in enumerate("ab"):
        save_file(tensors(seed, source), tmp_path / f"{name}.safetensors")
    found = merge(tmp_path, f"o = a + b, 0.25, dtype={target}")
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    kinds = {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp8_e4m3": torch.float8_e4m3fn,
    }
    wanted = source if target == "same" else kinds.get(target, torch.float8_e5m2)
    matrix, bias = UNET + "middle_block.1.proj_in.weight", UNET + "output_blocks.0.0.in_layers.2.bias"
    exact = 0.75 * a[matrix].double() + 0.25 * b[matrix].double()
    assert found[matrix].dtype == wanted
    if wanted == torch.float32:
        assert torch.allclose(found[matrix].double(), exact, rtol=3e-7, atol=1e-7)
    else:
        wrong = (found[matrix].double() != exact.to(wanted).double()).double().mean()
        assert wrong <= (0.02 if source == torch.float32 else 0)
    assert found[bias].dtype == (source if target.startswith("fp8") else wanted)
    assert found["betas"].dtype == torch.float32 and found[IDS].dtype == torch.int64


def test_mixed_sources_and_overflow_is_told(tmp_path: Path):
    a, b = tensors(1, torch.float32), tensors(2)
    key = UNET + "middle_block.1.proj_in.weight"
    a[key][0, :3] = 1e6
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    merged = merge_files("o = a + b, 0.5, dtype=fp16", tmp_path / "o", folders=[tmp_path])
    assert load_file(merged.path)[key][0, 0].isinf()
    assert "overflowed float16: 3 elements in 1 tensors" in merged.report


@pytest.mark.parametrize(("method", "extra"), [("weighted_sum", ""), ("each", ""), ("add_difference", "+ c")])
def test_nine_channels_merge_in_the_first_four(tmp_path: Path, method: str, extra: str):
    key = UNET + "input_blocks.0.0.weight"
    for seed, (name, width) in enumerate({"a": 9, "b": 4, "c": 4}.items()):
        save_file(tensors(seed, width=width), tmp_path / f"{name}.safetensors")
    ratios = "m_a=0.3, m_b=0.7" if method == "each" else "alpha=0.7"
    merged = merge_files(f"o = a + b {extra}, {ratios}, method={method}", tmp_path / "o", folders=[tmp_path])
    found = load_file(merged.path)[key]
    sources = [load_file(tmp_path / f"{name}.safetensors")[key] for name in ("abc" if extra else "ab")]
    numbers = {"m_a": 0.3, "m_b": 0.7} if method == "each" else {"alpha": 0.7}
    assert torch.equal(found[:, 4:], sources[0][:, 4:])
    assert torch.equal(found[:, :4], METHODS[method].blend([s[:, :4] for s in sources], numbers))
    assert "merged in the first 4 channels" in merged.report
    with pytest.raises(MergeError, match="Make the inpainting or edit model the first model"):
        merge_files("o = b + a, 0.5", tmp_path / "o2", folders=[tmp_path])


def test_missing_extra_and_differently_shaped_keys_are_told(folder: Path):
    b = load_file(folder / "b.safetensors")
    vae = "first_stage_model.decoder.conv_in.weight"
    text = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    del b[vae]
    b[text] = b[text][:200].clone()
    b["model.diffusion_model.extra.weight"] = torch.ones(3)
    save_file(b, folder / "b.safetensors")
    merged = merge_files("o = a + b, alpha=[0.5, VAE=0.5]", folder / "o", folders=[folder])
    found, a = load_file(merged.path), load_file(folder / "a.safetensors")
    assert found.keys() == a.keys() and torch.equal(found[vae], a[vae]) and torch.equal(found[text], a[text])
    assert f"kept from A, missing in B: 1 ({vae})" in merged.report
    assert f"kept from A, other shape in B: 1 ({text})" in merged.report
    assert "left out, only B has them: 1" in merged.report
    assert "model.diffusion_model.extra.weight" in merge(folder, "o = a + b, 0.5, extra_keys=copy")
    attention = (
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    )  # SD1 against SD2: other widths
    for width in (32, 96):
        save_file({**b, attention: torch.ones(48, width).half()}, folder / "sd2.safetensors")
        with pytest.raises(MergeError, match="different architectures"):
            merge_files("o = a + sd2, 0.5", folder / "o2", folders=[folder])
    b[UNET + "middle_block.1.proj_in.weight"] = torch.ones(7, 7)
    save_file(b, folder / "b.safetensors")
    with pytest.raises(MergeError, match="different architectures"):
        merge_files("o = a + b, 0.5", folder / "o2", folders=[folder])


def test_nan_is_an_error_or_a_stays(folder: Path):
    b, key = load_file(folder / "b.safetensors"), UNET + "middle_block.1.proj_in.weight"
    b[key][3, 5], b[key][4, 6] = float("nan"), float("inf")
    save_file(b, folder / "b.safetensors")
    for recipe in ("o = a + b, 0.5", "o = a + b, 1", "o = a + b, m_a=1, m_b=0.25, method=each"):
        with pytest.raises(MergeError, match=f"b: {key} holds NaN or infinity"):
            merge_files(recipe, folder / "o", folders=[folder])
        assert sorted(path.name for path in folder.iterdir()) == [
            "a.safetensors",
            "b.safetensors",
            "c.safetensors",
        ]
    a = load_file(folder / "a.safetensors")
    for alpha in (0.5, 1):
        merged = merge_files(
            f"o = a + b, {alpha}, nan=keep_a", folder / "o", folders=[folder], overwrite=True
        )
        found = load_file(merged.path)[key]
        assert found[3, 5] == a[key][3, 5] and found[4, 6] == a[key][4, 6] and found.isfinite().all()
        good = torch.isfinite(b[key])
        assert torch.equal(
            found[good], METHODS["weighted_sum"].blend([a[key], b[key]], {"alpha": alpha})[good]
        )
        assert "A's values kept: 2 elements" in merged.report
    save_file({**a, "first_stage_model.odd": torch.tensor([float("nan")])}, folder / "odd.safetensors")
    assert merge(folder, "o = odd + b, 0")["first_stage_model.odd"].isnan().all()  # kept as it is, not judged
    with pytest.raises(MergeError, match=r"odd: first_stage_model\.odd holds NaN"):
        merge_files("o = a + odd, 0.5, extra_keys=copy", folder / "o3", folders=[folder])
    assert same(merge(folder, "o = a + b, 0"), a)  # B is not even read where it has no share


@pytest.mark.parametrize("broken", [
    torch.arange(77, dtype=torch.float32)[None] * 0.9999,
    torch.arange(77, dtype=torch.float16)[None],
    torch.zeros(1, 77, dtype=torch.int64),
])  # fmt: skip
def test_position_ids_are_repaired(folder: Path, broken: torch.Tensor):
    a = load_file(folder / "a.safetensors")
    a[IDS] = broken
    save_file(a, folder / "a.safetensors")
    merged = merge_files("o = a + b, 0.5, dtype=fp16", folder / "o", folders=[folder])
    found = load_file(merged.path)[IDS]
    assert (
        found.dtype == torch.int64
        and torch.equal(found, torch.arange(77)[None])
        and "reset to 0, 1, 2" in merged.report
    )
    del a[IDS]
    position = IDS.replace("position_ids", "position_embedding.weight")
    save_file({**a, position: torch.ones(77, 8).half()}, folder / "bare.safetensors")
    assert IDS not in merge(folder, "o = bare + b, 0.5")
    assert torch.equal(merge(folder, "o = bare + b, 0.5, position_ids=reset")[IDS], torch.arange(77)[None])
    kept = merge(folder, "o = a + b, 0.5, position_ids=skip")[IDS]
    assert kept.dtype == broken.dtype and torch.equal(kept, broken)


def test_markers_ema_and_prune(folder: Path):
    a = load_file(folder / "a.safetensors")
    a["v_pred"], a["logit_scale"] = torch.zeros(0), torch.tensor(4.6)
    a["model_ema.diffusion_modeloutputblocks"] = torch.ones(3)
    average = "model_ema." + (UNET + "out.2.weight").removeprefix("model.").replace(".", "")
    a[average] = torch.full((4, 32, 3, 3), 0.125).half()
    save_file(a, folder / "a.safetensors")
    merged = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    found = load_file(merged.path)
    assert found["v_pred"].shape == (0,) and torch.equal(found[average], a[average])
    assert "A has the marker v_pred, B does not" in merged.report
    assert not any(key.startswith("model_ema") for key in merge(folder, "o = a + b, 0.5, ema=drop"))
    swapped = merge(folder, "o = a + b, alpha=ALL_A, ema=swap")
    assert torch.equal(swapped[UNET + "out.2.weight"], a[average])
    pruned = merge(folder, "o = a + b, 0.5, prune=yes")
    assert (
        "v_pred" in pruned
        and "betas" not in pruned
        and not any(key.startswith("model_ema") for key in pruned)
    )


def test_bad_files_are_refused(folder: Path):
    raw = (folder / "b.safetensors").read_bytes()
    cases = {
        "cut": (raw[:-100], "is cut off: 100 bytes are missing"),
        "long": (raw + b"xx", "has 2 bytes too many"),
        "stub": (raw[:40], "cut off inside its header"),
        "text": (b"not a model at all, sorry", "not a safetensors file"),
        "empty": (b"", "not a safetensors file"),
    }
    for name, (content, told) in cases.items():
        (folder / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(MergeError, match=told):
            merge_files(f"o = a + {name}, 0.5", folder / "o", folders=[folder])
    (folder / "p.ckpt").write_bytes(b"pickle")
    with pytest.raises(MergeError, match="pickle"):
        FileCheckpoint(folder / "p.ckpt")
    a = load_file(folder / "a.safetensors")
    save_file(
        {k: v for k, v in a.items() if "input_blocks.1" not in k and ".9." not in k},
        folder / "xl.safetensors",
    )
    with pytest.raises(MergeError, match="different architectures"):
        merge_files("o = a + xl, 0.5", folder / "o", folders=[folder])
    with pytest.raises(MergeError, match="no model called 'nowhere'"):
        merge_files("o = a + nowhere, 0.5", folder / "o", folders=[folder])
    with pytest.raises(MergeError, match="No file is bound to __X__"):
        merge_files("o = a + __X__, 0.5", folder / "o", folders=[folder])
    assert not (folder / "o.safetensors").exists()


def test_models_without_a_unet_merge_with_one_number(tmp_path: Path):
    for seed, name in enumerate("ab"):
        g = torch.Generator().manual_seed(seed)
        save_file(
            {"text_model.encoder.layers.0.mlp.fc1.weight": torch.randn(30, 10, generator=g).half()},
            tmp_path / f"{name}.safetensors",
        )
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    found = merge(tmp_path, "o = a + b, 0.3")
    key = next(iter(found))
    assert torch.equal(found[key], torch.lerp(a[key], b[key], 0.3))
    with pytest.raises(MergeError, match="Use one number for the whole model"):
        merge(tmp_path, "o = a + b, alpha=GRAD_V")


def test_names_as_recipes_write_them():
    known = ["sd15_a.safetensors", "sub/mix.safetensors", "other/mix.safetensors", "sub/only.safetensors"]
    assert match_name("sd15_a", known) == match_name("sd15_a.ckpt [abc123]", known) == known[0]
    assert match_name("only", known) == match_name("sub\\only.safetensors", known) == known[3]
    assert match_name("other/mix", known) == known[2]
    with pytest.raises(MergeError, match="could be"):
        match_name("mix", known)
