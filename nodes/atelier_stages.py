"""The atelier's pixel cascade, for trying stages, samplers and thresholds before owning IF."""

from comfy_api.latest import io

from ..atelier import host as atelier
from ..atelier.stages import stage_file
from ..cascade.host_load import prepared_stage


class Stages(io.ComfyNode):
    """Both stages and their text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierStages",
            display_name="Load Atelier Stages",
            category="blockwork/atelier",
            description="Loads a tiny pixel cascade that comes with the pack: DeepFloyd IF's U-Net with learned variance, "
            "trained on drawn shapes. Stage I draws 16 x 16 pixels from text, stage II makes 64 x 64 of them. IF "
            "nodes, thresholds and core's samplers work with it as with IF itself, in seconds on a CPU.",
            search_aliases=[
                "atelier",
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
        return io.NodeOutput(*models, atelier.load_clip())
