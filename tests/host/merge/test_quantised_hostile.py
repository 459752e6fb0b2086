"""Quantised files and models as they should not be, and every other node of the pack that reads them."""

import json
from collections.abc import Mapping

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import folder_paths
import pytest
import torch
from blockwork.merge import find
from blockwork.merge.compare import host as host_compare
from blockwork.merge.errors import MergeError
from blockwork.merge.files import host as host_files
from blockwork.merge.files import merge_files, replay
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.files.vae import FIRST_STAGE
from blockwork.merge.live import host
from blockwork.merge.lora import host as host_lora
from blockwork.merge.lora import host_extract
from blockwork.study import host as host_study
from blockwork.study.sweep import parse_sweep
from blockwork.tests.host.merge.test_quantised_files import EPSILON, QUANTISED, put, run, tensors
from blockwork.tests.support import networks, tiny
from blockwork.tests.support import quantised_kit as kit
from blockwork.tests.unit.test_vae_baking import vae
from safetensors.torch import load_file, save_file

KEY = QUANTISED[0]
STEM = KEY.removesuffix("weight")
FP8 = {"format": "float8_e4m3fn"}
KLEIN = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 64, "depth": 2, "depth_single_blocks": 3}
WAN = {"dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 3, "text_dim": 4096}
CPU = torch.device("cpu")


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
    "a scalar weight": (
        {"gate.weight": torch.ones(()).to(torch.float8_e4m3fn), "gate.weight_scale": torch.ones(())}
        | {"gate.comfy_quant": described(FP8)},
        r"its weight has the shape \[\]",
    ),
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


@pytest.fixture(scope="module")
def plain() -> list[dict[str, torch.Tensor]]:
    """Two tiny Flux.2 transformers."""
    return [
        dict(tiny.fill(networks.build("Flux.2 klein 4B", "cpu", **KLEIN), seed).state_dict())
        for seed in (1, 2)
    ]


def matrices(state: dict[str, torch.Tensor]) -> list[str]:
    return [
        key for key, value in state.items() if value.ndim == 2 and "blocks." in key and key.endswith("weight")
    ]


@pytest.fixture
def models(plain, tmp_path, monkeypatch):
    """The folder of model files and LoRAs, with a plain file ``p`` and quantised files ``qa`` (fp8), ``qb`` (nvfp4)."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    save_file(plain[0], tmp_path / "p.safetensors")
    for name, form, state in (("qa", "fp8_scaled", plain[0]), ("qb", "nvfp4", plain[1])):
        save_file(kit.quantised(state, form, matrices(state)), tmp_path / f"{name}.safetensors")
    return tmp_path


def load(folder, name: str):
    return comfy.sd.load_diffusion_model_state_dict(load_file(folder / f"{name}.safetensors"))


def lora(folder, key: str, rows: int = 384, columns: int = 128) -> torch.Tensor:
    name = f"diffusion_model.{key.removesuffix('.weight')}"
    up, down = torch.randn(rows, 2) * 0.1, torch.randn(2, columns) * 0.1
    save_file({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, folder / "add.safetensors")
    return up @ down


@pytest.mark.parametrize("name", ["qa", "qb"])
def test_a_lora_in_a_recipe_is_added_to_the_weights(models, name):
    state = load_file(models / f"{name}.safetensors")
    key = "double_blocks.1.img_attn.qkv.weight"
    change = lora(models, key)
    merged = host_files.to_file(f"o = {name} + lora(add, 0.5)", "mix")
    found = load_file(merged.path)
    for other in (other for other in state if f"{other.removesuffix('weight')}comfy_quant" in state):
        if other == key:
            exact = kit.plain(state, key).float() + 0.5 * change
            assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON
        else:
            assert kit.equal(kit.parts(found, other), kit.parts(state, other))


def test_a_lora_of_another_shape_is_refused_for_quantised_models(models):
    for name in ("qa", "qb"):
        state = load_file(models / f"{name}.safetensors")
        key = next(key for key in state if key.endswith("double_blocks.1.img_attn.qkv.weight"))
        model = load(models, name)
        lora(models, key)
        assert "1 patches for" in host_lora.load_by_block(model, None, "add.safetensors", 1, 1, "1").report
        lora(models, key, columns=64)
        with pytest.raises(MergeError, match="no tensors of the shapes of this model"):
            host_lora.load_by_block(model, None, "add.safetensors", 1, 1, "1")


def test_a_recipe_with_fp8_scaled_runs_live_and_again(models):
    recipe = "o = p + qb, alpha=[D01=0.5], dtype=fp8_scaled"
    merged = host_files.to_file(recipe, "mix")
    written = load_file(merged.path)
    model, *_ = host_files.live(recipe)
    for key in matrices(load_file(models / "p.safetensors")):
        weight = model.model.get_parameter(f"diffusion_model.{key}")
        assert torch.equal(weight._qdata.view(torch.uint8), written[key].view(torch.uint8))
    assert replay(merged.path, models / "again", resolve=host_files.find)[1]


def test_other_factors_of_inputs_are_refused_where_weights_are_compared(models, plain):
    key = matrices(plain[1])[0]
    state = load_file(models / "qb.safetensors")
    for name, factor in (("one", 1.0), ("two", 2.0)):
        factors = {
            key.removesuffix("weight") + "pre_quant_scale": torch.full((plain[1][key].shape[1],), factor)
        }
        save_file(state | factors, models / f"{name}.safetensors")
    one, two = load(models, "one"), load(models, "two")
    with pytest.raises(MergeError, match="scale the inputs of 1 layers differently"):
        host_compare.compare_live(one, two, "mbw")
    with pytest.raises(MergeError, match="scale the inputs of 1 layers differently"):
        host_extract.extract(one, two, "loras/x", 4, 1.0, "fp32")


TINY_CLIP = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def clip(state: dict[str, torch.Tensor] | None, seed: int):
    """A tiny text encoder of core's own class, with quantised layers."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    options: dict = {"clip_l_model_config": TINY_CLIP}
    if state is not None:
        options["quantization_metadata"] = {"mixed_ops": True}
        return comfy.sd.CLIP(target, model_options=options, state_dict=[dict(state)])
    found = comfy.sd.CLIP(target, model_options=options)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.cond_stage_model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=g))
    return found


