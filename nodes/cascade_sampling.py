"""Sampling pixel stages with core's custom-sampling nodes, and the picture a stage enlarges."""

from comfy_api.latest import io

from ..cascade import host_cascade, host_sampler
from . import cascade_inputs as shared


class Sigmas(io.ComfyNode):
    """SIGMAS from a respacing string."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeSigmas",
            display_name="Cascade Sigmas",
            category=shared.CATEGORY,
            description="The sigmas of a list of timesteps: IF's eight named lists or any respacing string. Works with "
            "every model of a thousand discrete timesteps.",
            search_aliases=["respacing", "timesteps", "smart50", "super40", "fast27", "scheduler", "sigmas"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model whose noise schedule turns timesteps into sigmas."
                ),
                shared.spacing_input("smart50"),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="The share of the list to run, its low-noise end: below 1 for image to image.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, model, spacing, denoise=1.0) -> io.NodeOutput:
        return io.NodeOutput(host_sampler.stage_sigmas(model, spacing, denoise))


class Sampler(io.ComfyNode):
    """The learned-range DDPM sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeSampler",
            display_name="Cascade Sampler",
            category=shared.CATEGORY,
            description="DDPM with the variance an IF stage predicts beside the noise, which no core sampler reads. "
            "For Sampler Custom (Advanced).",
            search_aliases=["learned range", "learned variance", "DDPM", "DeepFloyd sampler"],
            inputs=[
                io.Combo.Input(
                    "known_region",
                    options=list(host_sampler.KNOWN_REGIONS),
                    default="renoised",
                    optional=True,
                    tooltip="What the unmasked part of an inpainted picture looks like to the model: as noisy as the "
                    "rest (core's way), or clean (IF's and diffusers' way).",
                )
            ],
            outputs=[io.Sampler.Output(display_name="sampler")],
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
            display_name="Cascade Positive Mixer",
            category=shared.CATEGORY,
            description="Classifier-free guidance towards a mix of two prompts (IF's positive mixer): predictions are "
            "mixed, not embeddings. Works with every model.",
            search_aliases=["positive mixer", "guider", "style transfer", "CFG Guider", "prompt mix"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt. Its branch also gives the learned variance."
                ),
                io.Conditioning.Input("style", tooltip="The prompt that is mixed in."),
                io.Conditioning.Input("negative", tooltip="What guidance moves away from."),
                shared.cfg_input(7.0, round=0.01),
                io.Float.Input(
                    "mix",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the style prompt: 0 is plain guidance by the prompt, 1 by the style. IF uses "
                    "0.25 in stage I and 0.5 above.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(cls, model, positive, style, negative, cfg, mix) -> io.NodeOutput:
        guider = host_sampler.MixGuider(model, mix)
        guider.set_prompts(positive, style, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class LowResolution(io.ComfyNode):
    """The picture a super-resolution stage enlarges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeLowRes",
            display_name="Cascade Low-Res",
            category=shared.CATEGORY,
            description="Shows a super-resolution stage the picture to enlarge, with noise conditioning augmentation, "
            "and makes the empty latent of the new size. Any image will do, of any shape.",
            search_aliases=[
                "super resolution",
                "upscale",
                "noise augmentation",
                "stage II",
                "stage III",
                "low res",
            ],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="Prompt of this stage; it may differ from the one below."
                ),
                io.Conditioning.Input("negative", tooltip="Negative prompt of this stage."),
                io.Image.Input("image", tooltip="The picture to enlarge."),
                *shared.low_res_inputs(
                    "How many times larger; the released stages were trained with 4.",
                    "How much noise hides the picture's details: 0 keeps them, 0.25 is IF's stage II; 0.3 lets "
                    "a changed prompt repaint them (Imagen).",
                    "One draw of that noise for the whole run (diffusers), or a new one at every call (IF).",
                    "Gaussian blur of the picture before enlarging, as sigma in pixels; 0 for none.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(id="positive_out", display_name="positive"),
                io.Conditioning.Output(id="negative_out", display_name="negative"),
                io.Latent.Output(display_name="latent"),
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
