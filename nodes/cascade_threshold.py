"""Thresholding for any model, and a report of its effect on saturation."""

from comfy_api.latest import io

from ..cascade import host_threshold, report
from . import cascade_inputs as shared
from .show import shown


class ThresholdNode(io.ComfyNode):
    """Static or dynamic thresholding as a patch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkThreshold",
            display_name="Dynamic Thresholding",
            category=shared.SAMPLING,
            description="Keeps predictions in range at high CFG: static or dynamic thresholding (Imagen). Pixel models (IF, "
            "Chroma Radiance) use [-1, 1] as in the paper, latent models the range of the conditional prediction. Works "
            "with every sampler and together with other patches.",
            search_aliases=[
                "dynamic thresholding",
                "static thresholding",
                "high CFG",
                "saturation",
                "mimic",
                "Imagen",
                "dynamic_thresholding_ratio",
                "sample_max_value",
                "oversaturated",
                "burned images",
                "Chroma Radiance",
                "pixel space",
                "threshold",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any model. Replaces the default threshold of IF Stage Loader."
                ),
                io.Combo.Input(
                    "mode",
                    options=["dynamic", "static", "none"],
                    default="dynamic",
                    tooltip="dynamic: rescales by the percentile when it exceeds the range. static: clips. none: removes the "
                    "default threshold of IF Stage Loader.",
                ),
                shared.percentile_input(0.995),
                shared.cap_input(0.0),
                io.Combo.Input(
                    "bound",
                    options=list(host_threshold.BOUNDS),
                    default="auto",
                    optional=True,
                    tooltip="The range: [-1, 1] (pixels), or the percentile of the conditional prediction (conditional, for "
                    "latents). auto chooses by the model.",
                ),
                io.Boolean.Input(
                    "per_channel",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For latents: one percentile per channel instead of one per sample.",
                ),
                io.Float.Input(
                    "blend",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Weight of the thresholded prediction. 0 changes nothing.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Fraction of the sampling run at which thresholding starts. 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Fraction of the sampling run at which thresholding ends. 1 is the last step.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model with thresholding; the input is not changed."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        mode,
        percentile=0.995,
        cap=0.0,
        bound="auto",
        per_channel=False,
        blend=1.0,
        start_percent=0.0,
        end_percent=1.0,
    ) -> io.NodeOutput:
        threshold = host_threshold.Threshold(
            mode, percentile, cap or None, bound, per_channel, blend, start_percent, end_percent
        )
        return io.NodeOutput(host_threshold.with_threshold(model, threshold))


class SaturationReport(io.ComfyNode):
    """Two batches of images compared by saturation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaturationReport",
            display_name="Saturation Report",
            category=shared.SAMPLING,
            description="Compares images made without and with thresholding: fraction of values at both ends of the range, "
            "mean colour saturation, contrast, and histograms.",
            search_aliases=["histogram", "clipping", "overexposed", "compare images", "dynamic thresholding"],
            is_output_node=True,
            inputs=[
                io.Image.Input("without", tooltip="Images made without thresholding."),
                io.Image.Input("with_threshold", tooltip="The same images made with thresholding."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Histograms of both batches."),
                io.String.Output(display_name="report", tooltip="The same in numbers."),
            ],
        )

    @classmethod
    def execute(cls, without, with_threshold) -> io.NodeOutput:
        measures = {"without": report.measure(without), "with": report.measure(with_threshold)}
        image = report.draw({"without": without, "with": with_threshold}, measures)
        text = report.text(measures)
        return io.NodeOutput(image, text, ui=shown(text, image, cls=cls))
