"""The result of a search: best weights, history, importance, all trials."""

from types import SimpleNamespace

import torch
from comfy_api.latest import io

from ..search import host
from ..search.images import draw_study
from ..search.names import checked_name
from ..search.report import csv_text, report
from .checks import first_problem
from .search import CATEGORY
from .show import shown


class SearchResult(io.ComfyNode):
    """What a study found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchResult",
            display_name="Search: Result",
            category=CATEGORY,
            description="Shows a study: the best weights, the history of the scores, and how much each block matters, in the shape of the model. Reads the study only, so it also shows a search that still runs elsewhere.",
            search_aliases=["best weights", "optimisation history", "parameter importance", "CSV export", "optuna"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.String.Input("study", default="my search", tooltip="Name of the study. Connect the study of Search: Tell to run after the search."),
                io.Int.Input("best", default=5, min=1, max=100, optional=True, tooltip="How many of the best trials to list."),
                io.Boolean.Input("save_csv", default=False, optional=True, tooltip="Save all trials as output/blockwork_search/<study>.csv."),
            ],
            outputs=[
                io.String.Output("weights", display_name="weights", tooltip="The best weights, for Block Weights and the merge nodes."),
                io.String.Output("candidates", display_name="candidates", is_output_list=True, tooltip="The weights of the best trials as a list: connect them to a merge to sample them all."),
                io.Image.Output("image", display_name="image", tooltip="History of the scores, and the importance of each block."),
                io.String.Output("report", display_name="report", tooltip="The best trials, their hold-out scores, the importance of each weight."),
                io.String.Output("csv", display_name="csv", tooltip="All trials as CSV."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_):
        return float("NaN")  # a study grows

    @classmethod
    def validate_inputs(cls, study=None):
        return first_problem((checked_name, study))

    @classmethod
    def execute(cls, study, best=5, save_csv=False) -> io.NodeOutput:
        read = host.read_study(study)
        rows, table, text = read.best(best), csv_text(read), report(read, best)
        if save_csv:
            text += f"\n\nAll trials: {host.export_csv(read.name, table)}"
        image = torch.from_numpy(draw_study(read))[None]
        hidden = SimpleNamespace(
            prompt=cls.hidden.prompt,
            extra_pnginfo={**(cls.hidden.extra_pnginfo or {}), "blockwork_trials": table},
        )
        found = [row.weights for row in rows]
        ui = shown(text, image, ran=found[0] if found else None, cls=SimpleNamespace(hidden=hidden))
        return io.NodeOutput(found[0] if found else "", found, image, text, table, ui=ui)
