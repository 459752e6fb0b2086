"""The demo models: a tiny Stable Diffusion that comes with the pack, and a classifier for its images."""

from comfy_api.latest import io

from ..demo_models import host
from .show import shown


class Loader(io.ComfyNode):
    """U-Net, text encoder, VAE, image encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierLoader",
            display_name="Load Demo Model",
            category="blockwork/demo models",
            description="Loads a tiny Stable Diffusion that comes with the pack: SD1's 12 / 1 / 12 blocks, a tenth as wide, "
            "trained on drawn shapes. It makes images of 128 x 128 pixels in about two seconds on a CPU. Use it to try merging, block "
            "prompts and deprojecting without a checkpoint.",
            search_aliases=[
                "demo model",
                "tiny stable diffusion",
                "toy checkpoint",
                "Load Checkpoint",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(host.MODELS),
                    default="base",
                    tooltip="base: shaded objects in four styles. ink: a fine-tune with outlines on paper. night: a fine-tune with glowing "
                    "shapes on dark. Text encoder and VAE are the same for all three.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The U-Net; sample it at 128 x 128 pixels."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Knows shapes, colours, textures, sizes, places and backgrounds.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Four channels at a quarter of the size."),
                io.ClipVision.Output(
                    display_name="clip_vision",
                    tooltip="The image encoder that was trained together with the text encoder.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model="base") -> io.NodeOutput:
        return io.NodeOutput(
            host.load_model(model), host.load_clip(), host.load_vae(), host.load_clip_vision()
        )


class Judge(io.ComfyNode):
    """A small classifier for images of one object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierJudge",
            display_name="Classify Demo Image",
            category="blockwork/demo models",
            description="Classifies images of the demo models: shape, colour, texture, background and style, each with its "
            "probability. Use it to measure what a block, a merge or an embedding does.",
            search_aliases=["classifier", "score image", "evaluate", "judge"],
            inputs=[io.Image.Input("image", tooltip="Images of a demo model; other sizes are resampled to 64 x 64.")],
            outputs=[io.String.Output("reading", display_name="reading", tooltip="One line per image.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        reading = host.reading(image)
        return io.NodeOutput(reading, ui=shown(reading))
