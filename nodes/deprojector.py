"""Deprojection: text and image embeddings, and their sums, as Stable Diffusion 1 conditioning."""

from comfy_api.latest import io

from ..deprojector.algebra import MERGES, NORMS
from ..deprojector.host import conditioning, texts
from ..deprojector.host.models import Shaping
from .checks import first_problem, listed

CATEGORY = "blockwork/deprojector"
Deprojector = io.Custom("BLOCKWORK_DEPROJECTOR")
TextEmbedding = io.Custom("BLOCKWORK_EMBEDDING")


def deprojector_input() -> io.Input:
    """The input for a deprojector."""
    return Deprojector.Input("deprojector", tooltip="The deprojector, from Load Deprojector.")


def clip_input(tooltip: str, optional: bool = False) -> io.Input:
    """The input for a CLIP."""
    return io.Clip.Input("clip", optional=optional, tooltip=tooltip)


def _weight(name: str, tooltip: str):
    return io.Float.Input(
        name, default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=tooltip
    )


def _shaping() -> list[io.Input]:
    """The inputs that become a ``Shaping``, and the choice of the constant rows."""
    return [
        io.Int.Input("rows", default=77, min=1, max=77, optional=True, tooltip="Number of tokens (rows of hidden states) to make. Fewer than 77 cut off the end of the text; SD1 accepts any number."),
        io.Boolean.Input("exact_end", default=False, optional=True, advanced=True, tooltip="Replaces the row of the end token by the embedding, which it equals in a true encoding."),
        io.Int.Input("end_row", default=0, min=0, max=76, optional=True, advanced=True, tooltip="Row of the end token. 0: the row most similar to the embedding."),
        _weight("noise_after_end", "Weight of standard normal noise in the rows after the end token."),
        _weight("null_after_end", "Weight of the empty text's embedding in the rows after the end token."),
        _weight("mask_after_end", "Fades the rows after the end token: 0 keeps them, 1 sets them to zero."),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, advanced=True, tooltip="Seed of the noise."),
        io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, advanced=True, tooltip="Source of the start row and the empty text's row: the deprojector's file, or the connected CLIP (better for a fine-tuned text encoder)."),
        clip_input("Needed when constant_rows is clip.", optional=True),
    ]  # fmt: skip


def _text_inputs() -> list[io.Input]:
    """The inputs of ``texts.merge_texts``."""
    return [
        io.String.Input("text", default="cat ears, maid:0.8", multiline=True, tooltip="Texts with weights: cat:1.2, (maid, standing:-0.3). In brackets, commas are text. A backslash makes a comma or colon text: \\, and \\:. An empty input is the empty text."),
        io.Combo.Input("separator", options=["comma", "line"], default="comma", optional=True, tooltip="Separates the texts: a comma, or a line break."),
        io.Combo.Input("merge", options=list(MERGES), default="difference", optional=True, tooltip="difference: the empty text plus weighted differences from it (what the deprojector was trained on); sum: weighted sum; mean: weighted mean."),
        io.Combo.Input("norm", options=list(NORMS), default="off", optional=True, tooltip="Length of the result. off: as it comes out; original: the mean length of the texts' embeddings, as the author's code computes it; consistent: the mean length of what was added, for difference too."),
    ]  # fmt: skip


def _settings(options: dict) -> tuple[Shaping, tuple | None]:
    """The shaping and the constant rows that the optional inputs ask for."""
    names = {"noise": "noise_after_end", "null": "null_after_end", "mask": "mask_after_end"}
    plain = {name: name for name in ("rows", "exact_end", "end_row", "seed")}
    given = {field: options[name] for field, name in (names | plain).items() if name in options}
    return Shaping(**given), texts.chosen_rows(options.get("constant_rows", "file"), options.get("clip"))


