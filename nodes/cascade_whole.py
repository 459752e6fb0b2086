"""IF in one node, from text to image through all stages, and the settings of its stages."""

from comfy_api.latest import io, ui

from ..cascade import host_cascade, host_files
from ..cascade.schedule import respaced_timesteps
from . import cascade_inputs as shared
from .checks import first_problem

StageSettings = io.Custom("BLOCKWORK_CASCADE_STAGE")
UpscalerSettings = io.Custom("BLOCKWORK_CASCADE_UPSCALER")


def _prompt_input(name: str, label: str):
    return io.String.Input(
        name,
        default="",
        multiline=True,
        optional=True,
        tooltip=f"The {label} of this stage alone. If empty, the {label} of IF Text to Image is used.",
    )


def _own_prompts_input():
    return io.Boolean.Input(
        "own_prompts",
        default=False,
        optional=True,
        advanced=True,
        tooltip="Use prompt and negative of this stage as written, even when they are empty.",
    )


def _prompts(prompt: str, negative: str, own: bool) -> dict[str, str | None]:
    return {"prompt": prompt if own else prompt or None, "negative": negative if own else negative or None}


class CascadeStage(io.ComfyNode):
    """File and settings of one stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeStage",
            display_name="IF Stage Settings",
            category=shared.CATEGORY,
            description="File and settings of one stage for IF Text to Image. Nothing is loaded here.",
            search_aliases=["DeepFloyd stage", "IF settings", "stage II", "super resolution settings"],
            inputs=[
                shared.stage_file_input(),
                shared.spacing_input("smart50"),
                shared.cfg_input(
                    7.0, "Guidance scale (CFG). IF uses 7 in stage I and 4 in stages II and III."
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(host_cascade.SAMPLERS),
                    default=host_cascade.LEARNED_RANGE,
                    optional=True,
                    tooltip="learned_range uses the variance that the stage predicts. Every sampler of ComfyUI works too.",
                ),
                *shared.stage_threshold_inputs(),
                *shared.low_res_inputs(
                    "Stages II and III: how many times larger than the image of the stage below.",
                    "Stages II and III: noise added to the image of the stage below, from 0 to 1.",
                    "Stages II and III: the same noise at every step (fixed, diffusers) or new noise (fresh, IF).",
                    "Stages II and III: blur of the image of the stage below, as sigma in pixels.",
                    optional=True,
                ),
                _prompt_input("prompt", "prompt"),
                _prompt_input("negative", "negative prompt"),
                shared.schedule_input(),
                shared.weight_dtype_input(),
                _own_prompts_input(),
            ],
            outputs=[
                StageSettings.Output(display_name="stage", tooltip="The stage with its settings, for IF.")
            ],
        )

    @classmethod
    def validate_inputs(cls, stage_file=None, spacing="50") -> bool | str:
        listed = host_files.check(host_files.STAGES, stage_file)
        return first_problem((respaced_timesteps, spacing)) if listed is True else listed

    @classmethod
    def execute(
        cls,
        stage_file,
        spacing,
        cfg,
        sampler=host_cascade.LEARNED_RANGE,
        threshold=shared.STAGE_DEFAULT,
        percentile=0.95,
        cap=1.5,
        scale=4.0,
        aug_level=0.25,
        aug_noise="fixed",
        blur=0.0,
        prompt="",
        negative="",
        schedule="cosine",
        weight_dtype="default",
        own_prompts=False,
    ) -> io.NodeOutput:
        stage = host_cascade.Stage(
            file=stage_file, spacing=spacing, cfg=cfg, sampler=sampler,
            threshold=shared.stage_threshold(threshold, percentile, cap),
            schedule=schedule, weight_dtype=weight_dtype, scale=scale, aug_level=aug_level,
            fresh_noise=aug_noise == "fresh", blur=blur, **_prompts(prompt, negative, own_prompts),
        )  # fmt: skip
        return io.NodeOutput(stage)


class CascadeUpscaler(io.ComfyNode):
    """Core's x4 upscaler as the last stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeUpscaler",
            display_name="IF x4 Upscaler Settings",
            category=shared.CATEGORY,
            description="The Stable Diffusion x4 upscaler as the last stage, which is IF's released stage III. Nothing is "
            "loaded here.",
            search_aliases=["stage III", "x4 upscaler", "SD upscaler", "DeepFloyd stage III"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=host_files.choices(host_files.CHECKPOINTS),
                    tooltip="The x4 upscaler checkpoint with its text encoder and VAE, from models/checkpoints.",
                ),
                io.Int.Input("steps", default=75, min=1, max=1000, tooltip="Sampling steps."),
                shared.cfg_input(9.0),
                io.Combo.Input(
                    "sampler",
                    options=list(host_cascade.SAMPLERS[1:]),
                    default="ddim",
                    optional=True,
                    tooltip="One of core's samplers.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(host_cascade.SCHEDULERS),
                    default="normal",
                    optional=True,
                    tooltip="One of core's schedulers.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.057,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=0.001,
                    optional=True,
                    tooltip="Noise augmentation: 1 is level 350, 0.057 is level 20 (diffusers' noise_level).",
                ),
                _prompt_input("prompt", "prompt"),
                _prompt_input("negative", "negative prompt"),
                _own_prompts_input(),
            ],
            outputs=[
                UpscalerSettings.Output(
                    display_name="upscaler", tooltip="The upscaler with its settings, for IF."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint=None) -> bool | str:
        return host_files.check(host_files.CHECKPOINTS, checkpoint)

    @classmethod
    def execute(
        cls,
        checkpoint,
        steps,
        cfg,
        sampler="ddim",
        scheduler="normal",
        noise=0.057,
        prompt="",
        negative="",
        own_prompts=False,
    ) -> io.NodeOutput:
        prompts = _prompts(prompt, negative, own_prompts)
        return io.NodeOutput(
            host_cascade.LatentUpscaler(checkpoint, steps, cfg, sampler, scheduler, noise, **prompts)
        )


class Cascade(io.ComfyNode):
    """Text to image through all stages, one model in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascade",
            display_name="IF Text to Image",
            category=shared.CATEGORY,
            description="DeepFloyd IF in one node: loads T5 and stages I, II and III by file name, one after the other, and frees "
            "each from VRAM and RAM before the next. Peak memory is that of the largest single model.",
            search_aliases=[
                "DeepFloyd IF",
                "Imagen",
                "pixel diffusion",
                "pixel space",
                "text to image",
                "cascade",
                "IF pipeline",
            ],
            inputs=[
                shared.t5_file_input(),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.String.Input(
                    "negative", default="", multiline=True, tooltip="The negative prompt; usually empty."
                ),
                StageSettings.Input("stage_1", tooltip="Stage I: text to a small image."),
                io.Int.Input(
                    "width",
                    default=64,
                    min=16,
                    max=1024,
                    step=8,
                    tooltip="Width of stage I in pixels. Stage I was trained with 64 pixels on the short side.",
                ),
                io.Int.Input(
                    "height", default=64, min=16, max=1024, step=8, tooltip="Height of stage I in pixels."
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Number of images."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Random seed of all noise, the same in every stage.",
                ),
                StageSettings.Input("stage_2", optional=True, tooltip="Stage II: four times larger."),
                StageSettings.Input(
                    "stage_3", optional=True, tooltip="Stage III in pixels: four times larger again."
                ),
                UpscalerSettings.Input(
                    "upscaler", optional=True, tooltip="The x4 upscaler after the last pixel stage."
                ),
                io.Boolean.Input(
                    "clean_caption",
                    default=False,
                    optional=True,
                    tooltip="Clean prompts as IF's training captions were. This also removes the brackets of prompt weights.",
                ),
                *shared.t5_settings_inputs("t5_"),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The images of the last stage."),
                io.Image.Output(id="first", display_name="stage I", tooltip="The images of stage I."),
                io.Image.Output(id="second", display_name="stage II", tooltip="The images of stage II."),
                io.String.Output(display_name="memory", tooltip="Peak memory of each stage."),
            ],
        )

    @classmethod
    def validate_inputs(cls, t5_file=None) -> bool | str:
        return host_files.check(host_files.ENCODERS, t5_file)

    @classmethod
    def execute(
        cls,
        t5_file,
        prompt,
        negative,
        stage_1,
        width,
        height,
        batch_size,
        seed,
        stage_2=None,
        stage_3=None,
        upscaler=None,
        clean_caption=False,
        t5_weight_dtype="default",
        t5_device="default",
    ) -> io.NodeOutput:
        job = host_cascade.Job(
            t5_file,
            prompt,
            negative,
            width,
            height,
            batch_size,
            seed,
            clean_caption,
            t5_weight_dtype,
            t5_device,
        )
        stages = [stage for stage in (stage_1, stage_2, stage_3) if stage is not None]
        result = host_cascade.run_cascade(job, stages, upscaler)
        images = [host_cascade.as_images(pixels) for pixels in result.images]
        second = images[1] if len(images) > 1 else images[0]
        return io.NodeOutput(
            images[-1], images[0], second, result.ledger.text(), ui=ui.PreviewImage(images[-1], cls=cls)
        )
