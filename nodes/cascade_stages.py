"""Loaders: an IF stage, its T5, and LoRAs for it."""

from comfy_api.latest import io

from ..cascade import host_files, host_load, host_t5
from . import cascade_inputs as shared


class StageLoader(io.ComfyNode):
    """An IF stage file as a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeStageLoader",
            display_name="IF Stage Loader",
            category=shared.CATEGORY,
            description="Loads a DeepFloyd IF stage (I, II or III, original or diffusers format) as a MODEL for every "
            "sampler, with its default threshold. Needs no config file.",
            search_aliases=[
                "DeepFloyd",
                "IF",
                "Imagen",
                "pixel diffusion",
                "pixel space",
                "load diffusion model",
                "stage I",
            ],
            inputs=[
                shared.stage_file_input(),
                *shared.stage_threshold_inputs(),
                shared.schedule_input(),
                shared.weight_dtype_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The stage as a MODEL for ComfyUI's samplers.")
            ],
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
            display_name="IF T5 Loader",
            category=shared.CATEGORY,
            description="Loads a T5 v1.1 encoder as IF uses it: 77 tokens, padding masked, longer prompts truncated with a "
            "warning. fp16, fp8 and scaled fp8 files work, and so do prompt weights, embeddings and CLIP Text Encode.",
            search_aliases=["DeepFloyd", "IF", "T5 XXL", "text encoder", "load CLIP"],
            inputs=[shared.t5_file_input(), *shared.t5_settings_inputs()],
            outputs=[io.Clip.Output(display_name="clip", tooltip="The T5 text encoder.")],
        )

    @classmethod
    def validate_inputs(cls, t5_file=None) -> bool | str:
        return host_files.check(host_files.ENCODERS, t5_file)

    @classmethod
    def execute(cls, t5_file, weight_dtype="default", device="default") -> io.NodeOutput:
        path = host_files.locate(host_files.ENCODERS, t5_file)
        return io.NodeOutput(host_t5.load_t5(path, weight_dtype, device))


class LoraLoader(io.ComfyNode):
    """A LoRA for a stage, in any of the three key formats."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeLora",
            display_name="IF LoRA",
            category=shared.CATEGORY,
            description="Applies a LoRA to an IF stage. Reads kohya keys, as Load LoRA does, PEFT keys, and the keys of "
            "diffusers' old attention processors, which IF's DreamBooth scripts wrote.",
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
                    tooltip="Strength of the LoRA. Negative values subtract it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The stage with the LoRA; the input is not changed."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_file=None) -> bool | str:
        return host_files.check(host_files.LORAS, lora_file)

    @classmethod
    def execute(cls, model, lora_file, strength) -> io.NodeOutput:
        path = host_files.locate(host_files.LORAS, lora_file)
        return io.NodeOutput(host_load.with_lora(model, path, strength))
