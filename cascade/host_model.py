"""An IF stage as a ComfyUI model: registered with core's detection, conditioned, and applied.

What the U-Net derives from the text is computed once per prompt and sampling run, and kept in that run's conds, so
that nothing stays in memory after the run.
"""

import zlib
from dataclasses import dataclass
from typing import Any, cast

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from . import keys, low_res
from .schedule import alphas_cumprod, sigmas
from .unet import PixelUNet, TextStates, describe
from .unet_config import UNetConfig, activation_bytes

# Keys of a CONDITIONING's options.
LOW_RES = "blockwork_cascade_low_res"
POOLED_TEXT = "blockwork_cascade_pooled_text"

# Keeps the augmentation noise of a seed apart from the starting noise of the same seed.
AUGMENTATION_STREAM = 0x10E5

AUGMENTATION_TABLE = alphas_cumprod("cosine").tolist()


@dataclass(frozen=True)
class LowRes:
    """The image (``b c h w`` in [-1, 1]) that a super-resolution stage enlarges, and how it is noised.

    ``level`` 0 to 1; ``fresh_noise`` draws new noise at every model call (IF) instead of once (diffusers).
    """

    image: Tensor
    level: float
    fresh_noise: bool = False
    blur: float = 0.0

    def __post_init__(self) -> None:
        low_res.check(self.level, self.blur)


class Prompt:
    """Text states of one prompt in one sampling run (a cond, as ``comfy.conds`` has them)."""

    def __init__(self, text: Tensor, pooled_text: Tensor | None = None):
        self.text, self.pooled_text = text, pooled_text
        self.remembered: dict[tuple, TextStates] = {}

    def process_cond(self, batch_size: int, **_: Any) -> "PromptBatch":
        return PromptBatch([(self, batch_size)])


class PromptBatch:
    """Prompts side by side in one model call, each repeated over its part of the batch."""

    def __init__(self, parts: list[tuple[Prompt, int]]):
        self.parts = parts

    def can_concat(self, other: "PromptBatch") -> bool:
        mine, theirs = self.parts[0][0], other.parts[0][0]
        pooled_alike = (mine.pooled_text is None) == (theirs.pooled_text is None)
        return mine.text.shape[1:] == theirs.text.shape[1:] and pooled_alike

    def concat(self, others: list["PromptBatch"]) -> "PromptBatch":
        return PromptBatch([part for batch in (self, *others) for part in batch.parts])

    def size(self) -> list[int]:
        first = self.parts[0][0].text
        return [sum(count for _, count in self.parts), *first.shape[1:]]

    def tokens(self) -> Tensor:
        """The text states of every sample of the call."""
        return torch.cat([comfy.utils.repeat_to_batch_size(one.text, count) for one, count in self.parts])

    @property
    def has_style(self) -> bool:
        """Whether some prompt has a text of its own for the pooled embedding."""
        return any(prompt.pooled_text is not None for prompt, _ in self.parts)

    def states(self, unet: Any, device: torch.device, dtype: torch.dtype, remember: bool) -> TextStates:
        """What the U-Net derives from these prompts; kept with the first prompt where ``remember`` is set."""
        memory = self.parts[0][0].remembered
        key = (*((id(prompt), count) for prompt, count in self.parts), device, dtype)
        if remember and key in memory:
            return memory[key]

        def batched(which: str) -> Tensor:
            tensors = [
                comfy.utils.repeat_to_batch_size(getattr(prompt, which), count)
                for prompt, count in self.parts
            ]
            return torch.cat(tensors).to(device, dtype)

        pooled = batched("pooled_text") if self.parts[0][0].pooled_text is not None else None
        states = unet.encode_text(batched("text"), pooled)
        if remember:
            memory[key] = states
        return states


def fresh_seed(seed: int, branch: str) -> int:
    """The seed of a branch's fresh noise; ``branch`` is its name in the guider ("positive", "negative", ...)."""
    return ((seed ^ AUGMENTATION_STREAM) + zlib.crc32(branch.encode())) % 2**63


