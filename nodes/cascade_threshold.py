"""Thresholding for any model, and a report of what it does to saturation."""

from comfy_api.latest import io, ui

from ..cascade import host_threshold, report
from . import cascade_inputs as shared


class ThresholdNode(io.ComfyNode):
    """Static or dynamic thresholding as a patch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkThreshold",
            display_name="Threshold",
            category=shared.CATEGORY,
            description="Keeps predictions in range at high guidance: static or dynamic thresholding (Imagen), for pixel "
            "models as in the paper, for latent models against the reach of the conditional prediction. A "
            "post-CFG patch: any sampler, chains with other patches, each sample on its own.",
            search_aliases=[
                "dynamic thresholding",
                "static thresholding",
                "high CFG",
                "saturation",
                "mimic",
                "Imagen",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any model. The threshold of a stage loader is replaced."),
                io.Combo.Input(
                    "mode",
                    options=["dynamic", "static", "none"],
                    default="dynamic",
                    tooltip="Dynamic divides by a percentile where it is out of range; static clips; none takes a "
                    "stage loader's threshold off.",
                ),
                shared.percentile_input(0.995),
                shared.cap_input(0.0),
                io.Combo.Input(
                    "bound",
                    options=list(host_threshold.BOUNDS),
                    default="auto",
                    optional=True,
                    tooltip="What counts as in range: [-1, 1] (pixels), or the percentile of the conditional "
                    "prediction (latents). Auto asks the model.",
                ),
                io.Boolean.Input(
                    "per_channel",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For latents: percentiles of each channel alone instead of the whole sample.",
                ),
                io.Float.Input(
                    "blend",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of the thresholded prediction; 0 changes nothing.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run thresholding starts, 0 being the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it ends, 1 being the last step.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
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
    """Two batches of images side by side: how much of each is blown out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaturationReport",
            display_name="Saturation Report",
            category=shared.CATEGORY,
            description="Compares images made without and with thresholding: share of values at the ends of the range, "
            "mean colour saturation, contrast, and their histograms.",
            search_aliases=["histogram", "clipping", "overexposed", "compare images", "dynamic thresholding"],
            inputs=[
                io.Image.Input("without", tooltip="Images made without thresholding."),
                io.Image.Input("with_threshold", tooltip="The same made with it."),
            ],
            outputs=[
                io.Image.Output(display_name="picture"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, without, with_threshold) -> io.NodeOutput:
        measures = {"without": report.measure(without), "with": report.measure(with_threshold)}
        picture = report.draw({"without": without, "with": with_threshold}, measures)
        return io.NodeOutput(picture, report.text(measures), ui=ui.PreviewImage(picture, cls=cls))
