"""A model and its text encoder for training embeddings: private copies, differentiable down to the tokens.

ComfyUI's own classes compute: the text encoder's ``encode``, ``extra_conds``, ``apply_model`` and ``model_sampling``. The
copies are unloaded first, so that they hold the stored weights, and get the patches of the original (LoRA and others).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torch.utils.checkpoint
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .concept import BLOCKS, layer_keys
from .host import blocks_of
from .host_layers import in_front, untraced
from .host_xti import encoders
from .mixing import same_length
from .train import TrainingError

CHECKPOINTED = ("CLIPLayer", "ResBlock", "BasicTransformerBlock")
DTYPES: dict[str, torch.dtype | None] = {"bf16": torch.bfloat16, "fp32": torch.float32, "none": None}
FP16_SCALE = 1024.0  # of the loss, so that gradients in fp16 do not underflow
EVERYTHING = 10**20  # bytes: no other model is to stay on the device, as in core's training
Contexts = Sequence[tuple[Tensor, Tensor]]  # by block: keys and values, ``b t d``


class Denoiser:
    """Private copies of a MODEL and a CLIP, loaded for training; ``dtype`` is the one of the U-Net's arithmetic.

    Raises TrainingError for models that cannot be trained for.
    """

    def __init__(
        self, model: ModelPatcher, clip: Any, dtype: str = "bf16", checkpointing: bool = True, offloading: bool = False
    ):  # fmt: skip
        self.keys = trained_layers(model)
        self.model = _copied(model)
        self.clip = clip.clone()
        self.clip.patcher = _copied(clip.patcher)
        self.clip.cond_stage_model = self.clip.patcher.model
        for module in self.clip.cond_stage_model.modules():
            if isinstance(module, nn.LayerNorm):  # core's layers add to their input in place
                module.register_forward_pre_hook(lambda _, given: (given[0].clone(), *given[1:]))
        wanted = DTYPES[dtype]
        if wanted is not None:
            self.model.set_model_compute_dtype(wanted)
        native = self.model.model.get_dtype()
        compute = wanted or (native if native in (torch.float16, torch.float32) else torch.bfloat16)
        self.scale = FP16_SCALE if compute == torch.float16 else 1.0
        if checkpointing:
            for part in (self.model.model.diffusion_model, self.clip.cond_stage_model):
                _checkpoint(part)
        comfy.model_management.load_models_gpu(
            [self.model, self.clip.patcher], memory_required=EVERYTHING, force_full_load=not offloading
        )
        self.base: Any = self.model.model
        self.device = self.model.load_device
        self.autocast = torch.autocast(self.device.type, compute, enabled=compute != torch.float32)
        self.base.requires_grad_(False)
        self.clip.cond_stage_model.requires_grad_(False)
        self.blocks = [(block.side, block.number) for block in blocks_of(self.model).attending]
        self.model.pre_run()

    def close(self) -> None:
        """Free the memory of the copies."""
        self.model.cleanup()
        comfy.model_management.unload_model_and_clones(self.model)
        comfy.model_management.unload_model_and_clones(self.clip.patcher)

    def encode(self, rows: Sequence[dict[str, list[list[Any]]]]) -> tuple[list[Tensor], Tensor | None]:
        """Prompts as sections of tokens by text encoder: the states of each ``1 t d``, and what is pooled ``n d``."""
        stage: Any = self.clip.cond_stage_model
        stage.reset_clip_options()
        if self.clip.layer_idx is not None:
            stage.set_clip_options({"layer": self.clip.layer_idx})
        stage.set_clip_options({"execution_device": self.clip.patcher.load_device})
        states, pooled = [], None
        for name, encoder in encoders(self.clip).items():
            given = [row[name.removeprefix("clip_")] for row in rows]
            counts = [len(sections) for sections in given]
            encoded, pooled, *_ = encoder.encode([section for sections in given for section in sections])
            states.append([part.reshape(1, -1, part.shape[-1]) for part in encoded.split(counts)])
            if pooled is not None:
                firsts = [sum(counts[:number]) for number in range(len(counts))]
                pooled = pooled[firsts]
        return [torch.cat(parts, dim=-1) for parts in zip(*states, strict=True)], pooled

    def error(
        self, latents: Tensor, share: Sequence[float], noise: Tensor, contexts: Contexts, pooled: Tensor | None
    ) -> Tensor:  # fmt: skip
        """How far the model's own output is from the right one, as ``b c h w``: noise, v or what it predicts.

        ``share`` in 0..1 is the part of the schedule that is done for each image. The denoised latent that core
        computes is ``a x + b out``, so an error of it is ``b`` times the one of the output.
        """
        sampling = self.base.model_sampling
        sigma = torch.tensor([sampling.percent_to_sigma(one) for one in share], device=self.device)
        clean = self.base.process_latent_in(latents.to(self.device, torch.float32))
        noisy = sampling.noise_scaling(sigma, noise.to(clean), clean, False)
        contexts = [
            (keys.to(self.device, dtype), values.to(self.device, dtype))
            for dtype in [self.base.get_dtype_inference()]
            for keys, values in contexts
        ]
        given = self.base.extra_conds(
            noise=noisy, device=self.device, cross_attn=contexts[0][0], pooled_output=pooled, width=noisy.shape[3] * 8,
            height=noisy.shape[2] * 8,
        )  # fmt: skip
        area = None
        arguments = {
            name: one.process_cond(batch_size=len(noisy), device=self.device, area=area).cond
            for name, one in given.items()
        }
        options = dict(self.model.model_options["transformer_options"])
        in_front(options, _own_contexts(dict(zip(self.blocks, contexts, strict=True))))
        with self.autocast:
            denoised = self.base.apply_model(noisy, sigma, transformer_options=options, **arguments)
        with torch.no_grad():
            factor = sampling.calculate_denoised(sigma, torch.ones_like(clean), torch.zeros_like(clean))
        return (denoised.float() - clean) / factor


def trained_layers(model: ModelPatcher) -> tuple[str, ...]:
    """The layers of an XTI for a model. Raises TrainingError for models other than SD1, SD2 and SDXL."""
    name = type(model.model).__name__
    try:
        keys = layer_keys(blocks_of(model))
    except TypeError as error:
        raise TrainingError(f"{name} cannot be trained for: {error}") from error
    if name == "Anima":
        raise TrainingError(
            "Anima reads a prompt twice, as the states of Qwen and as the ids of T5, and an id cannot be trained. Use a "
            "model of SD1, SD2 or SDXL."
        )
    if keys not in BLOCKS:
        raise TrainingError(
            f"Train XTI knows SD1, SD2 (16 layers) and SDXL (11 blocks), and this model ({name}) has {len(keys)} blocks with "
            "cross-attention. Use a model of SD1, SD2 or SDXL."
        )
    return keys


def batch_contexts(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Prompts ``1 t d``, group by group and image by image, as one context ``b t d`` per group."""
    return [torch.cat(same_length(images)) for images in rows]


