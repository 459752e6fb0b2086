"""Sampling IF stages with core's custom-sampling nodes, and the image a stage enlarges."""

from comfy_api.latest import io

from ..cascade import host_cascade, host_sampler
from ..cascade.schedule import respaced_timesteps
from . import cascade_inputs as shared
from .checks import first_problem


class Sigmas(io.ComfyNode):
    """SIGMAS from a spacing (respacing string)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeSigmas",
            display_name="IF Sigmas",
            category=shared.CATEGORY,
            description="Sigmas for a list of timesteps: one of IF's eight named lists or any respacing string. Works with "
            "every model that has 1000 discrete timesteps.",
            search_aliases=["respacing", "timesteps", "smart50", "super40", "fast27", "scheduler", "sigmas"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model whose noise schedule converts timesteps to sigmas."
                ),
                shared.spacing_input("smart50"),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="The fraction of the list to sample, from its low-noise end. Below 1 for image to image.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels of this stage.")],
        )

    @classmethod
    def validate_inputs(cls, spacing=None):
        return first_problem((respaced_timesteps, spacing))

    @classmethod
    def execute(cls, model, spacing, denoise=1.0) -> io.NodeOutput:
        return io.NodeOutput(host_sampler.stage_sigmas(model, spacing, denoise))


class Sampler(io.ComfyNode):
    """The learned-range DDPM sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeSampler",
            display_name="IF Sampler",
            category=shared.CATEGORY,
            description="DDPM with the variance that an IF stage predicts in addition to the noise. Core's samplers do not read "
            "that variance. Connect it to SamplerCustom or SamplerCustomAdvanced.",
            search_aliases=["learned range", "learned variance", "DDPM", "DeepFloyd sampler"],
            inputs=[
                io.Combo.Input(
                    "known_region",
                    options=list(host_sampler.KNOWN_REGIONS),
                    default="renoised",
                    optional=True,
                    tooltip="For inpainting: what the model sees in the part that the mask keeps. renoised: as noisy as "
                    "the rest, as in ComfyUI. clean: without noise, as in IF and diffusers.",
                )
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="The sampler, for SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    def execute(cls, known_region="renoised") -> io.NodeOutput:
        return io.NodeOutput(host_sampler.LearnedRangeSampler(known_region))


class Guider(io.ComfyNode):
    """CFG with a mix of two positive prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeGuider",
            display_name="IF Positive Mixer",
            category=shared.CATEGORY,
            description="Classifier-free guidance (CFG) towards a mix of two prompts, as IF's positive mixer. It mixes the "
            "predictions, not the embeddings. Works with every model.",
            search_aliases=["positive mixer", "guider", "style transfer", "CFG Guider", "prompt mix"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt. The learned variance is taken from its prediction."
                ),
                io.Conditioning.Input("style", tooltip="The prompt to mix in."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                shared.cfg_input(7.0, round=0.01),
                io.Float.Input(
                    "mix",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Weight of the style prompt: 0 uses the positive prompt alone, 1 the style prompt alone. IF uses "
                    "0.25 in stage I and 0.5 in stages II and III.",
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="The guider, for SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    def execute(cls, model, positive, style, negative, cfg, mix) -> io.NodeOutput:
        guider = host_sampler.MixGuider(model, mix)
        guider.set_prompts(positive, style, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class LowResolution(io.ComfyNode):
    """The image a super-resolution stage enlarges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeLowRes",
            display_name="IF Low-Res",
            category=shared.CATEGORY,
            description="Prepares an image for upscaling by a super-resolution stage, with noise conditioning augmentation, "
            "and makes the empty latent of the new size. Any image of any size works.",
            search_aliases=[
                "super resolution",
                "upscale",
                "noise augmentation",
                "noise_level",
                "stage II",
                "stage III",
                "low res",
            ],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="Prompt of this stage. It may differ from the prompt of the stage below.",
                ),
                io.Conditioning.Input("negative", tooltip="Negative prompt of this stage."),
                io.Image.Input("image", tooltip="The image to enlarge."),
                *shared.low_res_inputs(
                    "How many times larger. The released stages were trained with 4.",
                    "Noise added to the image, from 0 to 1 (diffusers' noise_level / 1000). 0 keeps all details, "
                    "0.25 is IF's stage II, 0.3 lets a changed prompt replace details (Imagen).",
                    "fixed: the same noise at every step, as in diffusers. fresh: new noise at every step, as in IF.",
                    "Gaussian blur of the image before enlarging, as sigma in pixels. 0 is no blur.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    id="positive_out",
                    display_name="positive",
                    tooltip="The prompt with the low-resolution image.",
                ),
                io.Conditioning.Output(
                    id="negative_out",
                    display_name="negative",
                    tooltip="The negative prompt with the low-resolution image.",
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="An empty latent of the size that this stage samples."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, positive, negative, image, scale, aug_level, aug_noise="fixed", blur=0.0
    ) -> io.NodeOutput:
        low = host_cascade.low_res_of(image, aug_level, aug_noise == "fresh", blur)
        latent = {"samples": host_cascade.empty_above(low.image, scale)}
        conditionings = [host_cascade.with_low_res(cond, low) for cond in (positive, negative)]
        return io.NodeOutput(*conditionings, latent)
