"""The atelier: a tiny model family of the pack's own, for trying everything before owning any checkpoint."""

from comfy_api.latest import io, ui

from ..atelier import host


class Loader(io.ComfyNode):
    """The latent family: U-Net, text encoder, autoencoder, image tower."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierLoader",
            display_name="Load Atelier Model",
            category="blockwork/atelier",
            description="Loads a tiny Stable Diffusion that comes with the pack: SD1's 12 / 1 / 12 blocks, a fifth as wide, "
            "trained on drawn shapes. It makes pictures of 64 x 64 pixels in a second on a CPU, so that merging, block "
            "prompts and deprojecting can be tried and understood before any checkpoint is at hand.",
            search_aliases=[
                "atelier",
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
                    tooltip="base: flat shapes. ink: a fine-tune that draws outlines on paper. night: a fine-tune that glows "
                    "in the dark. Text encoder and autoencoder are the same for all three.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The U-Net; sample it at 64 x 64 pixels."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Knows shapes, colours, textures, sizes, places and backgrounds.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Four channels at a quarter of the size."),
                io.ClipVision.Output(
                    display_name="clip_vision",
                    tooltip="The image tower the text encoder was trained against.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model="base") -> io.NodeOutput:
        return io.NodeOutput(
            host.load_model(model), host.load_clip(), host.load_vae(), host.load_clip_vision()
        )


class Judge(io.ComfyNode):
    """What a small classifier sees in a picture of one thing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAtelierJudge",
            display_name="Judge Atelier Picture",
            category="blockwork/atelier",
            description="Reads pictures of one drawn thing each: shape, colour, texture, background, style, and how sure it "
            "is of each. A measure of what a block, a merge or an embedding does, without looking.",
            search_aliases=["atelier", "classifier", "score image", "evaluate", "what is in the picture"],
            inputs=[io.Image.Input("image", tooltip="Pictures of an atelier model; other sizes are resampled to 64 x 64.")],
            outputs=[io.String.Output("reading", display_name="reading", tooltip="One line per picture.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        reading = host.reading(image)
        return io.NodeOutput(reading, ui=ui.PreviewText(reading))
