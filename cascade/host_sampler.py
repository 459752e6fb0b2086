"""The learned-range DDPM sampler, its list of sigmas, and the guider that mixes two positive prompts."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.k_diffusion.sampling import default_noise_sampler
from torch import Tensor
from tqdm.auto import trange

from .diffusion import learned_range_step, step_coefficients
from .host_model import PixelStageModel
from .schedule import respaced_timesteps, trailing

WRAPPER_KEY = "blockwork_cascade_variance"
KNOWN_REGIONS = ("renoised", "clean")


class VarianceRecord:
    """A CALC_COND_BATCH wrapper that asks a stage for its variance beside the picture.

    The variance goes through core's own weighting of areas, masks and strengths, as channels of the
    same tensor, and is taken from the positive prompt: it is never guided.
    """

    def __init__(self, guider: Any):
        self.guider = guider
        self.v: Tensor | None = None

    def __call__(
        self, executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        channels = x.shape[1]
        outs = executor(model, conds, torch.cat([x, torch.zeros_like(x)], dim=1), timestep, model_options)
        if self.v is None:  # the step's first call; attention guidance and the like call again
            positive = self.guider.conds.get("positive")
            index = next((i for i, cond in enumerate(conds) if cond is positive), 0)
            self.v = outs[index][:, channels:]
        return [out[:, :channels] for out in outs]


class LearnedRangeSampler(comfy.samplers.Sampler):
    """DDPM with the stage's own variance (arXiv 2102.09672), on any list of sigmas.

    ``known_region`` says what a denoise mask keeps: ``"renoised"`` as core's samplers do, ``"clean"``
    as IF does, which puts the clean picture back after every step.
    """

    def __init__(
        self, known_region: str = "renoised", noise_sampler: Callable[[Tensor], Tensor] | None = None
    ):
        self.known_region, self.noise_sampler = known_region, noise_sampler

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        stage = model_wrap.inner_model
        if not (isinstance(stage, PixelStageModel) and stage.learns_variance):
            raise ValueError(
                f"the learned-range sampler needs an IF stage, which predicts its variance; this model is "
                f"a {type(stage).__name__}. Use one of core's samplers with it, 'ddpm' being the nearest."
            )
        clean = torch.zeros_like(noise) if latent_image is None else latent_image
        record = VarianceRecord(model_wrap)
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
            WRAPPER_KEY,
            record,
            options,
            is_model_options=True,
        )
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = clean, noise
        renoise_mask = denoise_mask if self.known_region == "renoised" else None
        fresh_noise = self.noise_sampler or _noise_of(noise, extra_args.get("seed"))

        # One read of the device for the whole run: every coefficient is a number from here on.
        abars = (1 / (1 + sigmas.double() ** 2)).tolist()
        scales = [abar**-0.5 for abar in abars]
        x = noise if _starts_from_noise(clean) else (clean + noise * sigmas[0]) / scales[0]
        ones = x.new_ones(x.shape[0])
        for i in trange(len(sigmas) - 1, disable=disable_pbar):
            if denoise_mask is not None and renoise_mask is None:
                x = clean + (x - clean) * denoise_mask
            record.v = None
            x0 = model(
                x * scales[i],
                sigmas[i] * ones,
                denoise_mask=renoise_mask,
                model_options=options,
                seed=extra_args.get("seed"),
            )
            assert record.v is not None  # every call of the model passes through the record
            last = abars[i + 1] == 1.0
            coefficients = step_coefficients(abars[i], abars[i + 1])
            x = learned_range_step(x, x0, record.v, None if last else fresh_noise(x), coefficients)
            if callback is not None:
                callback(i, x0, x, len(sigmas) - 1)
        if denoise_mask is not None and renoise_mask is None:
            x = clean * (1 - denoise_mask) + x * denoise_mask
        return x * scales[-1]


def stage_sigmas(model: Any, spec: str, denoise: float = 1.0) -> Tensor:
    """SIGMAS of a respacing string for the model's own schedule, zero last.

    ``denoise`` below 1 keeps that share of the list, its low-noise end.
    """
    table = model.get_model_object("model_sampling").sigmas
    timesteps = trailing(respaced_timesteps(spec, len(table)), denoise)
    if not timesteps:
        return torch.FloatTensor([])
    return torch.cat([table[timesteps].cpu(), torch.zeros(1)])


class MixGuider(comfy.samplers.CFGGuider):
    """CFG whose positive side mixes two prompts: ``(1 - mix) * positive + mix * style`` (IF's mixer)."""

    def __init__(self, model: Any, mix: float):
        super().__init__(model)
        self.mix = mix

    def set_prompts(self, positive: Any, style: Any, negative: Any) -> None:
        """The three CONDITIONINGs of the run."""
        self.inner_set_conds({"positive": positive, "style": style, "negative": negative})

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
    ) -> Tensor:
        options = model_options or {}
        positive, style, negative = (self.conds.get(key) for key in ("positive", "style", "negative"))
        if self.cfg == 1.0 and not options.get("disable_cfg1_optimization", False):
            negative = None
        branches: list[Any] = [positive, negative, style if self.mix > 0 else None]
        mixed, uncond, styled = comfy.samplers.calc_cond_batch(
            self.inner_model, branches, x, timestep, options
        )
        if self.mix > 0:
            mixed = styled if self.mix == 1.0 else mixed.lerp(styled, self.mix)
        return comfy.samplers.cfg_function(
            self.inner_model, mixed, uncond, self.cfg, x, timestep,
            model_options=options, cond=positive, uncond=negative,
        )  # fmt: skip


def _starts_from_noise(latent_image: Tensor) -> bool:
    """An all-zero latent is core's sign for "no picture"; then the noise is the start, unscaled."""
    return not bool(torch.any(latent_image))


def _noise_of(x: Tensor, seed: int | None) -> Callable[[Tensor], Tensor]:
    draw = default_noise_sampler(x, seed=seed)
    return lambda _: draw(None, None)