class DeprojectConditioning(io.ComfyNode):
    """New hidden states for conditioning, from its pooled embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkDeprojectConditioning",
            display_name="Deproject Conditioning",
            category=CATEGORY,
            description="Replaces the hidden states of SD1 conditioning by those that the deprojector makes from its pooled embedding. Areas, masks, hooks, strengths and the pooled embedding are kept. All entries run as one batch.",
            search_aliases=["deproject", "deprojector", "pooled to conditioning", "conditioning average", "embedding to conditioning"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="SD1 conditioning. Averages of conditioning work well: their pooled embeddings are averaged too."),
                deprojector_input(),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning. Passed on unchanged unless deproject_negative is on."),
                io.Boolean.Input("deproject_positive", default=True, optional=True, tooltip="Off: passes the positive conditioning on unchanged."),
                io.Boolean.Input("deproject_negative", default=False, optional=True, tooltip="On: deprojects the negative prompt too. The author's code never does."),
                *_shaping(),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive", tooltip="The positive conditioning with new hidden states."),
                io.Conditioning.Output("negative_out", display_name="negative", tooltip="The negative conditioning; empty when none is connected."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        positive,
        deprojector,
        negative=None,
        deproject_positive=True,
        deproject_negative=False,
        **options,
    ) -> io.NodeOutput:
        shaping, rows = _settings(options)
        lists = [positive, negative or []]
        wanted = [deproject_positive, deproject_negative]
        return io.NodeOutput(*conditioning.switched(deprojector, lists, wanted, shaping, rows))


class EncodeAndMerge(io.ComfyNode):
    """Texts encoded one by one, their embeddings added and deprojected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkEncodeAndMerge",
            display_name="Encode and Merge Texts",
            category=CATEGORY,
            description="Encodes every text of a list on its own, adds the embeddings with their weights, and deprojects the sum: cat:1.2, maid:-0.3.",
            search_aliases=["pooled encoding", "prompt arithmetic", "embedding arithmetic", "merge prompts", "deprojector"],
            inputs=[
                clip_input("The CLIP of an SD1 checkpoint."),
                deprojector_input(),
                *_text_inputs(),
                *_shaping()[:-2],
                io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, advanced=True, tooltip="Source of the start row and the empty text's row: the deprojector's file, or this CLIP."),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The deprojected sum."),
                TextEmbedding.Output("embedding", display_name="embedding", tooltip="The sum itself, for Mix Embeddings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text=None, separator="comma"):
        return first_problem(listed(cls, separator=separator), (texts.chunks, text, separator))

    @classmethod
    def execute(
        cls, clip, deprojector, text, separator="comma", merge="difference", norm="off", **options
    ) -> io.NodeOutput:
        embedding = texts.merge_texts(clip, text, separator, merge, norm)
        shaping, rows = _settings({**options, "clip": clip})
        return io.NodeOutput(
            conditioning.embedding_conditioning(deprojector, embedding, shaping, rows), embedding
        )


class TextToEmbedding(io.ComfyNode):
    """Texts as one embedding, not yet deprojected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkTextToEmbedding",
            display_name="Text to Embedding",
            category=CATEGORY,
            description="Encodes every text of a list on its own and adds the embeddings with their weights: cat:1.2, maid:-0.3. Encode and Merge Texts does the same and deprojects at once.",
            search_aliases=["text embedding", "pooled encoding", "prompt arithmetic", "embedding arithmetic", "merge prompts", "deprojector"],
            inputs=[clip_input("The CLIP of an SD1 checkpoint."), *_text_inputs()],
            outputs=[TextEmbedding.Output("embedding", display_name="embedding", tooltip="The sum, for Mix Embeddings or Deproject Embedding.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text=None, separator="comma"):
        return first_problem(listed(cls, separator=separator), (texts.chunks, text, separator))

    @classmethod
    def execute(cls, clip, text, separator="comma", merge="difference", norm="off") -> io.NodeOutput:
        return io.NodeOutput(texts.merge_texts(clip, text, separator, merge, norm))


class ImageToEmbedding(io.ComfyNode):
    """An image's CLIP embedding in the text encoder's space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkImageToEmbedding",
            display_name="Image to Embedding",
            category=CATEGORY,
            description="Converts a CLIP image embedding (ViT-L/14) to the space of SD1's pooled text embeddings, so that images and texts can be added: P(image - base) + empty text.",
            search_aliases=["image to prompt", "clip vision to text", "image encoding", "deprojector", "img2txt embedding"],
            inputs=[
                io.ClipVisionOutput.Input("image", tooltip="From CLIP Vision Encode with clip-vit-large-patch14."),
                deprojector_input(),
                clip_input("The CLIP of an SD1 checkpoint; encodes the empty text."),
                io.ClipVisionOutput.Input("base", optional=True, tooltip="A neutral image (grey, or the mean of many). Only the difference from it is used."),
                io.Combo.Input("norm", options=["keep", "text"], default="keep", optional=True, tooltip="keep: as it is; text: scales the difference from the empty text to the length of a short text's."),
            ],
            outputs=[TextEmbedding.Output("embedding", display_name="embedding", tooltip="One embedding per image.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, deprojector, clip, base=None, norm="keep") -> io.NodeOutput:
        return io.NodeOutput(
            texts.image_embedding(deprojector.module.inverse_projection(), clip, image, base, norm)
        )


class MixEmbeddings(io.ComfyNode):
    """Two embeddings as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMixEmbeddings",
            display_name="Mix Embeddings",
            category=CATEGORY,
            description="Interpolates between two embeddings (lerp, or slerp around the empty text), or adds a multiple of the second to the first.",
            search_aliases=["slerp", "lerp", "interpolate prompts", "add embedding", "subtract embedding", "deprojector"],
            inputs=[
                TextEmbedding.Input("first", tooltip="The embedding at amount 0."),
                TextEmbedding.Input("second", tooltip="The embedding at amount 1, or the one to add."),
                io.Combo.Input("method", options=["add", "lerp", "slerp"], default="add", tooltip="add: first + amount * (second - empty text); lerp: a straight line; slerp: an arc around the empty text."),
                io.Float.Input("amount", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Position between the two, or how much to add; negative subtracts."),
            ],
            outputs=[TextEmbedding.Output("embedding", display_name="embedding", tooltip="The mixed embedding.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, first, second, method, amount) -> io.NodeOutput:
        return io.NodeOutput(texts.mix(first, second, method, amount))


class DeprojectEmbedding(io.ComfyNode):
    """Conditioning from an embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkDeprojectEmbedding",
            display_name="Deproject Embedding",
            category=CATEGORY,
            description="Makes SD1 conditioning from an embedding: of a text, an image, or a mix of them.",
            search_aliases=["deproject", "embedding to conditioning", "deprojector"],
            inputs=[
                TextEmbedding.Input("embedding", tooltip="The embedding to make hidden states for."),
                deprojector_input(),
                *_shaping(),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="Hidden states for SD1.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, embedding, deprojector, **options) -> io.NodeOutput:
        shaping, rows = _settings(options)
        return io.NodeOutput(conditioning.embedding_conditioning(deprojector, embedding, shaping, rows))
