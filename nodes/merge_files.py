"""Merging files to a file, and looking at how two models differ."""

from comfy_api.latest import io

from ..blocks.host import check_optional, check_weights
from ..merge.compare import host as host_compare
from ..merge.compare.image import MEASURES
from ..merge.elemental import check_selectors
from ..merge.files import host as host_recipe
from ..merge.methods import METHODS
from ..merge.recipe.grammar import to_text
from .checks import first_problem, listed
from .inputs import (
    NONE,
    checkpoint_input,
    checkpoint_or_vae,
    choice_input,
    elemental_input,
    key_map_input,
    overwrite_input,
)
from .show import shown

CATEGORY = "blockwork/merge"
FROM_TWO = sorted(name for name, method in METHODS.items() if method.least > 1 or method.most is None)
WITH_C = sorted(name for name, method in METHODS.items() if method.least > 2)


NAME_TOOLTIP = (
    "Name of the new file in the output folder of A's kind of model: output/checkpoints, output/diffusion_models, "
    "output/clip or output/vae. .safetensors is added."
)
FILE = io.String.Output(
    "file", display_name="file", tooltip="Name of the written file, as ComfyUI's loaders list it."
)
RECIPE = io.String.Output(
    "recipe_text", display_name="recipe", tooltip="The merge as a recipe, with the sha256 of every source."
)
REPORT = io.String.Output(
    "report",
    display_name="report",
    tooltip="The tensors that were merged, and those that were not with the reason.",
)


