"""Deprojectors themselves: loaded, joined, judged, saved and trained."""

from comfy_api.latest import io

from ..deprojector import host, host_report, host_texts, host_training
from ..deprojector.start import PRESETS
from ..deprojector.training import SCHEDULES, Recipe
from .deprojector import CATEGORY, Deprojector, clip_input, deprojector_input
from .show import shown


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
                deprojector_input(),
                clip_input("The CLIP whose hidden states are the truth."),
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
        return io.NodeOutput(plot, figures, ui=shown(figures, plot, cls=cls))


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
                deprojector_input(),
                io.String.Input("filename_prefix", default="deprojector", tooltip="Name below models/deprojector; a number is added."),
                io.Combo.Input("dtype", options=list(host.DTYPES), default="float32", optional=True, tooltip="Precision of the stored weights."),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Where the file was written.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, deprojector, filename_prefix, dtype="float32") -> io.NodeOutput:
        path = host.save(deprojector, filename_prefix, dtype)
        return io.NodeOutput(str(path), ui=shown(str(path)))


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
                clip_input("The SD1 CLIP that the deprojector is to undo, with its LoRAs."),
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
