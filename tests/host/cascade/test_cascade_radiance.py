"""Dynamic Thresholding on a tiny Chroma Radiance: core's pixel-space transformer, a flow model."""

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from blockwork.cascade.host_threshold import Threshold, with_threshold, works_in_pixels
from blockwork.cascade.threshold import dynamic_threshold
from blockwork.nodes.cascade_threshold import ThresholdNode

CPU = torch.device("cpu")
CONFIG = {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "hidden_size": 64, "num_heads": 4,
    "mlp_ratio": 2.0, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [], "vec_in_dim": None,
    "context_in_dim": 32, "in_dim": 64, "out_dim": 64, "hidden_dim": 64,
    "n_layers": 1, "patch_size": 4, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1,
    "nerf_max_freqs": 4, "nerf_tile_size": 0, "nerf_final_head_type": "conv", "nerf_embedder_dtype": None,
    "use_x0": False, "use_sequential_txt_ids": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def radiance():
    """Random weights of core's own class; the head is large, so that guidance leaves the range."""
    config = comfy.supported_models.ChromaRadiance(dict(CONFIG))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def sampled(model):
    """Three steps at CFG 12, and the predictions after all patches."""
    seen = []
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["denoised"]) or args["denoised"])
    generator = torch.Generator().manual_seed(1)
    positive, negative = ([[torch.randn(1, 6, 32, generator=generator), {}]] for _ in range(2))
    latent = torch.zeros(2, 3, 16, 16)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)
    out = comfy.samplers.sample(
        model, comfy.sample.prepare_noise(latent, 0), positive, negative, 12.0, CPU,
        comfy.samplers.sampler_object("euler"), sigmas, model.model_options, latent_image=latent, seed=0,
        disable_pbar=True,
    )  # fmt: skip
    return out, seen


def test_it_is_a_pixel_model(radiance):
    assert works_in_pixels(radiance.model.latent_format)


def test_the_node_keeps_radiance_in_range(radiance):
    plain, raw = sampled(radiance)
    assert all(x0.abs().max() > 1.5 for x0 in raw)
    patched = ThresholdNode.execute(radiance, "dynamic").args[0]
    out, kept = sampled(patched)
    assert torch.equal(kept[0], dynamic_threshold(raw[0], 0.995))  # Imagen's, on pixels
    assert all(x0.abs().max() <= 1 for x0 in kept)
    assert out.abs().max() <= 1 < plain.abs().max()


def test_each_image_of_a_batch_has_its_own_threshold(radiance):
    model = with_threshold(radiance, Threshold(percentile=0.9))
    _, kept = sampled(model)
    _, raw = sampled(radiance)
    for index in range(2):
        one = slice(index, index + 1)
        assert torch.equal(kept[0][one], dynamic_threshold(raw[0][one], 0.9))
