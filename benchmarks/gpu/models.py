"""Random models of full size, as files that core loads; tiny ones of the same families without a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import measuring
import torch
from blockwork.blocks.keymap import block_of
from blockwork.demo_models import host as demo
from blockwork.merge.lora.host_place import layout_of_model
from blockwork.tests.support import networks, quantised_kit, tiny
from refhost import checkpoints
from safetensors.torch import save_file

UNET = "diffusion_model."
UNETS = {
    "sd15": checkpoints.Kind("SD15", (1, 2, 4, 4), text=False),
    "sdxl": checkpoints.Kind("SDXL", (1, 2, 4), text=False),
}


@dataclass(frozen=True)
class Transformer:
    """A class of ``comfy.supported_models``, the arguments of its network and the changes that make it tiny."""

    kind: str
    full: dict[str, Any]
    tiny: dict[str, Any]


_Z_IMAGE = networks.ZIMAGE | {
    "image_model": "lumina2",
    "n_layers": 10,
    "rope_theta": 256.0,
    "time_scale": 1000.0,
}
_ANIMA = networks.COSMOS | {
    "image_model": "anima", "pos_emb_learnable": True, "crossattn_emb_channels": 1024, "mlp_ratio": 4.0,
    "min_fps": 1, "max_fps": 30, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False,
    "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0, "extra_t_extrapolation_ratio": 1.0,
}  # fmt: skip
# Z-Image with 10 of its 30 layers: 2.5 billion weights, 5 GB in bfloat16. Anima whole: 2 billion.
TRANSFORMERS = {
    "z_image": Transformer("ZImage", _Z_IMAGE, tiny.CHANGES["Z-Image"]),
    "anima": Transformer("Anima", _ANIMA, tiny.CHANGES["Anima"]),
}


def pair(part: measuring.Part, kind: str, form: str = "", **options: Any) -> list[Any]:
    """Two models of a kind, see ``load``."""
    return [load(part, kind, form, number, **options) for number in range(2)]


def load(part: measuring.Part, kind: str, form: str = "", number: int = 0, **options: Any) -> Any:
    """A model as core's loader loads a file, which is made first where it is not there.

    ``form`` is the format of the large layers: empty, or "fp8_scaled" (transformers).
    """
    if part.tiny:
        demo.register()
    path = part.setup.work / f"{kind}{form}_{number}.safetensors"
    if not path.exists():
        took = measuring.seconds(lambda: save_file(_state(part, kind, form, number), path))
        part(f"file {path.stem}", {"MiB": path.stat().st_size >> 20, "seconds": took})
    return _loaded(part, kind, str(path), options)


def _state(part: measuring.Part, kind: str, form: str, number: int) -> dict[str, torch.Tensor]:
    if kind in UNETS and part.tiny:
        state = demo.load_model(("base", "ink")[number], disable_dynamic=True).model_state_dict(UNET)
        return {key.removeprefix(UNET): value.clone().contiguous() for key, value in state.items()}
    with measuring.whole_layers():
        shapes = (
            checkpoints._shapes(UNETS[kind])
            if kind in UNETS
            else _config(part, kind).get_model({}, device=torch.device("meta")).diffusion_model.state_dict()
        )
    if kind in UNETS:
        unet = {key: value for key, value in shapes.items() if key.startswith("model.diffusion_model.")}
        return drawn(unet, number, torch.float16)
    large = [key for key, value in shapes.items() if form and key.startswith("layers.") and value.ndim == 2]
    return drawn(shapes, number, torch.bfloat16, form, frozenset(large))


def drawn(
    shapes: dict[str, torch.Tensor],
    seed: int,
    dtype: torch.dtype,
    form: str = "",
    large: frozenset = frozenset(),
) -> dict[str, torch.Tensor]:
    """Weights of these shapes, drawn on the device: norms near 1, matrices scaled by their inputs; ``large`` quantised."""
    device = management.get_torch_device()
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for key, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator, device=device)
        if like.ndim < 2:
            noise = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
        else:
            noise = noise * like[0].numel() ** -0.5
        found = quantised_kit.quantised({key: noise}, form, [key]) if key in large else {key: noise.to(dtype)}
        made |= {name: value.cpu() for name, value in found.items()}
    return made


def _config(part: measuring.Part, kind: str, quantised: dict | None = None) -> Any:
    """The configuration that core would read off a file of this kind; of tiny ones it reads none."""
    shape = TRANSFORMERS[kind]
    config = getattr(comfy.supported_models, shape.kind)(shape.full | (shape.tiny if part.tiny else {}))
    config.set_inference_dtype(torch.bfloat16, torch.bfloat16 if quantised else None)  # as core's loader does
    config.quant_config = quantised
    return config


def _loaded(part: measuring.Part, kind: str, path: str, options: dict[str, Any]) -> Any:
    if kind in UNETS:
        return comfy.sd.load_diffusion_model(path, model_options=options)
    state = comfy.utils.load_torch_file(path)
    config = _config(part, kind, comfy.utils.detect_layer_quantization(state, ""))
    model = config.get_model(state, "")
    offload = management.unet_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(model, management.get_torch_device(), offload)
    model.to(offload)
    model.load_model_weights(state, "", assign=patcher.is_dynamic())
    return patcher


def text_encoder(part: measuring.Part) -> Any:
    """SD1's text encoder with random weights; the demo models' without a GPU."""
    if part.tiny:
        return demo.load_clip()
    import comfy.sd1_clip

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    with measuring.whole_layers():
        shapes = comfy.sd.CLIP(target).cond_stage_model.state_dict()
    return comfy.sd.CLIP(target, state_dict=drawn(shapes, 1, torch.float32))


def blocks_of(model: Any) -> tuple[str, ...]:
    """The names of a model's blocks, in order."""
    return tuple(layout_of_model(model).blocks)


