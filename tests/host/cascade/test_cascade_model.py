"""IF stages in ComfyUI: core's own loader, our loader, dtypes, other families, the text's cache, compiling."""

import itertools

import comfy.model_detection
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.utils
import pytest
import torch
from blockwork.cascade import host_load, host_model, keys
from blockwork.cascade.host_model import LowRes, PixelStage, PixelStageModel
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.unet import PixelUNet, from_state_dict
from blockwork.cascade.unet_config import activation_bytes
from blockwork.tests.support import cascade_files, foreign_models
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile

CPU = torch.device("cpu")
host_model.register()


@pytest.fixture(scope="module")
def weights():
    """Random weights of each stage under diffusers' keys."""
    return {
        stage: cascade_files.stage_state_dict(cascade_files.stage_config(stage))
        for stage in ("I", "II", "III")
    }


@pytest.fixture(scope="module")
def text():
    return torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1))


def save(state_dict, path):
    if path.suffix == ".bin":
        torch.save(state_dict, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in state_dict.items()}, path)
    return str(path)


def draw(model, text, size=16, cfg=5.0, low=None, spacing="2,1", seed=0):
    """A short run with our sampler; the picture."""
    options = {host_model.LOW_RES: LowRes(low, 0.25)} if low is not None else {}
    latent = torch.zeros(1, 3, size, size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    return comfy.samplers.sample(
        model, noise, [[text, options]], [[text * 0.5, options]], cfg, CPU, LearnedRangeSampler(),
        stage_sigmas(model, spacing), model.model_options, latent_image=latent, seed=seed, disable_pbar=True,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["I", "II", "III"])
def test_cores_loader_reads_an_original_file(weights, tmp_path, stage):
    path = save(keys.to_original(weights[stage]), tmp_path / "stage.safetensors")
    model = comfy.sd.load_diffusion_model(path)
    assert isinstance(model.model, PixelStageModel)
    loaded = model.model.diffusion_model.state_dict()
    assert loaded.keys() == weights[stage].keys()
    assert all(torch.equal(loaded[key], weights[stage][key]) for key in loaded)
    assert model.model.config == cascade_files.stage_config(stage)


@pytest.mark.parametrize(
    "form", ["original.safetensors", "original.bin", "diffusers.safetensors", "diffusers.bin"]
)
@pytest.mark.parametrize("stage", ["I", "II"])
def test_our_loader_reads_every_format_alike(weights, text, tmp_path, form, stage):
    low = torch.rand(1, 3, 8, 8) if stage == "II" else None
    state_dict = keys.to_original(weights[stage]) if form.startswith("original") else weights[stage]
    model = host_load.prepared_stage(save(state_dict, tmp_path / form))
    plain = host_load.prepared_stage(save(weights[stage], tmp_path / "plain.safetensors"))
    assert torch.equal(draw(model, text, low=low), draw(plain, text, low=low))


def test_a_file_inside_a_checkpoint_prefix(weights, text, tmp_path):
    inside = {f"model.diffusion_model.{key}": value for key, value in keys.to_original(weights["I"]).items()}
    model = host_load.prepared_stage(save(inside, tmp_path / "prefixed.safetensors"))
    assert draw(model, text).isfinite().all()


def test_saving_gives_a_file_core_reads_back(weights, tmp_path):
    model = comfy.sd.load_diffusion_model(save(keys.to_original(weights["I"]), tmp_path / "in.safetensors"))
    comfy.sd.save_checkpoint(str(tmp_path / "out.safetensors"), model)
    again = comfy.sd.load_diffusion_model(
        str(tmp_path / "out.safetensors")
    ).model.diffusion_model.state_dict()
    assert all(torch.equal(again[key], weights["I"][key]) for key in again)


@pytest.mark.parametrize("damage", ["lost", "strange"])
def test_a_broken_file_is_an_error_that_names_the_key(weights, tmp_path, damage):
    broken = dict(weights["I"])
    if damage == "lost":
        del broken["conv_out.bias"]
    else:
        broken["extra.weight"] = torch.zeros(1)
    named = "conv_out.bias" if damage == "lost" else "extra.weight"
    with pytest.raises(keys.KeysError, match=named):
        host_load.load_stage(save(broken, tmp_path / "broken.safetensors"))
    if damage == "lost":
        with pytest.raises(keys.KeysError, match=named):
            comfy.sd.load_diffusion_model(save(keys.to_original(broken), tmp_path / "original.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_low_precision_weights(weights, text, dtype):
    exact = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]), {"dtype": dtype})
    assert model.model.get_dtype() == dtype
    model.model.manual_cast_dtype = torch.float32
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([1.0])
    outs = [
        one.model.apply_model(x, t, text=host_model.PromptBatch([(host_model.Prompt(text), 1)]))
        for one in (exact, model)
    ]
    assert outs[1].isfinite().all()
    assert not torch.equal(*outs)
    coarse = dtype.itemsize == 1
    assert (outs[0] - outs[1]).norm() / outs[0].norm() < (0.5 if coarse else 0.05)