def test_quantised_text_encoders_merge():
    a, b = (clip(None, seed) for seed in (1, 2))
    states = [dict(it.cond_stage_model.clip_l.transformer.state_dict()) for it in (a, b)]
    keys = [
        key for key in states[0] if "layers." in key and key.endswith("weight") and states[0][key].ndim == 2
    ]
    q = [kit.quantised(state, "fp8_scaled", keys) for state in states]
    for one, two, x, y in (
        (clip(q[0], 0), b, q[0], None),
        (a, clip(q[1], 0), None, q[1]),
        (clip(q[0], 0), clip(q[1], 0), *q),
    ):
        merged, plan = host.merge_clips(one, two, 0.25)
        assert f"{'A' if x else 'B'} is quantised ({len(keys)} tensors" in plan.report()
        assert not any("scale" in key and "logit" not in key for key in plan.merged)
        for key in keys:
            exact = 0.75 * (kit.plain(x, key) if x else states[0][key]) + 0.25 * (
                kit.plain(y, key) if y else states[1][key]
            )
            name = f"clip_l.transformer.{key}"
            found = merged.patcher.patch_weight_to_device(name, device_to=CPU, return_weight=True)
            found = found.dequantize() if hasattr(found, "dequantize") and x else found
            bound = exact.abs().max() * (2**-3 if x else 2**-8)
            assert (found.float() - exact).abs().max() <= bound


@pytest.mark.parametrize("kind", ["Flux.2 klein 4B", "Wan 2.1"])
def test_a_sweep_finds_and_bypasses_the_blocks_of_a_quantised_model(kind):
    """Scales and descriptions are not layers: the same blocks and last layers as without them."""
    small = KLEIN if kind.startswith("Flux") else WAN
    state = dict(tiny.fill(networks.build(kind, "cpu", **small), 1).state_dict())
    keys = matrices(state)
    plain, q = (
        comfy.sd.load_diffusion_model_state_dict(dict(it))
        for it in (state, kit.quantised(state, "nvfp4", keys))
    )
    layout = host_study.layout_of_model(q)
    assert layout == host_study.layout_of_model(plain)
    block = layout.blocks[-1]
    host_study.check_bypass(q, parse_sweep(layout, block, "off", "1"))
    merged = [host.scale_blocks(model, f"{block}=off")[1].merged for model in (plain, q)]
    assert merged[0].keys() == merged[1].keys() and merged[0]


def test_nan_in_a_loaded_quantised_model_is_an_error_or_kept(plain):
    key = matrices(plain[1])[0]
    for form in ("fp8_scaled", "int8", "nvfp4"):
        state = kit.quantised(plain[1], form, matrices(plain[1]))
        word = "weight_scale_2" if form == "nvfp4" else "weight_scale"
        state[key.removesuffix("weight") + word] = torch.tensor(torch.nan)
        a, b = (comfy.sd.load_diffusion_model_state_dict(dict(it)) for it in (plain[0], state))
        with pytest.raises(MergeError, match="of model B holds NaN"):
            host.merge_models(a, b, "0.5")
        merged, plan = host.merge_models(a, b, "0.5", non_finite="keep A")
        assert f"NaN or infinity in B, A's values kept: {plain[1][key].numel()}" in plan.report()
        found = merged.patch_weight_to_device(f"diffusion_model.{key}", device_to=CPU, return_weight=True)
        assert torch.equal(found, a.model.get_parameter(f"diffusion_model.{key}"))
