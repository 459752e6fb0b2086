"""Deprojection: text and image embeddings, and their sums, as Stable Diffusion 1 conditioning."""

from comfy_api.latest import io, ui

from ..deprojector import host, host_report, host_texts, host_training
from ..deprojector.algebra import MERGES, NORMS
from ..deprojector.start import PRESETS
from ..deprojector.training import SCHEDULES, Recipe

CATEGORY = "blockwork/deprojector"
Deprojector = io.Custom("BLOCKWORK_DEPROJECTOR")
TextEmbedding = io.Custom("BLOCKWORK_EMBEDDING")


def _deprojector():
    return Deprojector.Input("deprojector", tooltip="The deprojector, from Load Deprojector.")


def _clip(tooltip: str, optional: bool = False):
    return io.Clip.Input("clip", optional=optional, tooltip=tooltip)


def _share(name: str, tooltip: str):
    return io.Float.Input(
        name, default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=tooltip
    )


def _shaping() -> list[io.Input]:
    """The inputs that become a ``host.Shaping``, and the choice of the constant rows."""
    return [
        io.Int.Input("rows", default=77, min=1, max=77, optional=True, tooltip="How many rows are made. Fewer cut the text's end off; SD1 takes any number."),
        io.Boolean.Input("exact_end", default=False, optional=True, advanced=True, tooltip="Put the embedding itself into the end row, where a true encoding has it."),
        io.Int.Input("end_row", default=0, min=0, max=76, optional=True, advanced=True, tooltip="Which row is the end of the text; 0 takes the row most like the embedding."),
        _share("noise_after_end", "Share of standard normal noise in the rows behind the end of the text."),
        _share("null_after_end", "Share of the empty text's embedding in the rows behind the end of the text."),
        _share("mask_after_end", "How much of the rows behind the end of the text is taken away; 1 leaves zeros."),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, advanced=True, tooltip="Seed of the noise."),
        io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, advanced=True, tooltip="Where the start row and the empty text's row come from: the deprojector's file, or the connected CLIP (better with a fine-tuned text encoder)."),
        _clip("Needed when constant_rows is clip.", optional=True),
    ]  # fmt: skip


def _settings(options: dict) -> tuple[host.Shaping, tuple | None]:
    """The shaping and the constant rows that the optional inputs ask for."""
    names = {"noise": "noise_after_end", "null": "null_after_end", "mask": "mask_after_end"}
    plain = {name: name for name in ("rows", "exact_end", "end_row", "seed")}
    given = {field: options[name] for field, name in (names | plain).items() if name in options}
    return host.Shaping(**given), host_texts.chosen_rows(
        options.get("constant_rows", "file"), options.get("clip")
    )


