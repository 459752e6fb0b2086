"""The x4 upscaler as the last stage: core's model class and conditioning, after our pixel stages.

The U-Net is core's SD_X4Upscaler with fewer blocks; a T5 of the right width stands in for its OpenCLIP text encoder
and a TAESD for its VAE, both through core's own CLIP and VAE classes.
"""

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import folder_paths
import pytest
import torch
from blockwork.cascade import host_t5
from blockwork.cascade.host_cascade import Job, LatentUpscaler, Stage, run_cascade
from blockwork.tests.support import cascade_files
from safetensors.torch import save_file


def upscaler_unet():
    """A small U-Net that core detects as the x4 upscaler."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = openaimodel.UNetModel(
            image_size=32, in_channels=7, out_channels=4, model_channels=256, num_res_blocks=[1] * 4,
            channel_mult=(1, 1, 1, 1), transformer_depth=[1] * 4, transformer_depth_middle=1,
            transformer_depth_output=[1] * 8, context_dim=1024, num_heads=8, num_classes=1000,
            disable_self_attentions=[True, True, True, False], use_spatial_transformer=True,
            use_linear_in_transformer=True, legacy=False, dtype=torch.float32,
        )  # fmt: skip
        return {key: torch.randn_like(value) * 0.02 for key, value in unet.state_dict().items()}


@pytest.fixture
def models(tmp_path, monkeypatch):
    cascade_files.make_files(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    header = {f"{part}x": torch.zeros(1) for part in ("cond_stage_model.", "first_stage_model.")}
    header["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(256, 7, 3, 3)
    save_file(header, tmp_path / "checkpoints" / "x4.safetensors")
    for folder in ("text_encoders", "diffusion_models", "checkpoints"):
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], {".safetensors"})
        )
    folder_paths.filename_list_cache.clear()
    wide = cascade_files.t5_state_dict(dim=1024, layers=1)
    save_file({key: tensor.half() for key, tensor in wide.items()}, tmp_path / "wide.safetensors")

    def checkpoint(path, **_):
        assert path.endswith("x4.safetensors")
        assert comfy.model_management.current_loaded_models == []
        model = comfy.sd.load_diffusion_model_state_dict(upscaler_unet())
        assert isinstance(model.model, comfy.model_base.SD_X4Upscaler)
        decoder = comfy.taesd.taesd.TAESD(latent_channels=4).state_dict()
        vae = comfy.sd.VAE(sd={key: torch.randn_like(value) * 0.05 for key, value in decoder.items()})
        return model, host_t5.load_t5(str(tmp_path / "wide.safetensors")), vae, None

    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", checkpoint)
    yield tmp_path
    folder_paths.filename_list_cache.clear()


def test_the_upscaler_follows_the_pixel_stages(models, monkeypatch):
    seen = []
    apply = comfy.model_base.SD_X4Upscaler.extra_conds
    monkeypatch.setattr(
        comfy.model_base.SD_X4Upscaler,
        "extra_conds",
        lambda self, **kwargs: seen.append(kwargs) or apply(self, **kwargs),
    )
    job = Job(t5=cascade_files.T5_FILE, prompt="a cat", width=16, height=16)
    stages = [Stage(cascade_files.STAGE_FILES["I"], spacing="1")]
    upscaler = LatentUpscaler("x4.safetensors", steps=2, cfg=4.0, noise=100 / 350, prompt="a sharp cat")
    result = run_cascade(job, stages, upscaler)
    below, above = result.images
    assert [entry.label for entry in result.ledger.entries] == ["T5", "stage I", "x4 upscaler"]
    assert above.shape[1] == 3
    assert above.shape[-1] > below.shape[-1]
    assert above.isfinite().all()
    assert above.abs().max() <= 1
    assert len(seen) == 2  # both prompts look at the picture from below
    assert all(torch.equal(kwargs["concat_image"].cpu(), below) for kwargs in seen)
    assert all(kwargs["noise_augmentation"] == pytest.approx(100 / 350) for kwargs in seen)
    assert comfy.model_management.current_loaded_models == []


def test_a_missing_upscaler_is_reported_before_anything_is_loaded(models):
    job = Job(t5=cascade_files.T5_FILE, prompt="a cat")
    with pytest.raises(FileNotFoundError, match="stable-diffusion-x4-upscaler"):
        run_cascade(job, [Stage(cascade_files.STAGE_FILES["I"])], LatentUpscaler("nowhere.safetensors"))


def test_half_a_checkpoint_is_refused(models, monkeypatch):
    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", lambda path, **_: (None, None, None, None))
    job = Job(t5=cascade_files.T5_FILE, prompt="a cat", width=16, height=16)
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        run_cascade(
            job, [Stage(cascade_files.STAGE_FILES["I"], spacing="1")], LatentUpscaler("x4.safetensors")
        )
