"""Tiny transformers through core's own sampler: a live merge, and the same merge saved and loaded again."""

import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.supported_models
import pytest
import torch
from blockwork.merge.live import host
from blockwork.tests.support import networks, tiny
from safetensors.torch import load_file

# Model -> core's class of its kind, latent channels and shape, text width, what the prompt carries.
KINDS = {
    "Flux.1 dev": (comfy.supported_models.Flux, (16, 8, 8), 24, {"pooled_output": 20}),
    "Z-Image": (comfy.supported_models.ZImage, (16, 8, 8), 24, {}),
    "Qwen-Image": (comfy.supported_models.QwenImage, (16, 1, 8, 8), 24, {}),
    "Wan 2.1": (comfy.supported_models.WAN21_T2V, (16, 1, 8, 8), 24, {}),
    "Anima": (comfy.supported_models.Anima, (16, 1, 8, 8), 1024, {}),
    "SD3": (comfy.supported_models.SD3, (16, 8, 8), 24, {"pooled_output": 20}),
}
CHANGES = {"Qwen-Image": {"in_channels": 64, "out_channels": 16}, "Wan 2.1": {"in_dim": 16, "out_dim": 16}}


def build(name: str, seed: int) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of core's own kind around a tiny network with seeded weights."""
    config = KINDS[name][0](networks.NETWORKS[name][1] | tiny.CHANGES[name] | CHANGES.get(name, {}))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    tiny.fill(model.diffusion_model, seed)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def sample(model, name: str) -> torch.Tensor:
    _, shape, width, extra = KINDS[name]
    g = torch.Generator().manual_seed(5)
    more = {key: torch.randn(1, size, generator=g) for key, size in extra.items()}
    prompts = [[[torch.randn(1, 7, width, generator=g), dict(more)]] for _ in range(2)]
    noise = torch.randn(1, *shape, generator=g)
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "simple", *prompts, torch.zeros_like(noise), disable_pbar=True, seed=1
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_merge_samples_the_same_live_and_saved(name, tmp_path):
    a, b = build(name, 1), build(name, 2)
    merged, _ = host.merge_models(a, b, "GRAD_A, BASE=0.5")
    live = sample(merged, name)
    assert torch.isfinite(live).all() and not torch.equal(live, sample(a, name))
    comfy.sd.save_checkpoint(str(tmp_path / "merged.safetensors"), merged)
    again = build(name, 3)
    prefix = "model.diffusion_model."
    state = {
        key.removeprefix(prefix): t
        for key, t in load_file(tmp_path / "merged.safetensors").items()
        if key.startswith(prefix)
    }
    missing = again.model.diffusion_model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys
    assert torch.equal(sample(again, name), live)
