"""Sheets of images for comparison: a labelled grid, and a blind rating sheet."""

from comfy_api.latest import io, ui

from ..study import rating, sheet
from ..study.host_page import save_page
from .checks import check_prefix, first_problem

CATEGORY = "blockwork/study"


class ImageSheet(io.ComfyNode):
    """Images as one labelled sheet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkImageSheet",
            display_name="Labelled Image Sheet",
            category=CATEGORY,
            description="Arranges a batch of images, row by row, in one sheet with labels for rows and columns.",
            search_aliases=[
                "image grid",
                "XY plot",
                "contact sheet",
                "labels",
                "compare images",
                "side by side",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The images, row by row, for example from Batch Images."),
                io.String.Input(
                    "columns",
                    default="",
                    multiline=True,
                    tooltip="Labels of the columns, one per line. Their number is the number of columns.",
                ),
                io.String.Input(
                    "rows",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Labels of the rows, one per line; empty for no labels.",
                ),
                io.String.Input(
                    "title", default="", optional=True, tooltip="Text above the sheet; empty for none."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The labelled sheet, one image.")],
        )

    @classmethod
    def execute(cls, images, columns, rows="", title="") -> io.NodeOutput:
        drawn = sheet.draw_sheet(images, sheet.labels_of(columns), sheet.labels_of(rows), title)
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


class RatingSheet(io.ComfyNode):
    """Two batches of images as a blind comparison in an HTML file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkRatingSheet",
            display_name="Blind Rating Sheet",
            category=CATEGORY,
            description="Saves two batches of images as an HTML page for a blind comparison: left, same or right, with "
            "random sides and order, as raters compared models in the Imagen paper. The page needs no server and counts "
            "the answers.",
            search_aliases=[
                "A/B test",
                "human evaluation",
                "blind test",
                "DrawBench",
                "compare images",
                "user study",
            ],
            inputs=[
                io.Image.Input("first", tooltip="Images of the first model or setting."),
                io.Image.Input("second", tooltip="Images of the second, pair by pair in the same order."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="Captions shown above the pairs, one per line and pair; one line is used for all pairs.",
                ),
                io.String.Input(
                    "question",
                    default="Which image matches the caption better?",
                    optional=True,
                    tooltip="The question to the rater.",
                ),
                io.String.Input(
                    "name_first",
                    default="A",
                    optional=True,
                    tooltip="Name of the first in the result; the rater sees it only there.",
                ),
                io.String.Input(
                    "name_second",
                    default="B",
                    optional=True,
                    tooltip="Name of the second in the result; the rater sees it only there.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    advanced=True,
                    tooltip="Random seed for sides and order.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="blockwork_rating",
                    optional=True,
                    tooltip="Name of the HTML file in the output folder.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Path of the HTML file.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return first_problem((check_prefix, filename_prefix))

    @classmethod
    def execute(
        cls,
        first,
        second,
        prompts,
        question="Which image matches the caption better?",
        name_first="A",
        name_second="B",
        seed=0,
        filename_prefix="blockwork_rating",
    ) -> io.NodeOutput:
        names = (name_first, name_second)
        page = rating.rating_page(first, second, sheet.labels_of(prompts), names, question, seed)
        path = save_page(page, filename_prefix)
        return io.NodeOutput(path, ui=ui.PreviewText(path))