class FreshNoise:
    """New augmentation noise for every model call, of one prompt (a cond, as ``comfy.conds`` has them).

    Each prompt has its own stream, so the noise does not depend on which prompts core runs together.
    """

    def __init__(self, seed: int, abar: float):
        self.seed, self.abar = seed, abar
        self.generator: torch.Generator | None = None

    def process_cond(self, batch_size: int, **_: Any) -> "FreshNoiseBatch":
        return FreshNoiseBatch([(self, batch_size)])

    def draw(self, like: Tensor) -> Tensor:
        """Noise like a tensor, drawn on its device."""
        if self.generator is None:
            self.generator = torch.Generator(like.device).manual_seed(self.seed)
        return torch.randn(like.shape, generator=self.generator, device=like.device).to(like)


class FreshNoiseBatch:
    """The noise of prompts side by side in one model call, each over its part of the batch."""

    def __init__(self, parts: list[tuple[FreshNoise, int]]):
        self.parts = parts

    def can_concat(self, other: "FreshNoiseBatch") -> bool:
        return self.parts[0][0].abar == other.parts[0][0].abar

    def concat(self, others: list["FreshNoiseBatch"]) -> "FreshNoiseBatch":
        return FreshNoiseBatch([part for batch in (self, *others) for part in batch.parts])

    def size(self) -> list[int]:
        return [1]

    def augmented(self, image: Tensor) -> Tensor:
        """``image`` (``b c h w``) with its own noise for each sample of the call."""
        pieces = image.split([count for _, count in self.parts])
        noise = [stream.draw(piece) for (stream, _), piece in zip(self.parts, pieces, strict=True)]
        return low_res.augment(image, torch.cat(noise), self.parts[0][0].abar)


class PixelStageModel(comfy.model_base.BaseModel):
    """The model of one stage: epsilon prediction in pixel space, with the learned variance on request.

    A sampler that passes twice the image's channels gets (denoised, v) back.
    """

    def __init__(self, model_config: Any, device: torch.device | None = None):
        epsilon = comfy.model_base.ModelType.EPS
        super().__init__(model_config, epsilon, device=device, unet_model=cast(Any, PixelUNet))
        self.config: UNetConfig = model_config.unet_config["config"]
        self.model_sampling.set_sigmas(sigmas("cosine"))

    @property
    def learns_variance(self) -> bool:
        """Whether the U-Net predicts the variance in addition to the noise."""
        return self.config.out_channels == 2 * self.config.image_channels

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        if kwargs.get("control") is not None:
            raise ValueError(
                "A ControlNet is attached to the prompt of an IF stage. IF stages have no ControlNet support. Remove "
                "the Apply ControlNet node from this prompt."
            )
        text, pooled_text = kwargs.get("cross_attn"), kwargs.get(POOLED_TEXT)
        for states in (text, pooled_text):
            if states is not None and states.shape[-1] != self.config.text_dim:
                raise ValueError(
                    f"The conditioning is {states.shape[-1]} wide. This stage reads T5 states {self.config.text_dim} wide. "
                    "Encode the prompt with the stage's own T5 (IF T5 Loader), not with another text encoder."
                )
        if text is None:
            raise ValueError(
                "The conditioning has no text states. An IF stage needs T5 states. Encode the prompt with IF Text Encode."
            )
        out: dict[str, Any] = {"text": Prompt(text, pooled_text)}
        if self.config.super_resolution:
            out.update(self._low_res_conds(kwargs.pop("noise").shape, **kwargs))
        return out

    def _low_res_conds(self, shape: torch.Size, device: torch.device, **kwargs: Any) -> dict[str, Any]:
        given: LowRes | None = kwargs.get(LOW_RES)
        if given is None:
            raise ValueError(
                "This is a super-resolution stage, and its conditioning has no image to enlarge. Put IF Low-Res between "
                "the prompts and the sampler."
            )
        image = low_res.blur(given.image.to(device, torch.float32), given.blur)
        image = low_res.enlarge(image, shape[-2], shape[-1])
        image = comfy.utils.repeat_to_batch_size(image, shape[0])
        step = low_res.augmentation_step(given.level)
        seed = kwargs.get("seed") or 0
        abar = AUGMENTATION_TABLE[step]
        conds: dict[str, Any] = {"aug_steps": comfy.conds.CONDRegular(torch.tensor([step], device=device))}
        if given.fresh_noise:
            conds["low_res_noise"] = FreshNoise(fresh_seed(seed, kwargs.get("prompt_type", "")), abar)
        else:
            generator = torch.Generator().manual_seed(seed ^ AUGMENTATION_STREAM)
            noise = torch.randn(image.shape, generator=generator).to(image)
            image = low_res.augment(image, noise, abar)
        conds["low_res"] = comfy.conds.CONDNoiseShape(image)
        return conds

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        *,
        text: PromptBatch,
        low_res: Tensor | None = None,
        low_res_noise: FreshNoiseBatch | None = None,
        aug_steps: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        _refuse_patches(transformer_options or {})
        channels, dtype = self.config.image_channels, self.get_dtype_inference()
        with_variance = x.shape[1] == 2 * channels
        x = x[:, :channels]
        xc = self.model_sampling.calculate_input(t, x)
        if low_res is not None:
            below = low_res.to(xc)
            xc = torch.cat([xc, low_res_noise.augmented(below) if low_res_noise else below], dim=1)
        # Hooks may change the weights from step to step; then nothing derived from the text can be kept.
        hooked = self.current_patcher is not None and self.current_patcher.current_hooks is not None
        states = text.states(self.diffusion_model, xc.device, dtype, remember=not hooked)
        timesteps = self.model_sampling.timestep(t).float()
        out = self.diffusion_model(xc.to(dtype), timesteps, aug_steps=aug_steps, text=states).float()
        denoised = self.model_sampling.calculate_denoised(t, out[:, :channels], x)
        return torch.cat([denoised, out[:, channels:]], dim=1) if with_variance else denoised

    def memory_required(self, input_shape: list[int], cond_shapes: dict | None = None) -> float:
        batch, _, height, width = input_shape
        itemsize = self.get_dtype_inference().itemsize
        return float(activation_bytes(self.config, batch, height, width, itemsize))


