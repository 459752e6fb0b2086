"""What cannot work is refused before anything is loaded, by the name of the file or setting."""

import re
from pathlib import Path

import folder_paths
import pytest
import torch
from blockwork.cascade import host_cascade, host_files, host_load, host_t5, keys
from blockwork.cascade.host_cascade import Job, LatentUpscaler, Stage, run_cascade
from blockwork.cascade.host_threshold import Threshold
from blockwork.tests.support import cascade_files
from safetensors.torch import load_file, save_file

ONE, TWO, THREE = (cascade_files.STAGE_FILES[stage] for stage in ("I", "II", "III"))
T5 = cascade_files.T5_FILE
FOLDERS = ("text_encoders", "diffusion_models", "checkpoints")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    cascade_files.make_files(folder)
    return folder


@pytest.fixture
def models(originals, tmp_path, monkeypatch):
    """The small cascade in ComfyUI's folders, and a second folder for damaged files; loading is an error."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths,
            folder,
            ([str(originals / folder), str(tmp_path / folder)], {".safetensors", ".bin"}),
        )
    folder_paths.filename_list_cache.clear()

    def loaded(*_, **__):
        raise AssertionError("something was loaded")

    for module in (host_cascade, host_load):
        monkeypatch.setattr(module, "prepared_stage", loaded)
    monkeypatch.setattr(host_cascade, "load_t5", loaded)
    yield tmp_path
    folder_paths.filename_list_cache.clear()


def refused(words, t5=T5, stages=(ONE, TWO), upscaler=None, **settings):
    made = [Stage(file, **(settings if number == 0 else {})) for number, file in enumerate(stages)]
    with pytest.raises((ValueError, OSError)) as caught:
        run_cascade(Job(t5=t5, prompt="a cat"), made, upscaler and LatentUpscaler(upscaler))
    message = str(caught.value)
    for word in words:
        assert re.search(word, message), message
    assert message[0].isupper() or message.startswith((t5, *stages, str(upscaler), "'")), message
    assert message.endswith("."), message


@pytest.mark.parametrize(
    "stages, words",
    [
        ((TWO, TWO), (TWO, "super-resolution stage", "stage_1 needs a stage I")),
        ((ONE, ONE), (ONE, "is a stage I", "stage_2 needs a super-resolution stage")),
        ((ONE, TWO, ONE), ("stage_3 needs",)),
    ],
)
def test_a_stage_in_the_wrong_slot(models, stages, words):
    refused(words, stages=stages)


def test_a_t5_of_another_width(models):
    wide = cascade_files.t5_state_dict(dim=128)
    save_file(wide, models / "text_encoders" / "wide.safetensors")
    refused(("text states 64 wide", "T5 file gives 128"), t5="wide.safetensors")


@pytest.mark.parametrize("spacing", ["fast", "10,a", "2000", "-1,5", "0", ""])
def test_a_spacing_that_is_not_valid(models, spacing):
    refused(("Stage I",), spacing=spacing)


def test_a_sampler_that_needs_the_variance(models):
    state = load_file(folder_paths.get_full_path("diffusion_models", ONE))
    state["out.2.weight"], state["out.2.bias"] = (
        state["out.2.weight"][:3].clone(),
        state["out.2.bias"][:3].clone(),
    )
    save_file(state, models / "diffusion_models" / "three.safetensors")
    refused(("three.safetensors", "does not predict its variance"), stages=("three.safetensors",))
    refused(("sampler 'best'", "not available"), sampler="best")


def damaged(models, kind, folder, good):
    """A file of that folder spoiled in one way; its name."""
    content = Path(folder_paths.get_full_path(folder, good)).read_bytes()
    name = "broken.safetensors"
    content = {
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9524621288\n",
        "half": content[: len(content) // 2],
        "cut in the header": content[:60],
        "page": b"<!DOCTYPE html><html>not found</html>",
        "empty": b"",
    }[kind]
    (models / folder / name).write_bytes(content)
    return name


DAMAGE = {
    "pointer": "Git LFS pointer",
    "half": "truncated",
    "cut in the header": "truncated",
    "page": "truncated inside its header, or is not",
    "empty": "not a safetensors file",
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("folder, good", [("text_encoders", T5), ("diffusion_models", TWO)])
def test_a_damaged_file_is_named(models, kind, folder, good):
    name = damaged(models, kind, folder, good)
    words = ("broken", DAMAGE[kind])
    if folder == "text_encoders":
        refused(words, t5=name)
        with pytest.raises(ValueError, match=r"broken\.safetensors .*" + DAMAGE[kind]):
            host_t5.load_t5(folder_paths.get_full_path(folder, name))
    else:
        refused(words, stages=(ONE, name))
        with pytest.raises(ValueError, match=r"broken\.safetensors .*" + DAMAGE[kind]):
            host_load.load_stage(folder_paths.get_full_path(folder, name))


def test_a_damaged_pickle_is_named(models):
    (models / "diffusion_models" / "broken.bin").write_bytes(b"PK\x03\x04 and then nothing")
    refused((r"broken\.bin cannot be read",), stages=(ONE, "broken.bin"))


def test_files_of_another_kind_are_named(models):
    save_file({"lora.weight": torch.zeros(1)}, models / "diffusion_models" / "lora.safetensors")
    refused((r"lora\.safetensors", "not an IF stage"), stages=("lora.safetensors",))
    state = load_file(folder_paths.get_full_path("diffusion_models", TWO))
    del state["out.2.bias"]
    save_file(state, models / "diffusion_models" / "lost.safetensors")
    refused((r"lost\.safetensors", "conv_out.bias"), stages=(ONE, "lost.safetensors"))
    refused((r"lora\.safetensors",), t5="lora.safetensors")


def test_a_pickle_is_checked_without_its_tensors(models):
    state = load_file(folder_paths.get_full_path("diffusion_models", TWO))
    path = models / "diffusion_models" / "two.bin"
    torch.save({"state_dict": state}, path)
    wanted = host_load.stage_config(folder_paths.get_full_path("diffusion_models", TWO))
    assert host_load.stage_config(str(path)) == wanted


@pytest.mark.parametrize(
    "channels, left_out, words",
    [
        (4, (), ("not an x4 upscaler", "reads 4 channels")),
        (7, ("first_stage_model.x",), ("not a complete checkpoint", "the VAE")),
        (7, ("cond_stage_model.x", "first_stage_model.x"), ("text encoder and the VAE",)),
    ],
)
def test_an_upscaler_that_is_none(models, channels, left_out, words):
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, channels, 3, 3),
        "cond_stage_model.x": torch.zeros(1),
        "first_stage_model.x": torch.zeros(1),
    }
    kept = {key: tensor for key, tensor in tensors.items() if key not in left_out}
    save_file(kept, models / "checkpoints" / "up.safetensors")
    refused(("up.safetensors", *words), upscaler="up.safetensors")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"cap": 0.5}, "cap is 0.5"),
        ({"percentile": 1.5}, "percentile is 1.5"),
        ({"start": 0.8, "end": 0.2}, "starts at 0.8"),
    ],
)
def test_a_threshold_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Threshold(**settings)


@pytest.mark.parametrize("settings", [{"aug_level": 1.5}, {"blur": -1.0}, {"scale": 0.0}])
def test_settings_of_the_low_resolution_image(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Stage(TWO, **settings)
    if name != "scale":
        with pytest.raises(ValueError, match=name):
            host_cascade.low_res_of(
                torch.zeros(1, 8, 8, 3), settings.get("aug_level", 0.0), False, settings.get("blur", 0.0)
            )


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("original", [True, False])
def test_scaled_fp8_stages_are_multiplied_out(tmp_path, prefix, original):
    """Convolutions stay, the projections of attention are scaled: in both formats, alone and in a checkpoint."""
    plain = cascade_files.stage_state_dict(cascade_files.stage_config("I"))
    plain = keys.to_original(plain) if original else plain
    scaled = {f"{prefix}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    marks = ("qkv.weight", "encoder_kv.weight", "to_q.weight", "add_k_proj.weight")
    for key, tensor in plain.items():
        if key.endswith(marks):
            scaled[f"{prefix}{key.removesuffix('weight')}scale_weight"] = tensor.abs().max() / 64
            scaled[prefix + key] = (tensor / (tensor.abs().max() / 64)).to(torch.float8_e4m3fn)
        else:
            scaled[prefix + key] = tensor
    save_file({key: tensor.contiguous() for key, tensor in scaled.items()}, tmp_path / "scaled.safetensors")
    assert host_load.stage_config(str(tmp_path / "scaled.safetensors")) == cascade_files.stage_config("I")
    model = host_load.load_stage(str(tmp_path / "scaled.safetensors"))
    wanted = keys.to_diffusers(plain)
    for key, tensor in model.model.diffusion_model.state_dict().items():
        torch.testing.assert_close(
            tensor.float(), wanted[key], rtol=2**-4, atol=wanted[key].abs().max().item() * 2**-9
        )


def test_the_list_of_missing_files_names_the_folder(models):
    for folder in FOLDERS[:2]:
        message = host_files.missing(folder, "nowhere.safetensors")
        assert message[0] == "'" and f"models/{folder}" in message and message.endswith(".")
