"""Deprojectors themselves: loaded, joined, compared, saved and trained."""

import folder_paths
from comfy_api.latest import io

from ..deprojector.host import models, report, texts, training
from ..deprojector.train.start import PRESETS
from ..deprojector.train.trainer import SCHEDULES, Recipe
from .checks import check_prefix, first_problem
from .deprojector import CATEGORY, Deprojector, clip_input, deprojector_input
from .show import shown


class LoadDeprojector(io.ComfyNode):
    """A deprojector from ``models/deprojector``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkLoadDeprojector",
            display_name="Load Deprojector",
            category=CATEGORY,
            description="Loads a CLIP text deprojector: every published version (v1 to v5, LSTM, VT, Mvt, VRNN), as a folder with config.json or as one safetensors file.",
            search_aliases=["deprojector", "clip text deprojector", "embedding to conditioning", "nanashi"],
            inputs=[
                io.Combo.Input("name", options=models.options(), tooltip="A folder with config.json and weights, or a weight file, below models/deprojector. The author's files: huggingface.co/nanashi161382/clip-text-deprojector."),
                io.Combo.Input("dtype", options=list(models.DTYPES), default="float32", optional=True, advanced=True, tooltip="Precision of weights and arithmetic. The recursion amplifies rounding errors, so float32 is recommended."),
                io.Float.Input("fuse", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="For ensembles: weight of the mean of all units in the past rows that each unit sees. 0: each unit sees its own rows only."),
            ],
            outputs=[Deprojector.Output("deprojector", display_name="deprojector", tooltip="The loaded deprojector.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name, dtype="float32", fuse=0.0):
        return models.stamp(name)

    @classmethod
    def execute(cls, name, dtype="float32", fuse=0.0) -> io.NodeOutput:
        return io.NodeOutput(models.load(name, dtype, fuse))


class JoinDeprojectors(io.ComfyNode):
    """Two deprojectors as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkJoinDeprojectors",
            display_name="Join Deprojectors",
            category=CATEGORY,
            description="Joins two deprojectors: averaged results (ensemble), averaged parameters (merge), or one for the first rows and the other for the rest (concat).",
            search_aliases=["deprojector ensemble", "deprojector merge", "deprojector concat", "fuse"],
            inputs=[
                Deprojector.Input("first", tooltip="The first deprojector, or an ensemble to extend."),
                Deprojector.Input("second", tooltip="The second deprojector. Ensemble and merge need the same configuration."),
                io.Combo.Input("how", options=["ensemble", "merge", "concat"], default="ensemble", tooltip="ensemble: mean of the results; merge: mean of the parameters; concat: rows of the first, then rows of the second."),
                io.Int.Input("length", default=10, min=1, max=76, optional=True, tooltip="concat: number of rows from the first deprojector, the start row included."),
                io.Float.Input("fuse", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="ensemble: weight of the mean of all units in the past rows that each unit sees."),
            ],
            outputs=[Deprojector.Output("deprojector", display_name="deprojector", tooltip="The joined deprojector.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, first, second, how, length=10, fuse=0.0) -> io.NodeOutput:
        return io.NodeOutput(models.joined(first, second, how, length, fuse))


class DeprojectorReport(io.ComfyNode):
    """How close a deprojector comes to the true hidden states."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkDeprojectorReport",
            display_name="Deprojector Report",
            category=CATEGORY,
            description="Encodes a text, deprojects its embedding, and plots the cosine similarity of every row to the true hidden states.",
            search_aliases=["deprojector quality", "cosine similarity", "compare hidden states"],
            is_output_node=True,
            inputs=[
                deprojector_input(),
                clip_input("The CLIP whose hidden states are compared with."),
                io.String.Input("text", default="a cat maid with blue eyes", multiline=True, tooltip="The text to encode."),
                io.Combo.Input("constant_rows", options=["file", "clip"], default="file", optional=True, tooltip="Source of the start row and the empty text's row: the deprojector's file, or this CLIP."),
            ],
            outputs=[
                io.Image.Output("plot", display_name="plot", tooltip="Cosine similarity per row."),
                io.String.Output("figures", display_name="figures", tooltip="Mean cosine similarity of the words and of the rows after the end token."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, deprojector, clip, text, constant_rows="file") -> io.NodeOutput:
        rows = texts.chosen_rows(constant_rows, clip)
        plot, figures = report.report(deprojector, clip, text, rows)
        return io.NodeOutput(plot, figures, ui=shown(figures, plot, cls=cls))


class SaveDeprojector(io.ComfyNode):
    """A deprojector as one safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaveDeprojector",
            display_name="Save Deprojector",
            category=CATEGORY,
            description="Writes a deprojector to models/deprojector as one safetensors file that contains its configuration. Converts pickled .bin files. Never overwrites a file.",
            search_aliases=["convert deprojector", "pickle to safetensors", "export deprojector"],
            is_output_node=True,
            inputs=[
                deprojector_input(),
                io.String.Input("filename_prefix", default="deprojector", tooltip="File name below models/deprojector; a number is added."),
                io.Combo.Input("dtype", options=list(models.DTYPES), default="float32", optional=True, tooltip="Precision of the stored weights."),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Path of the written file.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return first_problem((check_prefix, filename_prefix, folder_paths.get_folder_paths(models.FOLDER)[0]))

    @classmethod
    def execute(cls, deprojector, filename_prefix, dtype="float32") -> io.NodeOutput:
        path = models.save(deprojector, filename_prefix, dtype)
        return io.NodeOutput(str(path), ui=shown(str(path)))


class TrainDeprojector(io.ComfyNode):
    """A new deprojector from a CLIP and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkTrainDeprojector",
            display_name="Train Deprojector",
            category=CATEGORY,
            description="Trains a deprojector for the connected CLIP on a caption file. Hidden states are computed once and kept. An interrupted run resumes; a finished one can be extended with more steps. Meant for a GPU.",
            search_aliases=["train deprojector", "scheduled sampling", "teacher forcing", "text inversion network"],
            inputs=[
                clip_input("The SD1 CLIP to train for, with its LoRAs."),
                io.String.Input("captions", default="captions.txt", tooltip="Text file in ComfyUI's input folder, one caption per line (UTF-8, or UTF-16 with a byte order mark). Captions are read literally: brackets and colons are text. The author used 10,000 to 13,000 per part."),
                io.String.Input("run", default="first", tooltip="Name of the run: the folder below output/deprojector_training for hidden states and checkpoint. The same name resumes or extends the run."),
                io.Combo.Input("family", options=list(PRESETS), default="LSTM 3, wide 1.5x, 1 layer", tooltip="Architecture to train. Before VRNN, the author found the LSTM of 1.5 times the width best."),
                io.Combo.Input("schedule", options=list(SCHEDULES), default="scheduled", tooltip="Which past rows the model sees: true rows (teacher), its own (self-fed), or true rows first and then more and more of its own (scheduled)."),
                io.Int.Input("steps", default=2000, min=1, max=1000000, tooltip="Training steps in total. More than the run has done extends it."),
                io.Int.Input("batch", default=100, min=1, max=4096, tooltip="Examples per step."),
                io.Float.Input("learning_rate", default=1e-3, min=1e-6, max=1.0, step=1e-6, round=False, tooltip="Learning rate of Adam: a short rise, then cosine decay."),
                io.Int.Input("test_captions", default=100, min=1, max=10000, optional=True, tooltip="Number of captions at the end of the file that are held out for evaluation."),
                io.Int.Input("evaluate_every", default=100, min=1, max=100000, optional=True, advanced=True, tooltip="Steps between evaluations; a checkpoint is stored at each."),
                io.Int.Input("patience", default=10, min=0, max=1000, optional=True, advanced=True, tooltip="Evaluations without a smaller free-running error before stopping; 0: never stops early."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, tooltip="Random seed for weights, shuffling and scheduled sampling."),
                Deprojector.Input("projection_from", optional=True, tooltip="A deprojector whose inverse projection is used. Without one the trained deprojector cannot be used with images: SD1 checkpoints have no projection."),
                io.Int.Input("snapshot_every", default=0, min=0, max=1000000, optional=True, advanced=True, tooltip="Steps between stored copies of the model, in models/deprojector under the run's name; 0: none. To compare a model along its training."),
                io.Int.Input("part", default=0, min=0, max=10000000, optional=True, advanced=True, tooltip="Examples per part. Each part is trained until it stops early, then the next one begins from its best model, as the author trained v1 (10000). 0: all examples together."),
            ],
            outputs=[
                Deprojector.Output("deprojector", display_name="deprojector", tooltip="The model at its best evaluation."),
                io.Image.Output("plot", display_name="plot", tooltip="Training loss and both held-out errors."),
                io.String.Output("figures", display_name="figures", tooltip="Errors from true rows and free-running."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, captions=None, **_):
        return captions and training.captions_stamp(captions)

    @classmethod
    def execute(
        cls, clip, captions, run, family, schedule, steps, batch, learning_rate,
        test_captions=100, evaluate_every=100, patience=10, seed=0, projection_from=None,
        snapshot_every=0, part=0,
    ) -> io.NodeOutput:  # fmt: skip
        recipe = Recipe(
            steps, batch, learning_rate, schedule, evaluate_every=evaluate_every, patience=patience, seed=seed % 2**32,
            part=part, snapshot_every=snapshot_every,
        )  # fmt: skip
        return io.NodeOutput(
            *training.train(clip, captions, run, family, recipe, test_captions, projection_from)
        )
