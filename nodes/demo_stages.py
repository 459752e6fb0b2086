"""The demo models' pixel stages, for trying IF nodes, samplers and thresholds without IF's files."""

from comfy_api.latest import io

from ..cascade.host_load import prepared_stage
from ..demo_models import host as demo_models
from ..demo_models.stages import stage_file


class Stages(io.ComfyNode):
    """Both stages and their text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierStages",
            display_name="Load Demo IF Stages",
            category="blockwork/demo models",
            description="Loads two tiny pixel-space stages that come with the pack: DeepFloyd IF's U-Net with learned variance, "
            "trained on drawn shapes. Stage I makes 16 x 16 pixels from text, stage II upscales them to 64 x 64. The IF "
            "nodes, thresholds and core's samplers work with them as with IF, in seconds on a CPU.",
            search_aliases=[
                "demo model",
                "tiny DeepFloyd IF",
                "pixel diffusion",
                "stage I",
                "stage II",
            ],
            outputs=[
                io.Model.Output("stage_1", display_name="stage I", tooltip="Sample it at 16 x 16 pixels."),
                io.Model.Output(
                    "stage_2",
                    display_name="stage II",
                    tooltip="Sample it at 64 x 64 pixels, after IF Low-Res.",
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Knows shapes, colours, textures, sizes, places and backgrounds; for CLIP Text Encode.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        models = [prepared_stage(str(stage_file(stage))) for stage in ("I", "II")]
        return io.NodeOutput(*models, demo_models.load_clip())
