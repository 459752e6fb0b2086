"""Recipes: a merge as text, run live or to a file, read from a file, run again and verified."""

from comfy_api.latest import io

from ..merge.files import host as host_recipe
from .checks import first_problem
from .inputs import checkpoint_input, overwrite_input
from .merge_files import CATEGORY, FILE, NAME_TOOLTIP, RECIPE, REPORT, written
from .show import shown

EXAMPLE = """# output = A + B, ratio or preset
mix = sd15_a + sd15_b, alpha=GRAD_V
final = __O1__ + sd15_c, 0.3, dtype=fp16
"""


def _recipe_input():
    return io.String.Input(
        "recipe",
        default=EXAMPLE,
        multiline=True,
        tooltip="Lines such as `out = A + B, 0.5` or `out = A + B + C, 1.0, fp16`; __O1__ is the result of the first line. `A + lora(name, 0.8, [weights])` adds a LoRA. Reads merge-board recipes and mbw_each command lines as they are.",
    )


def _line_input():
    return io.Int.Input("lane", display_name="line", default=0, min=0, max=1000, optional=True, tooltip="The line whose result is used, counted from 1. 0 is the last line.")  # fmt: skip


class RecipeLive(io.ComfyNode):
    """A recipe as MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkRecipe",
            display_name="Run Recipe",
            category=CATEGORY,
            description="Runs a merge recipe without writing a file and gives MODEL, CLIP and VAE. The weights are those that Recipe to File would save, bit for bit.",
            search_aliases=["merge recipe", "merge board", "mbw_each", "multi merge", "sd-mecha recipe", "model merge script"],
            inputs=[_recipe_input(), _line_input()],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The merged diffusion model."),
                io.Clip.Output("clip", display_name="clip", tooltip="The merged text encoder. None when A has none."),
                io.Vae.Output("vae", display_name="vae", tooltip="The VAE of A, unless the recipe has another."),
                REPORT,
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, recipe=None, **_):
        return host_recipe.fingerprint(recipe)

    @classmethod
    def validate_inputs(cls, recipe=None):
        return first_problem((host_recipe.check_recipe, recipe))

    @classmethod
    def execute(cls, recipe, lane=0) -> io.NodeOutput:
        return io.NodeOutput(*host_recipe.live(recipe, line=lane))


class RecipeToFile(io.ComfyNode):
    """A recipe as a checkpoint file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkRecipeToFile",
            display_name="Recipe to File",
            category=CATEGORY,
            description="Runs a merge recipe into a new file, piece by piece. Several lines run in one pass, without intermediate files. The new file carries the recipe with the sha256 of every source.",
            search_aliases=["merge recipe", "merge board", "mbw_each", "save merged model", "checkpoint merger"],
            is_output_node=True,
            inputs=[
                io.String.Input("name", default="merges/my_recipe", tooltip=NAME_TOOLTIP),
                _recipe_input(),
                _line_input(),
                overwrite_input(),
            ],
            outputs=[FILE, RECIPE, REPORT],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name=None, recipe=None, **_):
        return f"{host_recipe.fingerprint(recipe)} {host_recipe.output_stamp(name)}"

    @classmethod
    def validate_inputs(cls, name=None, recipe=None):
        return first_problem((host_recipe.target, name), (host_recipe.check_recipe, recipe))

    @classmethod
    def execute(cls, name, recipe, lane=0, overwrite=False) -> io.NodeOutput:
        return written(host_recipe.to_file(recipe, name, line=lane, overwrite=overwrite))


class ReadRecipe(io.ComfyNode):
    """The recipe inside a merged checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkReadRecipe",
            display_name="Read Recipe of File",
            category=CATEGORY,
            description="Reads the recipe that a merged file carries, with the sha256 of every source.",
            search_aliases=["merge metadata", "what was merged", "checkpoint metadata"],
            inputs=[checkpoint_input("checkpoint", "A merged file that this pack has written.")],
            outputs=[RECIPE],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None):
        return host_recipe.stamps([checkpoint] if checkpoint else [])

    @classmethod
    def execute(cls, checkpoint) -> io.NodeOutput:
        recipe = host_recipe.read_recipe(checkpoint)
        return io.NodeOutput(recipe, ui=shown(recipe))


class ReplayRecipe(io.ComfyNode):
    """A merged checkpoint made again from its sources, and compared."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkReplayRecipe",
            display_name="Replay Recipe of File",
            category=CATEGORY,
            description="Runs the recipe inside a merged file again and compares the two files byte for byte. Refuses when a source is not the file that was merged.",
            search_aliases=["verify merge", "reproduce merge", "merge provenance"],
            is_output_node=True,
            inputs=[
                checkpoint_input("checkpoint", "A merged file that this pack has written. Its sources must be in the model folders."),
                io.String.Input("name", default="merges/replayed", tooltip=NAME_TOOLTIP),
                overwrite_input(),
            ],
            outputs=[
                FILE,
                io.Boolean.Output("same", display_name="same", tooltip="Whether both files are the same, byte for byte."),
                io.String.Output("finding", display_name="finding", tooltip="Result of the comparison, with the versions where they differ."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None, name=None, **_):
        return f"{host_recipe.stamps([checkpoint] if checkpoint else [])} {host_recipe.output_stamp(name)}"

    @classmethod
    def execute(cls, checkpoint, name, overwrite=False) -> io.NodeOutput:
        merged, same, finding = host_recipe.replay_file(checkpoint, name, overwrite)
        written_name = host_recipe.listed_name(merged.path)
        return io.NodeOutput(written_name, same, finding, ui=shown(f"{written_name}\n\n{finding}"))
