"""Loaders: a pixel stage, its T5, and LoRAs for it."""

from comfy_api.latest import io

from ..cascade import host_files, host_load, host_text
from . import cascade_inputs as shared


class StageLoader(io.ComfyNode):
    """An IF stage file as a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeStageLoader",
            display_name="Cascade Stage Loader",
            category=shared.CATEGORY,
            description="Loads a DeepFloyd IF stage (I, II or III; original or diffusers format; everything derived "
            "from the tensors) as a MODEL that every sampler works with, its threshold attached.",
            search_aliases=[
                "DeepFloyd",
                "IF",
                "Imagen",
                "pixel diffusion",
                "load diffusion model",
                "stage I",
            ],
            inputs=[
                shared.stage_file_input(),
                *shared.stage_threshold_inputs(),
                shared.schedule_input(),
                shared.weight_dtype_input(),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, stage_file=None) -> bool | str:
        return host_files.check(host_files.STAGES, stage_file)

    @classmethod
    def execute(
        cls,
        stage_file,
        threshold=shared.STAGE_DEFAULT,
        percentile=0.95,
        cap=1.5,
        schedule="cosine",
        weight_dtype="default",
    ) -> io.NodeOutput:
        path = host_files.locate(host_files.STAGES, stage_file)
        chosen = shared.stage_threshold(threshold, percentile, cap)
        return io.NodeOutput(host_load.prepared_stage(path, weight_dtype, schedule, chosen))


class T5Loader(io.ComfyNode):
    """A T5 encoder as IF reads it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeT5Loader",
            display_name="Cascade T5 Loader",
            category=shared.CATEGORY,
            description="Loads a T5 v1.1 encoder the way IF uses it: 77 tokens, padding masked, longer prompts cut "
            "with a warning. Prompt weights, embeddings and core's CLIP Text Encode work.",
            search_aliases=["DeepFloyd", "IF", "T5 XXL", "text encoder", "load CLIP"],
            inputs=[shared.t5_file_input()],
            outputs=[io.Clip.Output(display_name="clip")],
        )

    @classmethod
    def validate_inputs(cls, t5_file=None) -> bool | str:
        return host_files.check(host_files.ENCODERS, t5_file)

    @classmethod
    def execute(cls, t5_file) -> io.NodeOutput:
        return io.NodeOutput(host_text.load_t5(host_files.locate(host_files.ENCODERS, t5_file)))


class LoraLoader(io.ComfyNode):
    """A LoRA for a stage, under any of the names such files use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeLora",
            display_name="Cascade LoRA",
            category=shared.CATEGORY,
            description="Applies a LoRA to an IF stage. Reads kohya names, as core's loader does, and also PEFT's and "
            "those of diffusers' old attention processors, which IF's DreamBooth scripts wrote.",
            search_aliases=["DeepFloyd LoRA", "IF LoRA", "DreamBooth", "PEFT"],
            inputs=[
                io.Model.Input("model", tooltip="The stage."),
                io.Combo.Input(
                    "lora_file",
                    options=host_files.choices(host_files.LORAS),
                    tooltip="The LoRA, from models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.05,
                    tooltip="How much of the LoRA is added; negative takes it away.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, lora_file=None) -> bool | str:
        return host_files.check(host_files.LORAS, lora_file)

    @classmethod
    def execute(cls, model, lora_file, strength) -> io.NodeOutput:
        path = host_files.locate(host_files.LORAS, lora_file)
        return io.NodeOutput(host_load.with_lora(model, path, strength))