def _own_contexts(contexts: dict[tuple[str, int], tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    @untraced
    def patch(n: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        return n, *contexts[extra["block"]]

    return patch


def _copied(patcher: ModelPatcher) -> ModelPatcher:
    """A patcher with the same patches around a copy of the stored weights, free of inference tensors."""
    comfy.model_management.unload_model_and_clones(patcher)
    model: Any = patcher.model
    config, current = getattr(model, "model_config", None), getattr(model, "current_patcher", None)
    memory = {id(config): config, id(current): None}  # the configuration is shared, the patcher left out
    copied = copy.deepcopy(model, memory)
    for key, stored in patcher.backup.items():  # still loaded on another device, with patches
        comfy.utils.set_attr_param(copied, key, stored.weight.detach().clone())
    empty: Any = ({}, {}, {}, set())  # what the patcher of a fresh model remembers
    return patcher.clone(disable_dynamic=True, model_override=(copied, empty))


def _checkpoint(module: nn.Module) -> None:
    """Let the layers of a private copy compute again on the way back what they would have to keep."""
    for layer in module.modules():
        if type(layer).__name__ in CHECKPOINTED:
            layer.forward = _checkpointed(layer.forward)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(x: Tensor, rest: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return forward(x.clone(), *rest, **named)  # some layers write into their input

    def outer(x: Tensor, *rest: Any, **named: Any) -> Any:
        # ComfyUI says in a dict which block runs, and writes on into it.
        frozen = tuple(dict(one) if isinstance(one, dict) else one for one in rest)
        named = {key: dict(one) if isinstance(one, dict) else one for key, one in named.items()}
        return torch.utils.checkpoint.checkpoint(again, x, frozen, named, use_reentrant=False)

    return outer