def test_weights_left_outside_the_gpu(weights, text):
    """Core's low-VRAM mode: every layer fetches its weights when it runs."""
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["II"]))
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([1.0])
    conds = dict(text=host_model.PromptBatch([(host_model.Prompt(text), 1)]), aug_steps=torch.tensor([250]))
    conds["low_res"] = torch.randn(1, 3, 16, 16)
    expected = model.model.apply_model(x, t, **conds)
    model.load(CPU, lowvram_model_memory=1)
    assert model.model.model_lowvram
    conds["text"] = host_model.PromptBatch([(host_model.Prompt(text), 1)])
    assert torch.equal(model.model.apply_model(x, t, **conds), expected)


def test_half_precision_arithmetic(weights, text):
    model = comfy.sd.load_diffusion_model_state_dict(
        keys.to_original(weights["I"]), {"dtype": torch.bfloat16}
    )
    model.model.manual_cast_dtype = None
    assert model.model.get_dtype_inference() == torch.bfloat16
    out = draw(host_load.with_threshold(model, host_load.STAGE_ONE_THRESHOLD), text)
    assert out.isfinite().all()
    assert out.dtype == torch.float32


FAMILIES = [cls for cls in comfy.supported_models.models if cls is not PixelStage]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda cls: cls.__name__)
def test_other_families_match_as_before(family, monkeypatch):
    """Even with our own marks of a configuration, every family's key and settings lead where they led."""
    config = {
        "context_dim": None,
        "transformer_depth_middle": -1,
        "in_channels": 3,
        "hidden_size": 3072,
        **family.unet_config,
    }
    state_dict = {key.format(""): torch.zeros(1) for key in family.required_keys}

    def detected():
        found = comfy.model_detection.model_config_from_unet_config(dict(config), state_dict)
        return type(found)

    after = detected()
    monkeypatch.setattr(comfy.supported_models, "models", FAMILIES)
    assert after is detected()
    assert after is not PixelStage


@pytest.mark.parametrize("family", foreign_models.NETWORKS)
def test_other_models_are_detected_as_before(family, monkeypatch):
    """Thirty state dicts of core's own networks, alone and inside a checkpoint."""
    state_dict = foreign_models.state_dict(family)
    prefixed = {f"model.diffusion_model.{key}": value for key, value in state_dict.items()}

    def detected():
        alone = comfy.model_detection.model_config_from_unet(state_dict, "")
        inside = comfy.model_detection.model_config_from_unet(prefixed, "model.diffusion_model.")
        return [(type(found).__name__, found.unet_config) for found in (alone, inside)]

    after = detected()
    monkeypatch.setattr(comfy.supported_models, "models", FAMILIES)
    assert PixelStage not in comfy.supported_models.models
    assert after == detected() and [name for name, _ in after] == [family, family]


