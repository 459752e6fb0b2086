"""The learned-range DDPM sampler, sigmas from a spacing, and the guider that mixes two positive prompts."""

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
CALC_COND_BATCH = "sampler_calc_cond_batch_function"
PURE_NOISE = 10.0  # the signal has 1 % of the variance there; every released list starts above


class VarianceRecord:
    """A CALC_COND_BATCH wrapper that makes a stage return its variance in addition to the prediction.

    The variance passes through core's own weighting of areas, masks and strengths, as further channels of the
    same tensor. It is the positive prompt's and is never guided.
    """

    def __init__(self, guider: Any):
        self.guider = guider
        self.v: Tensor | None = None
        self.from_positive = False

    def start_step(self) -> None:
        """Forget the variance of the step before."""
        self.v, self.from_positive = None, False

    def __call__(
        self, executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        channels = x.shape[1]
        outs = executor(model, conds, torch.cat([x, torch.zeros_like(x)], dim=1), timestep, model_options)
        positive = self.guider.conds.get("positive")
        index = next((i for i, cond in enumerate(conds) if cond is positive), None)
        # The step's first call with the positive prompt counts; attention guidance and the like call again.
        if self.v is None or (index is not None and not self.from_positive):
            self.v, self.from_positive = outs[index or 0][:, channels:], index is not None
        return [out[:, :channels] for out in outs]


class LearnedRangeSampler(comfy.samplers.Sampler):
    """DDPM with the stage's own variance (arXiv 2102.09672), on any list of sigmas.

    ``known_region`` is what the model sees where a denoise mask keeps the image: ``"renoised"`` as in core's
    samplers, ``"clean"`` as in IF, which restores the clean image after every step.
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
                f"The model is a {type(stage).__name__}. The learned-range sampler needs an IF stage, which predicts its "
                "variance. Use one of core's samplers with this model, for example ddpm."
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
        model: Any = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = clean, noise
        renoise_mask = denoise_mask if self.known_region == "renoised" else None
        fresh_noise = self.noise_sampler or _noise_of(noise, extra_args.get("seed"))

        # The device is read once for the whole run; every coefficient is a Python number after that.
        levels = sigmas.tolist()
        abars = [1 / (1 + sigma**2) for sigma in levels]
        scales = [abar**-0.5 for abar in abars]
        x = starting_point(clean, noise, levels[0])
        ones = x.new_ones(x.shape[0])
        for i in trange(len(sigmas) - 1, disable=disable_pbar):
            if denoise_mask is not None and renoise_mask is None:
                x = clean + (x - clean) * denoise_mask
            record.start_step()
            x0 = model(
                x * scales[i],
                sigmas[i] * ones,
                denoise_mask=renoise_mask,
                model_options=options,
                seed=extra_args.get("seed"),
            )
            if record.v is None:
                raise ValueError(
                    "A patch on this model computes predictions without ComfyUI's calc_cond_batch, so the variance "
                    "that the stage predicts cannot be read. Remove the patch (a custom calc_cond_batch function "
                    "or a cache), or use one of core's samplers, for example ddpm."
                )
            last = abars[i + 1] == 1.0
            coefficients = step_coefficients(abars[i], abars[i + 1])
            x = learned_range_step(x, x0, record.v, None if last else fresh_noise(x), coefficients)
            if callback is not None:
                callback(i, x0, x, len(sigmas) - 1)
        if denoise_mask is not None and renoise_mask is None:
            x = clean * (1 - denoise_mask) + x * denoise_mask
        return x * scales[-1]


def stage_sigmas(model: Any, spec: str, denoise: float = 1.0) -> Tensor:
    """SIGMAS of a spacing for the model's own schedule, zero last.

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
        # Core's sampling function does the rest, so that its patches before and after guidance act as ever.
        options = {**(model_options or {})}
        given = options.get(CALC_COND_BATCH, _calc_cond_batch)
        options[CALC_COND_BATCH] = lambda args: self._mixed(given, args)
        positive, negative = self.conds.get("positive"), self.conds.get("negative")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, self.cfg, model_options=options, seed=seed
        )

    def _mixed(self, calc: Callable[[dict], list[Tensor]], args: dict[str, Any]) -> list[Tensor]:
        """The predictions of (positive, negative) with the style's mixed into the first."""
        style = self.conds.get("style") if self.mix > 0 else None
        if style is None:
            return calc(args)
        if calc is _calc_cond_batch:  # all three in one call of the model
            mixed, uncond, styled = calc({**args, "conds": [*args["conds"], style]})
        else:  # a patch's function expects two
            (mixed, uncond), (styled, _) = calc(args), calc({**args, "conds": [style, None]})
        return [styled if self.mix == 1.0 else mixed.lerp(styled, self.mix), uncond]


def starting_point(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Where a run starts: ``clean`` (0 for an empty latent) with noise of level ``sigma``, at variance one.

    From ``PURE_NOISE`` on an empty latent starts as the noise itself, unscaled, as the IF pipelines start.
    """
    if sigma >= PURE_NOISE and not bool(torch.any(clean)):
        return noise
    return (clean + noise * sigma) / (1 + sigma**2) ** 0.5


def _calc_cond_batch(args: dict[str, Any]) -> list[Tensor]:
    return comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )


def _noise_of(x: Tensor, seed: int | None) -> Callable[[Tensor], Tensor]:
    draw = default_noise_sampler(x, seed=seed)
    return lambda _: draw(None, None)
