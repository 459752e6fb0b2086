"""XTI: concepts with one token embedding per cross-attention layer, loaded, mixed, encoded, saved and read."""

from comfy_api.latest import io

from ..injection import host, host_xti
from ..injection import xti as xti_files
from ..injection.concept import mix
from ..injection.host_density import density_report
from .checks import first_problem
from .show import shown

CATEGORY = "blockwork/injection/xti"
GEOMETRY = "IN08, M00"  # the layers that carry shape, by the style mixing of P+
Concept = io.Custom("BLOCKWORK_XTI")


class LoadXTI(io.ComfyNode):
    """Loads a concept from an embedding file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkLoadXTI",
            display_name="Load XTI",
            category=CATEGORY,
            description="Loads an extended textual inversion (one embedding per layer of SD1's U-Net) as kohya, promptplusplus or prompt-plus write it, or a plain textual inversion.",
            search_aliases=["extended textual inversion", "P+", "prompt plus", "XTI embedding", "load embedding"],
            inputs=[
                io.Combo.Input("file", options=host_xti.files(), tooltip="A file of models/embeddings."),
                io.String.Input("token", default="", optional=True, tooltip="The concept's name, written <name> in prompts; empty: the name that the file was saved with, or the file's name."),
            ],
            outputs=[Concept.Output("xti", tooltip="The concept.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file, token=""):
        status = host_xti.path_of(file).stat()
        return [token, status.st_mtime_ns, status.st_size]

    @classmethod
    def execute(cls, file, token="") -> io.NodeOutput:
        return io.NodeOutput(xti_files.load(host_xti.path_of(file), token.strip().strip("<>")))


class MixXTI(io.ComfyNode):
    """Style mixing: some layers of one concept, the rest of another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMixXTI",
            display_name="Mix XTI",
            category=CATEGORY,
            description="Takes the named layers from the second concept and the others from the first. P+ takes geometry from IN08 and M00 and appearance from the rest.",
            search_aliases=["XTI style mixing", "P+ style mix", "mix embeddings by layer"],
            inputs=[
                Concept.Input("first", tooltip="The concept of all other layers; its name is kept."),
                Concept.Input("second", tooltip="The concept of the named layers."),
                io.String.Input("blocks", default=GEOMETRY, optional=True, extra_dict={"widgetType": "BLOCKWORK_SPEC"}, tooltip="Layers taken from the second concept, as SD1 blocks: IN08, (16,down,1)-(8,down,0), coarse, idx:4-6."),
            ],
            outputs=[Concept.Output("xti", tooltip="The mixed concept.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, blocks=GEOMETRY):
        return first_problem((host_xti.check_layers, blocks))

    @classmethod
    def execute(cls, first, second, blocks=GEOMETRY) -> io.NodeOutput:
        return io.NodeOutput(mix(first, second, host_xti.mixed_layers(blocks, first)))


class EncodeXTI(io.ComfyNode):
    """Encodes a prompt with concepts in it, for all layers at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkEncodeXTI",
            display_name="XTI Encode",
            category=CATEGORY,
            description="A prompt with concepts written <name>, encoded for each of the 16 layers in one CLIP call, and injected layer by layer.",
            search_aliases=["XTI prompt", "extended textual inversion prompt", "P+ prompt", "CLIP text encode XTI"],
            inputs=[
                io.Model.Input("model", tooltip="An SD1 model: the one to sample with."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default="a photo of <name>", tooltip="The prompt, with <name> where a concept belongs; it may stand in a weight: (<name>:1.2)."),
                Concept.Input("xti", tooltip="A concept."),
                Concept.Input("xti_2", optional=True, tooltip="A second concept."),
                Concept.Input("xti_3", optional=True, tooltip="A third concept."),
                Concept.Input("xti_4", optional=True, tooltip="A fourth concept."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model, able to carry out injections. Connect it to the sampler."),
                io.Conditioning.Output("conditioning", tooltip="The prompt, different in every layer."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, text, **concepts) -> io.NodeOutput:
        given = [concept for concept in concepts.values() if concept is not None]
        host_xti.embedded_xti(text)
        change, conditioning = host_xti.encode(model, clip, text, given)
        return io.NodeOutput(host.prepare(model), change.on(conditioning))


class SaveXTI(io.ComfyNode):
    """Saves a concept with kohya's keys."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaveXTI",
            display_name="Save XTI",
            category=CATEGORY,
            description="Writes a concept to models/embeddings as safetensors with kohya's keys (IN01 ... OUT11): the way to convert the other kinds and to keep a mix.",
            search_aliases=["convert XTI", "XTI to kohya", "save embedding"],
            inputs=[
                Concept.Input("xti", tooltip="The concept to save."),
                io.String.Input("filename", default="xti", tooltip="Name of the file without .safetensors, or folder/name. Where the name is taken by other content, a number is added; the same content is not written again."),
            ],
            outputs=[io.String.Output("path", tooltip="Where it was saved.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename=None):
        return first_problem((host_xti.save_path, filename))

    @classmethod
    def execute(cls, xti, filename) -> io.NodeOutput:
        path = str(xti_files.save(xti, host_xti.save_path(filename)))
        return io.NodeOutput(path, ui=shown(path))


class XTIDensity(io.ComfyNode):
    """Shows how much a concept's tokens look like words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkXTIDensity",
            display_name="XTI Density",
            category=CATEGORY,
            description="The log density of each layer's token under a kernel density of the vocabulary. Tokens far below the band are overfitted: they are unlike any word and do not follow changes of the prompt.",
            search_aliases=["XTI KDE", "embedding health", "token density", "textual inversion overfit"],
            is_output_node=True,
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder the concept was trained for (SD1)."),
                Concept.Input("xti", tooltip="The concept to read."),
                io.Float.Input("bandwidth", default=0.0, min=0.0, max=10.0, step=0.001, optional=True, tooltip="Width of the kernels; 0 takes the one under which the vocabulary's own tokens are most likely."),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The densities, layer by layer, over the vocabulary's band."),
                io.String.Output("text", tooltip="The same in numbers."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, xti, bandwidth=0.0) -> io.NodeOutput:
        picture, text = density_report(clip, xti, bandwidth)
        return io.NodeOutput(picture, text, ui=shown(text, picture, cls=cls))
