"""Which blocks of which parents are in a merged file."""

from comfy_api.latest import io

from ..merge.files import host as host_recipe
from ..merge.find import host as host_find
from .inputs import NONE, checkpoint_input, key_map_input
from .merge_files import CATEGORY
from .show import shown


class FindRecipe(io.ComfyNode):
    """The shares of candidates in each block of a merge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = "Another candidate. Use it when more than two models may be in the merge."
        return io.Schema(
            node_id="BlockworkFindRecipe",
            display_name="Find Recipe of Merge",
            category=CATEGORY,
            description="Finds how much of which parent is in each block of a merged file, by least squares. The files are read piece by piece and not loaded. Says when a parent is missing and when two candidates are too alike to tell apart.",
            search_aliases=["reverse merge", "unmerge", "which models are in this merge", "merge recipe", "block weights of a merge"],
            is_output_node=True,
            inputs=[
                checkpoint_input("merge", "The merged model."),
                checkpoint_input("model_a", "Candidate A. In the weights it is where a weight is 0."),
                checkpoint_input("model_b", "Candidate B. The weights are its shares."),
                *(checkpoint_input(f"model_{letter}", more, optional=True) for letter in "cdefg"),
                key_map_input(),
            ],
            outputs=[
                io.String.Output("weights", display_name="weights", tooltip="The share of B per block, for Block Weights and the merge nodes. With more than two candidates, one line for each after A."),
                io.String.Output("recipe_text", display_name="recipe", tooltip="The merge as a recipe, for Run Recipe and Recipe to File."),
                io.String.Output("report", display_name="report", tooltip="Per block: the shares, the sum of the shares when it is free, what they leave, and what rounding explains."),
                io.Image.Output("image", display_name="image", tooltip="The share of B per block in the shape of the model. With more than two candidates, one image for each after A."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, merge=None, key_map=None, **models):
        return host_recipe.stamps([name for name in (merge, *models.values()) if name and name != NONE])

    @classmethod
    def execute(cls, merge, model_a, model_b, key_map="mbw", **more) -> io.NodeOutput:
        further = [name for _, name in sorted(more.items()) if name != NONE]
        weights, recipe, report, image = host_find.find_by_name(merge, [model_a, model_b, *further], key_map)
        ui = shown(f"{report}\n\n{weights}\n\n{recipe}", image, cls=cls)
        return io.NodeOutput(weights, recipe, report, image, ui=ui)
