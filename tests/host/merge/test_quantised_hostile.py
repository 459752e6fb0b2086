"""Quantised files as they should not be, and rare forms of them, in merges and recipes of files."""

import json
from collections.abc import Mapping

import pytest
import torch
from blockwork.merge import find
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.files.vae import FIRST_STAGE
from blockwork.tests.host.merge.test_quantised_files import EPSILON, QUANTISED, put, run, tensors
from blockwork.tests.support import quantised_kit as kit
from blockwork.tests.unit.test_vae_baking import vae
from safetensors.torch import save_file

KEY = QUANTISED[0]
STEM = KEY.removesuffix("weight")
FP8 = {"format": "float8_e4m3fn"}


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a", "b"), 1):
        save_file(tensors(seed), tmp_path / f"{name}.safetensors")
    return tmp_path


def described(text: object) -> torch.Tensor:
    raw = text if isinstance(text, bytes) else json.dumps(text).encode()
    return torch.tensor(list(raw), dtype=torch.uint8)


def scalar(word: str, value: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {STEM + word: torch.full((), value).to(dtype)}


def smoothing(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {STEM + "pre_quant_scale": values}


def gate(text: object, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A quantised weight without rows and columns."""
    one = torch.ones(())
    return {"gate.weight": one.to(dtype), "gate.weight_scale": one, "gate.comfy_quant": described(text)}


def description(text: object) -> dict[str, torch.Tensor]:
    return {STEM + "comfy_quant": described(text)}


# What is changed in the file (None: removed), and what the error says.
WRONG: dict[str, tuple[Mapping[str, torch.Tensor | None], str]] = {
    "no scale": ({STEM + "weight_scale": None}, "its weight_scale is missing"),
    "an integer scale": (scalar("weight_scale", 1, torch.int64), "its weight_scale is int64"),
    "a boolean scale": (scalar("weight_scale", 1, torch.bool), "its weight_scale is bool"),
    "a scale in float8": (scalar("weight_scale", 1, torch.float8_e4m3fn), "weight_scale is float8_e4m3fn"),
    "a scale per element": ({STEM + "weight_scale": torch.ones(160, 128)}, r"shape \[160, 128\] with weight_scale \["),
    "an empty scale": ({STEM + "weight_scale": torch.ones(0)}, r"with weight_scale \[0\]"),
    "two scales": (scalar("scale_weight"), "scale_weight: weight_scale is there as well"),
    "a second scale": (scalar("weight_scale_2"), "weight_scale_2"),
    "no weight": ({KEY: None, STEM + "comfy_quant": None}, "weight_scale: the weight it belongs to is missing"),
    "no description": ({STEM + "comfy_quant": None}, "weight_scale: its format is not described"),
    "a list as format": (description({"format": []}), r"format \[\]"),
    "a format of another script": (description(b'{"format": "\\ud800"}'), r"format \\ud800"),
    "a huge description": (description(b" " * 70_000 + b"{}"), "text of at most 65536 bytes"),
    "a huge number": (description(b'{"format": ' + b"9" * 5000 + b"}"), "not a JSON object"),
    "a deep description": (description(b'{"a": ' + b"[" * 30_000), "not a JSON object"),
    "a description of floats": ({STEM + "comfy_quant": torch.zeros(3)}, "text of at most 65536 bytes"),
    "a description of a plain weight": ({"img_in.comfy_quant": described(FP8)}, "its codes are bfloat16"),
    "a scalar weight": (gate(FP8, torch.float8_e4m3fn), r"its weight has the shape \[\]"),
    "a scalar of packed codes": (gate({"format": "nvfp4"}, torch.uint8), r"its weight has the shape \[\]"),
    "a scalar of four bits": (gate({"format": "convrot_w4a4"}, torch.int8), r"its weight has the shape \[\]"),
    "a factor of 0": (smoothing(torch.zeros(128)), "it holds 0, NaN or infinity"),
    "a factor of NaN": (smoothing(torch.full((128,), torch.nan)), "it holds 0, NaN or infinity"),
    "integer factors": (smoothing(torch.ones(128, dtype=torch.int32)), "pre_quant_scale: int32"),
    "too few factors": (smoothing(torch.ones(7)), r"pre_quant_scale: float32 of the shape \[7\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_with_the_reason(folder, what):
    changes, told = WRONG[what]
    state = {**kit.quantised(tensors(1), "fp8_scaled", QUANTISED), **changes}
    save_file({key: value for key, value in state.items() if value is not None}, folder / "q.safetensors")
    with pytest.raises(MergeError, match=f"q is quantised in a form.*{told}.*Use the fp16") as error:
        run(folder, "o = a + q, 0.5")
    assert str(error.value).isascii()
    assert not (folder / "out.safetensors").exists()


def test_scales_of_zero_and_below_are_numbers_and_nan_is_an_error(folder):
    for value in (0.0, -1e-3):
        state = put(folder, "q", "fp8_scaled", 1) | scalar("weight_scale", value)
        save_file(state, folder / "q.safetensors")
        found, _ = run(folder, "o = q + b, 0.5")
        exact = torch.lerp(kit.plain(state, KEY), tensors(2)[KEY].float(), 0.5)
        assert float(kit.off(found, KEY, exact).max()) <= 0.5 + EPSILON
        kept, _ = run(folder, "o = q + b, alpha=[S01=0.5]")
        assert kit.equal(kit.parts(kept, KEY), kit.parts(state, KEY))
    for value in (torch.nan, torch.inf):
        save_file(state | scalar("weight_scale", value), folder / "q.safetensors")
        with pytest.raises(MergeError, match="weight holds NaN"):
            run(folder, "o = a + q, 0.5")


def test_what_core_ignores_in_a_description_is_kept(folder):
    state = put(folder, "q", "fp8_scaled", 1)
    odd = state | description({**FP8, "convrot": True, "convrot_groupsize": 64, "x": [1]})
    save_file(odd, folder / "q.safetensors")
    found, _ = run(folder, "o = q + b, 0.5")
    assert json.loads(bytes(found[STEM + "comfy_quant"].tolist()))["x"] == [1]
    exact = torch.lerp(kit.plain(state, KEY), tensors(2)[KEY].float(), 0.5)
    assert float(kit.off(found | description(FP8), KEY, exact).max()) <= 0.5 + EPSILON


def test_mixed_notations_are_read_as_core_reads_them(folder):
    """A scaled_fp8 mark for one weight and comfy_quant beside the others; where a weight has two, comfy_quant is the weaker."""
    state = put(folder, "modern", "fp8_scaled", 1)
    wanted, _ = run(folder, "o = modern + b, 0.5")
    mixed = dict(state) | {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    mixed[STEM + "scale_weight"] = mixed.pop(STEM + "weight_scale")
    mixed |= description({"format": "nvfp4"})
    save_file(mixed, folder / "q.safetensors")
    found, _ = run(folder, "o = q + b, 0.5")
    assert found.keys() == wanted.keys()
    assert all(kit.equal(kit.parts(found, key), kit.parts(wanted, key)) for key in QUANTISED)
    layers = {"layers": {KEY.removesuffix(".weight"): FP8}}
    both = state | description({"format": "nvfp4"})
    save_file(both, folder / "q.safetensors", metadata={"_quantization_metadata": json.dumps(layers)})
    found, _ = run(folder, "o = q + b, 0.5")
    assert all(kit.equal(kit.parts(found, key), kit.parts(wanted, key)) for key in QUANTISED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_new_scales_are_float32(folder, dtype):
    """A small merged weight has a scale that float16 cannot hold."""
    state = put(folder, "q", "fp8_scaled", 1)
    scale = state[STEM + "weight_scale"].to(dtype)
    save_file(state | {STEM + "weight_scale": scale}, folder / "q.safetensors")
    found, _ = run(folder, "o = q, alpha=[D00=1e-6]")
    assert found[STEM + "weight_scale"].dtype == torch.float32
    exact = kit.plain(state | {STEM + "weight_scale": scale.float()}, KEY) * 1e-6
    assert float(kit.off(found, KEY, exact).max()) <= 0.5 + EPSILON


@pytest.mark.parametrize("form", kit.FORMS)
def test_the_smallest_weights_stay_finite(folder, form):
    state = {key: value.float() * 1e-38 for key, value in tensors(1).items()}
    save_file(kit.quantised(tensors(1), form, QUANTISED), folder / "q.safetensors")
    save_file(state, folder / "small.safetensors")
    found, _ = run(folder, "o = q + small, 1")
    for key in QUANTISED:
        assert kit.plain(found, key).abs().max() < 1e-26


def test_a_quantised_vae_is_baked_in_plain_numbers(folder):
    """ComfyUI's VAEs do not read quantised weights."""
    key = next(name for name, value in vae(0).items() if value.ndim == 4)
    codes = vae(2)[key].to(torch.float8_e4m3fn)
    state = vae(2) | {key: codes, key.removesuffix("weight") + "weight_scale": torch.tensor(0.5)}
    state[key.removesuffix("weight") + "comfy_quant"] = described(FP8)
    save_file(state, folder / "qvae.safetensors")
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3)}
    save_file(unet, folder / "without.safetensors")
    save_file(
        unet | {FIRST_STAGE + name: value for name, value in vae(1).items()}, folder / "with.safetensors"
    )
    for a in ("with", "without"):
        found, _ = run(folder, f"o = {a}, 0.5, VAE=qvae")
        assert not any("scale" in name or "comfy_quant" in name for name in found)
        assert torch.equal(found[FIRST_STAGE + key], codes.float() * 0.5)


@pytest.mark.parametrize("dtype", ["fp8_scaled", "fp8_e4m3"])
def test_a_float8_output_without_a_diffusion_model_is_warned_of(folder, dtype):
    save_file(
        {f"text_model.encoder.layers.{n}.mlp.fc1.weight": torch.ones(32, 32) for n in (0, 1)},
        folder / "t.safetensors",
    )
    found, report = run(folder, f"o = t + t, 0.5, dtype={dtype}")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert f"WARNING: dtype={dtype} changes nothing" in report
    assert "WARNING" not in run(folder, f"o = a + b, 0.5, dtype={dtype}")[1]


@pytest.mark.parametrize("form", ["fp8_scaled", "int8_convrot", "nvfp4"])
def test_the_recipe_of_a_quantised_merge_is_found(folder, form):
    """Rounding to codes is told from a missing parent, and the shares are right within it."""
    put(folder, "qa", form, 1)
    merge_files("o = qa + b, alpha=[D01=0.3, S02=0.75]", folder / "mix", folders=[folder])
    files = [FileCheckpoint(folder / f"{name}.safetensors") for name in ("mix", "qa", "b", "a")]
    found = find.find_recipe(files[0], files[1:3])
    for block, share in {"D00": 0.0, "D01": 0.3, "S02": 0.75}.items():
        assert abs(found.blocks[block].shares[1] - share) < 0.05
    assert all(shares.fits for shares in found.blocks.values())
    other = tensors(3)
    save_file(other, folder / "c.safetensors")
    wrong = find.find_recipe(files[0], [FileCheckpoint(folder / "c.safetensors"), files[2]])
    assert not any(shares.fits for shares in wrong.blocks.values())