def test_the_text_is_computed_once_per_run(weights, text, monkeypatch):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    calls = []
    encode = PixelUNet.encode_text
    monkeypatch.setattr(PixelUNet, "encode_text", lambda self, *args: calls.append(1) or encode(self, *args))
    first = draw(model, text, spacing="5,5")
    assert len(calls) == 1  # ten steps, both branches in one batch
    again = draw(model, text, spacing="5,5")
    assert len(calls) == 2  # a new run starts anew
    assert torch.equal(first, again)


def test_changing_weights_are_not_remembered(weights, text, monkeypatch):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    calls = []
    encode = PixelUNet.encode_text
    monkeypatch.setattr(PixelUNet, "encode_text", lambda self, *args: calls.append(1) or encode(self, *args))
    monkeypatch.setattr(type(model), "apply_hooks", lambda self, *_, **__: {})
    monkeypatch.setattr(
        type(model), "current_hooks", property(lambda self: "scheduled", lambda *_: None), raising=False
    )
    draw(model, text, spacing="2,1")
    assert len(calls) == 3


def test_prompts_of_different_length_run_apart(weights, text):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    latent = torch.zeros(1, 3, 16, 16)
    sigmas = stage_sigmas(model, "2,1")
    out = comfy.samplers.sample(
        model, torch.randn(latent.shape), [[text, {}]], [[text[:, :9], {}]], 5.0, CPU, LearnedRangeSampler(),
        sigmas, model.model_options, latent_image=latent, seed=0, disable_pbar=True,
    )  # fmt: skip
    assert out.isfinite().all()


def test_foreign_conditioning_is_refused(weights, text):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    with pytest.raises(ValueError, match="768 wide"):
        draw(model, torch.randn(1, 77, 768))


def test_a_super_resolution_stage_asks_for_its_picture(weights, text):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["II"]))
    with pytest.raises(ValueError, match="IF Low-Res"):
        draw(model, text)


def test_the_linear_schedule_is_the_models_own(weights, tmp_path):
    path = save(weights["III"], tmp_path / "stage3.safetensors")
    cosine, linear = (host_load.prepared_stage(path, schedule=name) for name in ("cosine", "linear"))
    top = [float(stage_sigmas(model, "1000")[0]) for model in (cosine, linear)]
    assert top[0] == pytest.approx(20291.3, rel=1e-4)
    assert top[1] == pytest.approx(157.4, rel=1e-2)


def test_timesteps_survive_the_trip_through_sigmas(weights):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    back = model.model.model_sampling.timestep(stage_sigmas(model, "1000")[:-1])
    assert back.tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("stage", ["I", "II"])
def test_the_unet_compiles_into_one_graph(weights, text, stage):
    """What core's TorchCompileModel does, with a back-end that needs no compiler."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    low = torch.rand(1, 3, 8, 8) if stage == "II" else None
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights[stage]))
    expected = draw(model, text, low=low)
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
    torch.testing.assert_close(draw(compiled, text, low=low), expected, rtol=0, atol=1e-4)


def test_comfy_operations_compute_what_torchs_do(weights, text):
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights["I"]))
    plain = from_state_dict(weights["I"])
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5.0, 900.0])
    context = text.expand(2, -1, -1)
    assert torch.equal(model.model.diffusion_model(x, t, context), plain(x, t, context))


@pytest.mark.parametrize("stage", ["I", "II", "III"])
@pytest.mark.parametrize("size", [64, 128])
def test_memory_asked_for_is_what_is_used_and_a_little_more(weights, stage, size):
    unet = from_state_dict(weights[stage])
    x = torch.randn(1, unet.config.in_channels, size, size)
    text = unet.encode_text(torch.randn(1, 77, 64))
    aug = torch.tensor([5]) if unet.config.super_resolution else None
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        unet(x, torch.tensor([5]), aug_steps=aug, text=text)
    events = profiled.profiler.kineto_results.events()
    used = max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    asked = activation_bytes(unet.config, 1, size, size, 4)
    assert used < asked < 1.6 * used