def core_ratios(model: Any, weights: dict[str, float]) -> dict[str, float]:
    """Our share of B by block as the arguments of core's ModelMergeBlocks: shares of A by the start of a key."""
    layout, found = layout_of_model(model), {}
    for key in model.model_state_dict(UNET):
        inside = key.removeprefix(UNET).split(".")
        start = ".".join(inside[:2]) + ("." if len(inside) > 2 else "")
        found[start] = 1 - weights.get(block_of(key, layout) or "", 0.0)
    return found


def conditioning(model: Any, seed: int) -> list:
    """A CONDITIONING of a model's width."""
    generator = torch.Generator().manual_seed(seed)
    config = model.model.model_config.unet_config
    names = ("context_dim", "cap_feat_dim", "crossattn_emb_channels")
    width = next(config[name] for name in names if name in config)
    options: dict[str, Any] = {
        "pooled_output": torch.randn(1, 1280 if config.get("adm_in_channels") else width, generator=generator)
    }
    if config.get("image_model") == "anima":
        options["t5xxl_ids"] = torch.randint(0, 32128, (77,), generator=generator)
        options["t5xxl_weights"] = torch.ones(77)
    return [[torch.randn(1, 77, width, generator=generator), options]]


def sampler(part: measuring.Part, model: Any, side: int, seed: int = 3) -> Callable[..., torch.Tensor]:
    """``sample(model, positive, negative, steps)`` as KSampler does, on an empty latent of ``side``."""
    latents = model.model.latent_format
    sides = (1,) * (latents.latent_dimensions - 2) + (8 if part.tiny else side,) * 2
    latent = torch.zeros(1, latents.latent_channels, *sides)

    def sample(model: Any, positive: list, negative: list, steps: int = 1) -> torch.Tensor:
        noise = comfy.sample.prepare_noise(latent, seed)
        result = comfy.sample.sample(
            model,
            noise,
            steps,
            5.0,
            "euler",
            "normal",
            positive,
            negative,
            latent,
            disable_pbar=True,
            seed=seed,
        )
        measuring.end_of_node()
        return result

    return sample