def _refuse_patches(transformer_options: dict[str, Any]) -> None:
    """ValueError for patches of the U-Net's inside, which an IF stage does not read."""
    patches = transformer_options.get("patches", {}), transformer_options.get("patches_replace", {})
    names = sorted({name for kind in patches for name, entries in kind.items() if entries})
    if names:
        raise ValueError(
            f"The model has patches that an IF stage does not read: {', '.join(names)}. They come from nodes such "
            "as FreeU, HyperTile, Perturbed-Attention Guidance or IP-Adapter. Remove that node from this stage."
        )


class PixelStage(comfy.supported_models_base.BASE):
    """How core recognises an IF stage in the original format and builds a model from it."""

    unet_config = {"context_dim": None, "transformer_depth_middle": -1}
    required_keys = {"{}" + keys.ORIGINAL_MARK: {}}
    sampling_settings = {"beta_schedule": "cosine"}
    latent_format = comfy.latent_formats.ChromaRadiance  # three channels, one per colour, unscaled

    def clip_target(self, state_dict: dict | None = None) -> None:
        """These files contain no text encoder."""

    def get_model(self, state_dict: dict, prefix: str = "", device: Any = None) -> PixelStageModel:
        shapes = {k.removeprefix(prefix): v.to("meta") for k, v in state_dict.items() if k.startswith(prefix)}
        config = describe(keys.to_diffusers(shapes))
        # Nothing else may stay in unet_config: core would read SD's block names out of num_res_blocks.
        self.unet_config = {"config": config, "dtype": self.unet_config.get("dtype")}
        return PixelStageModel(self, device=device)

    def process_unet_state_dict(self, state_dict: dict) -> dict:
        return keys.to_diffusers(state_dict)

    def process_unet_state_dict_for_saving(self, state_dict: dict) -> dict:
        return super().process_unet_state_dict_for_saving(keys.to_original(state_dict))


def register() -> None:
    """Make core's loaders recognise IF stages; a second call changes nothing."""
    if PixelStage not in comfy.supported_models.models:
        comfy.supported_models.models.append(PixelStage)