class LoadDeprojector(io.ComfyNode):
    """A published or own deprojector from ``models/deprojector``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkLoadDeprojector",
            display_name="Load Deprojector",
            category=CATEGORY,
            description="Loads a CLIP text deprojector: every published version (v1 to v5, LSTM, VT, Mvt, VRNN), as a folder with config.json or as one safetensors file.",
            search_aliases=["deprojector", "clip text deprojector", "embedding to conditioning", "nanashi"],
            inputs=[
                io.Combo.Input("name", options=host.names(), tooltip="A folder with config.json and weights, or a weight file, below models/deprojector."),
                io.Combo.Input("dtype", options=list(host.DTYPES), default="float32", optional=True, advanced=True, tooltip="Precision of weights and arithmetic. The recursion amplifies rounding; float32 is small enough for most machines."),
                io.Float.Input("fuse", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="For ensembles: how much of the mean of all units each unit sees as its own past. 0 keeps them apart."),
            ],
            outputs=[Deprojector.Output("deprojector", display_name="deprojector", tooltip="The loaded deprojector.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name, dtype="float32", fuse=0.0):
        return host.stamp(name)

    @classmethod
    def execute(cls, name, dtype="float32", fuse=0.0) -> io.NodeOutput:
        return io.NodeOutput(host.load(name, dtype, fuse))


class JoinDeprojectors(io.ComfyNode):
    """Two deprojectors as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkJoinDeprojectors",
            display_name="Join Deprojectors",
            category=CATEGORY,
            description="Joins two deprojectors: side by side with averaged results (ensemble), with averaged parameters (merge), or one for the first rows and one for the rest (concat).",
            search_aliases=["deprojector ensemble", "deprojector merge", "deprojector concat", "fuse"],
            inputs=[
                Deprojector.Input("first", tooltip="The first deprojector; an ensemble may grow further."),
                Deprojector.Input("second", tooltip="The second one; for ensemble and merge of the same configuration."),
                io.Combo.Input("how", options=["ensemble", "merge", "concat"], default="ensemble", tooltip="ensemble: mean of the results; merge: mean of the parameters; concat: rows of the first, then rows of the second."),
                io.Int.Input("length", default=10, min=1, max=76, optional=True, tooltip="concat: how many rows come from the first one, the start row included."),
                io.Float.Input("fuse", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="ensemble: how much of the mean of all units each unit sees as its own past."),
            ],
            outputs=[Deprojector.Output("deprojector", display_name="deprojector", tooltip="The joined deprojector.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, first, second, how, length=10, fuse=0.0) -> io.NodeOutput:
        return io.NodeOutput(host.joined(first, second, how, length, fuse))


class DeprojectConditioning(io.ComfyNode):
    """Hidden states of conditioning made anew from its pooled embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkDeprojectConditioning",
            display_name="Deproject Conditioning",
            category=CATEGORY,
            description="Replaces the hidden states of SD1 conditioning by those that the deprojector makes from its pooled embedding. Areas, masks, hooks, strengths and the pooled embedding stay. All entries run as one batch.",
            search_aliases=["deproject", "deprojector", "pooled to conditioning", "conditioning average", "embedding to conditioning"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="SD1 conditioning; averages of conditioning work well, their pooled embeddings are averaged too."),
                _deprojector(),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning; passed on unchanged unless switched on below."),
                io.Boolean.Input("deproject_positive", default=True, optional=True, tooltip="Off passes the positive conditioning on unchanged."),
                io.Boolean.Input("deproject_negative", default=False, optional=True, tooltip="The original never deprojects negative prompts; on does."),
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
        return io.NodeOutput(*host.switched(deprojector, lists, wanted, shaping, rows))


class EncodeAndMerge(io.ComfyNode):
    """Texts encoded one by one, their embeddings added up and deprojected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkEncodeAndMerge",
            display_name="Encode and Merge Texts",
            category=CATEGORY,
            description="Encodes every text of a list on its own, adds the embeddings with their weights, and deprojects the sum: cat:1.2, maid:-0.3.",
            search_aliases=["pooled encoding", "prompt arithmetic", "embedding arithmetic", "merge prompts", "deprojector"],
            inputs=[
                _clip("The CLIP of an SD1 checkpoint."),
                _deprojector(),
                io.String.Input("text", default="cat ears, maid:0.8", multiline=True, tooltip="Texts with weights: cat:1.2, maid:-0.3. A comma inside a text is written \\,. Empty is the empty text."),
                io.Combo.Input("separator", options=["comma", "line"], default="comma", optional=True, tooltip="What stands between the texts."),
                io.Combo.Input("merge", options=list(MERGES), default="difference", optional=True, tooltip="difference: the empty text plus weighted differences from it (what the deprojector was trained on); sum: weighted sum; mean: weighted mean."),
                io.Combo.Input("norm", options=list(NORMS), default="off", optional=True, tooltip="Length of the sum. original: the mean length of the summands, as the original computes it; consistent: the same for what was really summed."),
                *_shaping()[:-2],
                io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, advanced=True, tooltip="Where the start row and the empty text's row come from: the deprojector's file or this CLIP."),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The deprojected sum."),
                TextEmbedding.Output("embedding", display_name="embedding", tooltip="The sum itself, for Mix Embeddings."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, clip, deprojector, text, separator="comma", merge="difference", norm="off", **options
    ) -> io.NodeOutput:
        embedding = host_texts.merge_texts(clip, text, separator, merge, norm)
        shaping, rows = _settings({**options, "clip": clip})
        return io.NodeOutput(host.embedding_conditioning(deprojector, embedding, shaping, rows), embedding)


class ImageToEmbedding(io.ComfyNode):
    """An image's CLIP embedding in the text encoder's space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkImageToEmbedding",
            display_name="Image to Embedding",
            category=CATEGORY,
            description="Brings a CLIP image embedding (ViT-L/14) into the space of SD1's pooled text embeddings, so that images and texts can be added: P(image - base) + empty text.",
            search_aliases=["image to prompt", "clip vision to text", "image encoding", "deprojector", "img2txt embedding"],
            inputs=[
                io.ClipVisionOutput.Input("image", tooltip="From CLIP Vision Encode with clip-vit-large-patch14."),
                _deprojector(),
                _clip("The CLIP of an SD1 checkpoint; gives the empty text."),
                io.ClipVisionOutput.Input("base", optional=True, tooltip="A neutral image (grey, or the mean of many): only what tells the image from it is used."),
                io.Combo.Input("norm", options=["keep", "text"], default="keep", optional=True, tooltip="text: the difference from the empty text gets the length that a short text's has."),
            ],
            outputs=[TextEmbedding.Output("embedding", display_name="embedding", tooltip="One embedding per image.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, deprojector, clip, base=None, norm="keep") -> io.NodeOutput:
        return io.NodeOutput(
            host_texts.image_embedding(deprojector.module.projection_inverse, clip, image, base, norm)
        )


class MixEmbeddings(io.ComfyNode):
    """Two embeddings as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMixEmbeddings",
            display_name="Mix Embeddings",
            category=CATEGORY,
            description="Goes from one embedding to another (lerp, or slerp around the empty text), or adds a share of the second to the first.",
            search_aliases=["slerp", "lerp", "interpolate prompts", "add embedding", "subtract embedding", "deprojector"],
            inputs=[
                TextEmbedding.Input("first", tooltip="The embedding at amount 0."),
                TextEmbedding.Input("second", tooltip="The embedding at amount 1, or the one that is added."),
                io.Combo.Input("method", options=["add", "lerp", "slerp"], default="add", tooltip="add: first + amount * (second - empty text); lerp: a straight line; slerp: an arc around the empty text."),
                io.Float.Input("amount", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="How far to go, or how much to add; negative takes away."),
            ],
            outputs=[TextEmbedding.Output("embedding", display_name="embedding", tooltip="The mixed embedding.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, first, second, method, amount) -> io.NodeOutput:
        return io.NodeOutput(host_texts.mix(first, second, method, amount))


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
                _deprojector(),
                *_shaping(),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="Hidden states for SD1.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, embedding, deprojector, **options) -> io.NodeOutput:
        shaping, rows = _settings(options)
        return io.NodeOutput(host.embedding_conditioning(deprojector, embedding, shaping, rows))


class DeprojectorReport(io.ComfyNode):
    """How near a deprojector comes to the truth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkDeprojectorReport",
            display_name="Deprojector Report",
            category=CATEGORY,
            description="Encodes a text, deprojects its embedding, and plots the cosine of every row to the true hidden states.",
            search_aliases=["deprojector quality", "cosine similarity", "compare hidden states"],
            is_output_node=True,
            inputs=[
                _deprojector(),
                _clip("The CLIP whose hidden states are the truth."),
                io.String.Input("text", default="a cat maid with blue eyes", multiline=True, tooltip="The text to try."),
                io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, tooltip="Where the start row and the empty text's row come from."),
            ],
            outputs=[
                io.Image.Output("plot", display_name="plot", tooltip="Cosine per row."),
                io.String.Output("figures", display_name="figures", tooltip="Mean cosines of the words and of what follows them."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, deprojector, clip, text, constant_rows="file") -> io.NodeOutput:
        rows = host_texts.chosen_rows(constant_rows, clip)
        plot, figures = host_report.report(deprojector, clip, text, rows)
        return io.NodeOutput(plot, figures, ui=ui.PreviewImage(plot, cls=cls))


class SaveDeprojector(io.ComfyNode):
    """A deprojector as one safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaveDeprojector",
            display_name="Save Deprojector",
            category=CATEGORY,
            description="Writes a deprojector into models/deprojector as one safetensors file with its configuration inside; converts pickled .bin files. Never over an existing file.",
            search_aliases=["convert deprojector", "pickle to safetensors", "export deprojector"],
            is_output_node=True,
            inputs=[
                _deprojector(),
                io.String.Input("filename_prefix", default="deprojector", tooltip="Name below models/deprojector; a number is added."),
                io.Combo.Input("dtype", options=list(host.DTYPES), default="float32", optional=True, tooltip="Precision of the stored weights."),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Where the file was written.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, deprojector, filename_prefix, dtype="float32") -> io.NodeOutput:
        path = host.save(deprojector, filename_prefix, dtype)
        return io.NodeOutput(str(path), ui=ui.PreviewText(str(path)))


class TrainDeprojector(io.ComfyNode):
    """A new deprojector from a CLIP and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkTrainDeprojector",
            display_name="Train Deprojector",
            category=CATEGORY,
            description="Trains a deprojector for the connected CLIP on a caption file. Hidden states are computed once and kept; a stopped run goes on where it was. Meant for a GPU.",
            search_aliases=["train deprojector", "scheduled sampling", "teacher forcing", "text inversion network"],
            inputs=[
                _clip("The SD1 CLIP that the deprojector is to undo, with its LoRAs."),
                io.String.Input("captions", default="captions.txt", tooltip="Text file in ComfyUI's input folder, one caption per line. The original used 13,000 per part."),
                io.String.Input("run", default="first", tooltip="Name of the run: a folder below output/deprojector_training with hidden states and checkpoint."),
                io.Combo.Input("family", options=list(PRESETS), default="LSTM 3, wide 1.5x, 1 layer", tooltip="What is trained. The author's best before VRNN was the wide LSTM with 1.5 times the width."),
                io.Combo.Input("schedule", options=list(SCHEDULES), default="scheduled", tooltip="What the model sees of the past: true rows (teacher), its own (self-fed), or true ones first and ever more of its own (scheduled)."),
                io.Int.Input("steps", default=2000, min=1, max=1000000, tooltip="Training steps."),
                io.Int.Input("batch", default=100, min=1, max=4096, tooltip="Examples per step."),
                io.Float.Input("learning_rate", default=1e-3, min=1e-6, max=1.0, step=1e-6, round=False, tooltip="Adam's rate; it rises at first and then falls along a cosine."),
                io.Int.Input("test_captions", default=100, min=1, max=10000, optional=True, tooltip="Captions at the end of the file that are held out."),
                io.Int.Input("evaluate_every", default=100, min=1, max=100000, optional=True, advanced=True, tooltip="Steps between evaluations; a checkpoint is written at each."),
                io.Int.Input("patience", default=10, min=0, max=1000, optional=True, advanced=True, tooltip="Evaluations without a smaller free-running error before stopping; 0 never stops early."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFF, optional=True, tooltip="Seed of the weights, the order and the coins."),
                Deprojector.Input("projection_from", optional=True, tooltip="A deprojector whose inverse projection is taken over, so that images can be used; SD1 checkpoints have none."),
            ],
            outputs=[
                Deprojector.Output("deprojector", display_name="deprojector", tooltip="The model at its best evaluation."),
                io.Image.Output("plot", display_name="plot", tooltip="Training loss and both held-out errors."),
                io.String.Output("figures", display_name="figures", tooltip="Errors from true rows and free-running."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, clip, captions, run, family, schedule, steps, batch, learning_rate,
        test_captions=100, evaluate_every=100, patience=10, seed=0, projection_from=None,
    ) -> io.NodeOutput:  # fmt: skip
        recipe = Recipe(
            steps, batch, learning_rate, schedule, evaluate_every=evaluate_every, patience=patience, seed=seed
        )
        return io.NodeOutput(
            *host_training.train(clip, captions, run, family, recipe, test_captions, projection_from)
        )


NODES = [
    LoadDeprojector,
    DeprojectConditioning,
    EncodeAndMerge,
    ImageToEmbedding,
    MixEmbeddings,
    DeprojectEmbedding,
    JoinDeprojectors,
    DeprojectorReport,
    SaveDeprojector,
    TrainDeprojector,
]
