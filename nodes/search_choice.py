"""A search by eye: a person ranks the candidates, and the next generation follows from that."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..search import host
from ..search.choice import describe, parse_ranking
from ..search.errors import SearchError
from ..study.host import save_preview
from ..study.image import as_bytes
from .checks import first_problem
from .search import CATEGORY, Trial, told, told_outputs

KEY = "blockwork_choice"  # read by web/search/choice.mjs


class SearchChoose(io.ComfyNode):
    """In the place of Tell: shows a generation, and holds its ranking."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchChoose",
            display_name="Search: Choose by Eye",
            category=CATEGORY,
            description="Shows the candidates of Search: Ask beside the best one so far. Click the images you like, in order, reject others, and queue again: the next candidates follow from your ranking. Takes the place of Search: Tell.",
            search_aliases=["choose images", "preference", "interactive evolution", "human in the loop", "rank images", "dice", "pick"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                Trial.Input("trial", tooltip="The trials, directly from Search: Ask. Its at_once is the number of candidates."),
                io.Image.Input("images", tooltip="The images of all candidates, the same number for each. Use the same seeds and prompts for all."),
                io.String.Input("ranking", default="", optional=True, tooltip="Your ranking of the candidates; a click on an image writes it. generation 2: prefer 12, 10; reject 11 ranks trial 12 first. Search: Ask reads it in the next run."),
            ],
            outputs=told_outputs(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, ranking=(None,)):
        return first_problem((parse_ranking, ranking[0]))

    @classmethod
    def execute(cls, trial, images, ranking=("",)) -> io.NodeOutput:
        shown = trial[0].shown
        cells = [
            {"number": one.number, "weights": one.weights, "best": one.number == shown.best_number, "file": save_preview(strip)}
            for one, strip in zip(trial, _strips(images, len(trial)), strict=True)
        ]  # fmt: skip
        about = describe(shown, parse_ranking(ranking[0]))
        return told(trial[0].study, about, {KEY: [{"generation": shown.number, "cells": cells}]})


def _strips(images: Sequence[torch.Tensor], count: int) -> list[np.ndarray]:
    """The images of each candidate, uint8 ``n h w 3``."""
    frames: list[Any] = [frame for image in images for frame in as_bytes(image)]
    found = [host.part(frames, place, count, "images") for place in range(count)]
    if any(len({frame.shape for frame in part}) > 1 for part in found):
        raise SearchError("The images of a candidate have different sizes. They must have one size.")
    return [np.stack(part) for part in found]
