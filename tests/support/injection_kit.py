"""Tiny models of ComfyUI's own classes, and the shortest way to sample them, for tests and benchmarks.

The weights are random, scaled by fan-in, the output head by 0.3: small enough that a few steps of guidance
stay far from overflow, large enough that a changed prompt changes the picture by a good tenth.
"""

from collections.abc import Callable
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import node_helpers
import torch
from blockwork.blocks.spec import parse
from blockwork.injection import host
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection
from blockwork.injection.host_change import Change
from comfy.patcher_extension import WrappersMP
from torch import Tensor

CPU = torch.device("cpu")
COND, UNCOND = 0, 1
SIDE = 16  # of the latents of ``run``
SD1 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "adm_in_channels": None,
}
SDXL = {
    **SD1,
    "model_channels": 64,  # SDXL's heads are 64 wide
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd1": (comfy.supported_models.SD15, SD1),
    "sdxl": (comfy.supported_models.SDXL, SDXL),
}


def tiny_model(kind: str = "sd1", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A ModelPatcher around a tiny U-Net of the kind, on the CPU."""
    return random_model(*KINDS[kind], dtype, seed)


def random_model(
    config_class: Any, unet: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0
) -> Any:
    """A ModelPatcher around a U-Net of this configuration, on the CPU."""
    config = config_class(dict(unet))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=CPU)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise / weight[0].numel() ** 0.5)
            else:
                weight.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
        model.diffusion_model.out[-1].weight.mul_(0.3)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def prompt(seed: int, tokens: int = 77, batch: int = 1, width: int = 768, **options: Any) -> list[list[Any]]:
    """A CONDITIONING of random embeddings, with a random pooled one."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, tokens, width, generator=generator)
    pooled = torch.randn(batch, 1280, generator=generator)
    return [[embedding, {"pooled_output": pooled, **options}]]


def latent(batch: int = 1, side: int = 8, seed: int = 7) -> Tensor:
    """Noise ``b 4 side side``."""
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """Keeps what every ``calc_cond_batch`` of a run returned, and counts the passes through the U-Net."""

    def __init__(self):
        self.predictions: list[list[Tensor]] = []
        self.inputs: list[Tensor] = []
        self.passes = 0

    def watch(self, model: Any) -> Any:
        """A clone of ``model`` that reports here, inside of all other wrappers."""
        model = model.clone()

        def batch(executor: Any, base: Any, conds: Any, x: Any, *rest: Any) -> Any:
            out = executor(base, conds, x, *rest)
            self.inputs.append(x.clone())
            self.predictions.append([one.clone() for one in out])
            return out

        def unet(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.passes += 1
            return executor(*args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "recorder", batch)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "recorder", unet)
        return model


def cfg_guider(model: Any, positive: Any, negative: Any, cfg: float = 5.0) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sample(
    guider: Any, noise: Tensor, steps: int = 3, sampler: str = "euler", callback: Any = None
) -> Tensor:
    """Sample from pure noise with a guider."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    return guider.sample(
        noise,
        noise * 0.0,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        callback=callback,
        disable_pbar=True,
        seed=1,
    )


def predictions(
    model: Any,
    positive: Any,
    negative: Any,
    *,
    cfg: float = 5.0,
    batch: int = 1,
    steps: int = 1,
    noise: Tensor | None = None,
    make_guider: Callable[[Any], Any] | None = None,
) -> Recorder:
    """Sample and return the record; ``make_guider`` builds another guider than the plain one."""
    record = Recorder()
    watched = record.watch(model)
    guider = make_guider(watched) if make_guider else cfg_guider(watched, positive, negative, cfg)
    sample(guider, latent(batch) if noise is None else noise, steps)
    return record


def run(model: Any, positive: Any, negative: Any, **options: Any) -> Recorder:
    """``predictions`` on a latent large enough for areas and masks."""
    return predictions(model, positive, negative, noise=latent(side=SIDE), **options)


def placed(conditioning: Any, **values: Any) -> Any:
    """``conditioning`` with values set as core's nodes set them: area, mask, control."""
    return node_helpers.conditioning_set_values(conditioning, values)


def carry(
    model: Any, conditioning: Any, tokens: Any, spec: str = "all", *, pooled: bool = False, **options: Any
) -> Any:
    """``conditioning`` with ``tokens`` injected into ``spec`` (options of ``entries.injection``)."""
    blocks = host.blocks_of(model)
    options.setdefault("pooled", "injected" if pooled else "base")
    made = injection(parse(spec, blocks), stretches(tokens, blocks), **options)
    return Change((made,)).on(conditioning)


def worst(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the larger one's largest number."""
    return ((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max())).item()