class MergeToFile(io.ComfyNode):
    """Two or three checkpoint files into one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeToFile",
            display_name="Merge to File",
            category=CATEGORY,
            description="Merges model files block by block into a new file. The files are read and written piece by piece and no model is loaded, so memory does not grow with their size. The new file carries its recipe.",
            search_aliases=["checkpoint merger", "supermerger", "MBW", "save merged model", "sd-mecha", "streaming merge"],
            is_output_node=True,
            inputs=[
                io.String.Input("name", default="merges/my_merge", tooltip=NAME_TOOLTIP),
                checkpoint_input("model_a", "Model A. It is kept where a weight is 0."),
                checkpoint_input("model_b", "Model B. It is used where a weight is 1."),
                io.Combo.Input("method", options=FROM_TWO, default="weighted_sum", tooltip=f"How the tensors are combined. These methods need model_c: {', '.join(WITH_C)}."),
                checkpoint_input("model_c", "Model C, for add_difference and other methods of three models.", optional=True),
                io.String.Input("weights_2", default="", optional=True, tooltip="Second number of the methods that have one: beta, or the weight of A (m_a) for each. Empty: 1 - weights for each, 0 for the others. Same forms as weights."),
                elemental_input(),
                io.String.Input("options", default="", optional=True, tooltip="Options of the method, such as density=0.3 for ties or gamma=2 for extract."),
                io.Int.Input("seed", default=0, min=0, max=2**53, optional=True, tooltip="Random seed of dare and della."),
                checkpoint_or_vae("vae", "VAE to bake into the file in place of A's. It must be a whole VAE of the same kind."),
                choice_input("dtype", "Data type of the file. same keeps the type of each tensor, also where model A is quantised. fp8 is used for the matrices of the diffusion model only; fp8_scaled stores a scale with each."),
                key_map_input(),
                choice_input("ema", "EMA weights: keep A's, drop them, or merge the EMA weights of all models in place of their normal weights (swap)."),
                choice_input("prune", "yes leaves out everything except the diffusion model, text encoders and VAE."),
                choice_input("position_ids", "Repair CLIP's position_ids when another tool has rounded them (auto), always (reset), or never (skip)."),
                choice_input("extra_keys", "Tensors that A does not have: ignore them, or copy them from the other models."),
                choice_input("nan", "When a source holds NaN or infinity: stop with an error, or keep A's values there."),
                overwrite_input(),
                io.String.Input(
                    "weights",
                    default="0.5",
                    optional=True,
                    tooltip="Weight of B per block: one number for the whole model, one number per block (25 for SD1 and SD2, 19 for SDXL; one more with BASE first), a preset such as GRAD_V, or pairs such as GRAD_V, IN00=0.75, BASE=0.2, CLIP=0.1, VAE=0.",
                    extra_dict={"widgetType": "BLOCKWORK_WEIGHTS"},
                ),
            ],
            outputs=[FILE, RECIPE, REPORT],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls,
        name=None,
        method=None,
        model_c=NONE,
        weights="0.5",
        weights_2="",
        elemental="",
        options="",
    ):
        return first_problem(
            listed(cls, method=method, model_c=model_c),
            (host_recipe.target, name),
            (check_weights, weights),
            (check_optional, weights_2),
            (check_selectors, elemental),
            (host_recipe.check_fields, method, model_c, weights, weights_2, options),
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, model_a=None, model_b=None, model_c=None, vae=None, **_):
        names = [name for name in (model_a, model_b, model_c, vae) if name and name != NONE]
        return f"{host_recipe.stamps(names)} {host_recipe.output_stamp(name)}"

    @classmethod
    def execute(
        cls, name, model_a, model_b, method, model_c=NONE, weights_2="", elemental="", options="", overwrite=False,
        weights="0.5", **settings,
    ) -> io.NodeOutput:  # fmt: skip
        models = [model_a, model_b, *([model_c] if model_c != NONE else [])]
        numbers = host_recipe.ratio_texts(method, weights, weights_2)
        settings = {"elemental": elemental.replace("\n", ","), **settings}
        recipe = host_recipe.node_recipe(name, models, method, numbers, options, **settings)
        return written(host_recipe.to_file(recipe, name, overwrite=overwrite))


def written(merged) -> io.NodeOutput:
    """The outputs of every node that writes a merge."""
    name = host_recipe.listed_name(merged.path)
    return io.NodeOutput(name, to_text(merged.recipe), merged.report, ui=shown(f"{name}\n\n{merged.report}"))


def _compared(cls, found, measure: str) -> io.NodeOutput:
    image, table = host_compare.picture(found, measure), found.table()
    change = {block: likeness.relative for block, likeness in found.blocks.items()}
    return io.NodeOutput(image, table, ui=shown(table, image, change=change, cls=cls))


def _measure():
    return io.Combo.Input("measure", options=list(MEASURES), default="distance", optional=True, tooltip="What the bars show: distance |B - A| / |A|, or the cosine similarity.")  # fmt: skip


PICTURE = io.Image.Output("picture", display_name="picture", tooltip="The blocks in the shape of the model. Longer, redder bars differ more.")  # fmt: skip
TABLE = io.String.Output("table", display_name="table", tooltip="Per block: parameters, cosine similarity, relative distance, changed share, largest change.")  # fmt: skip


class CompareModels(io.ComfyNode):
    """Two loaded models, with their patches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCompareModels",
            display_name="Compare Models",
            category=CATEGORY,
            description="Shows how much two models differ, block by block, as a table and as bars in the shape of the model. Includes patches such as merges and LoRAs.",
            search_aliases=["model analysis", "cosine similarity of models", "model diff", "ASimilarity", "what does this LoRA change"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model_a", tooltip="The model to measure from."),
                io.Model.Input("model_b", tooltip="The model to measure to."),
                key_map_input(),
                _measure(),
            ],
            outputs=[PICTURE, TABLE],
        )  # fmt: skip

    @classmethod
    def execute(cls, model_a, model_b, key_map="mbw", measure="distance") -> io.NodeOutput:
        found = host_compare.compare_live(model_a, model_b, key_map)
        return _compared(cls, found, measure)


class CompareFiles(io.ComfyNode):
    """Two checkpoint files, streamed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCompareFiles",
            display_name="Compare Checkpoint Files",
            category=CATEGORY,
            description="Shows how much two checkpoint files differ, block by block, text encoder and VAE included, without loading them.",
            search_aliases=[
                "model analysis",
                "checkpoint diff",
                "cosine similarity of models",
                "ASimilarity",
            ],
            is_output_node=True,
            inputs=[
                checkpoint_input("model_a", "The checkpoint to measure from."),
                checkpoint_input("model_b", "The checkpoint to measure to."),
                key_map_input(),
                _measure(),
            ],
            outputs=[PICTURE, TABLE],
        )

    @classmethod
    def fingerprint_inputs(cls, model_a=None, model_b=None, **_):
        return host_recipe.stamps([name for name in (model_a, model_b) if name])

    @classmethod
    def execute(cls, model_a, model_b, key_map="mbw", measure="distance") -> io.NodeOutput:
        found = host_compare.compare_files(model_a, model_b, key_map)
        return _compared(cls, found, measure)
