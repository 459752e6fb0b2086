"""The whole cascade in one node, and the settings of its stages."""

from comfy_api.latest import io, ui

from ..cascade import host_cascade, host_files
from . import cascade_inputs as shared

StageSettings = io.Custom("BLOCKWORK_CASCADE_STAGE")
UpscalerSettings = io.Custom("BLOCKWORK_CASCADE_UPSCALER")


def _prompt_input(name: str, label: str):
    return io.String.Input(
        name,
        default="",
        multiline=True,
        optional=True,
        tooltip=f"A {label} for this stage alone; empty takes the cascade's.",
    )


class CascadeStage(io.ComfyNode):
    """File and settings of one stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeStage",
            display_name="Cascade Stage Settings",
            category=shared.CATEGORY,
            description="File and settings of one stage for the Cascade node. Nothing is loaded here.",
            search_aliases=["DeepFloyd stage", "IF settings", "stage II", "super resolution settings"],
            inputs=[
                shared.stage_file_input(),
                shared.spacing_input("smart50"),
                shared.cfg_input(7.0, "Strength of guidance: IF uses 7 in stage I and 4 above."),
                io.Combo.Input(
                    "sampler",
                    options=list(host_cascade.SAMPLERS),
                    default=host_cascade.LEARNED_RANGE,
                    optional=True,
                    tooltip="learned_range reads the variance the stage predicts; any of core's samplers works too.",
                ),
                *shared.stage_threshold_inputs(),
                *shared.low_res_inputs(
                    "Stages II and III: how many times larger than the stage below.",
                    "Stages II and III: noise that hides the details of the picture from below.",
                    "Stages II and III: one draw of that noise (diffusers) or a new one at every call (IF).",
                    "Stages II and III: blur of the picture from below, as sigma in pixels.",
                    optional=True,
                ),
                _prompt_input("prompt", "prompt"),
                _prompt_input("negative", "negative prompt"),
                shared.schedule_input(),
                shared.weight_dtype_input(),
            ],
            outputs=[StageSettings.Output(display_name="stage")],
        )

    @classmethod
    def validate_inputs(cls, stage_file=None) -> bool | str:
        return host_files.check(host_files.STAGES, stage_file)

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
    ) -> io.NodeOutput:
        stage = host_cascade.Stage(
            file=stage_file, spacing=spacing, cfg=cfg, sampler=sampler,
            threshold=shared.stage_threshold(threshold, percentile, cap),
            schedule=schedule, weight_dtype=weight_dtype, prompt=prompt or None, negative=negative or None,
            scale=scale, aug_level=aug_level, fresh_noise=aug_noise == "fresh", blur=blur,
        )  # fmt: skip
        return io.NodeOutput(stage)


class CascadeUpscaler(io.ComfyNode):
    """Core's x4 upscaler as the last stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeUpscaler",
            display_name="Cascade x4 Upscaler Settings",
            category=shared.CATEGORY,
            description="The Stable Diffusion x4 upscaler as the last stage of a cascade, which is how IF's released "
            "stage III works. Nothing is loaded here.",
            search_aliases=["stage III", "x4 upscaler", "SD upscaler", "DeepFloyd stage III"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=host_files.choices(host_files.CHECKPOINTS),
                    tooltip="The x4 upscaler checkpoint with its CLIP and VAE, from models/checkpoints.",
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
                    tooltip="Noise augmentation, 1 being level 350; 0.057 is level 20.",
                ),
                _prompt_input("prompt", "prompt"),
                _prompt_input("negative", "negative prompt"),
            ],
            outputs=[UpscalerSettings.Output(display_name="upscaler")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint=None) -> bool | str:
        return host_files.check(host_files.CHECKPOINTS, checkpoint)

    @classmethod
    def execute(
        cls, checkpoint, steps, cfg, sampler="ddim", scheduler="normal", noise=0.057, prompt="", negative=""
    ) -> io.NodeOutput:
        return io.NodeOutput(
            host_cascade.LatentUpscaler(
                checkpoint, steps, cfg, sampler, scheduler, noise, prompt or None, negative or None
            )
        )


class Cascade(io.ComfyNode):
    """Text to picture through all stages, one model in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascade",
            display_name="Cascade",
            category=shared.CATEGORY,
            description="The whole IF cascade: T5, stage I, II and III are loaded by file name one after the other, each "
            "freed from VRAM and RAM before the next, so that the largest single model is what has to fit.",
            search_aliases=["DeepFloyd IF", "Imagen", "pixel diffusion", "text to image", "cascade pipeline"],
            inputs=[
                shared.t5_file_input(),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, tooltip="What to draw."),
                io.String.Input(
                    "negative", default="", multiline=True, tooltip="What to move away from; usually empty."
                ),
                StageSettings.Input("stage_1", tooltip="Stage I: text to a small picture."),
                io.Int.Input(
                    "width",
                    default=64,
                    min=16,
                    max=1024,
                    step=8,
                    tooltip="Width of stage I in pixels; the short side was trained at 64.",
                ),
                io.Int.Input(
                    "height", default=64, min=16, max=1024, step=8, tooltip="Height of stage I in pixels."
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many pictures."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of all noise, the same in every stage.",
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
                    tooltip="Clean prompts as IF's training captions were; ends prompt weights.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Image.Output(id="first", display_name="stage I"),
                io.Image.Output(id="second", display_name="stage II"),
                io.String.Output(display_name="memory"),
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
    ) -> io.NodeOutput:
        job = host_cascade.Job(t5_file, prompt, negative, width, height, batch_size, seed, clean_caption)
        stages = [stage for stage in (stage_1, stage_2, stage_3) if stage is not None]
        result = host_cascade.run_cascade(job, stages, upscaler)
        images = [host_cascade.as_images(picture) for picture in result.pictures]
        second = images[1] if len(images) > 1 else images[0]
        return io.NodeOutput(
            images[-1], images[0], second, result.ledger.text(), ui=ui.PreviewImage(images[-1], cls=cls)
        )
