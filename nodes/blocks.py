"""Block weights: one list of numbers, shaped by hand or by preset, for every node that takes one."""

import torch
from comfy_api.latest import io

from ..blocks import host, presets
from ..blocks.names import LAYOUTS
from ..blocks.picture import draw_weights
from ..blocks.weights import BlockWeights

NO_PRESET = "none"
EVERY_PRESET = list(dict.fromkeys(name for layout in LAYOUTS for name in presets.names(layout)))


class BlockWeightsNode(io.ComfyNode):
    """The MBW list: sliders in the browser, one text in the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockWeights",
            display_name="Block Weights",
            category="blockwork/blocks",
            description="One weight per U-Net block, as the MBW text that every Blockwork node takes: typed, dragged, or from a preset; then blended, mirrored, inverted, scaled and shifted, in that order.",
            search_aliases=["MBW", "block weights", "merge block weighted preset", "LBW", "weight preset"],
            inputs=[
                io.Combo.Input("layout", options=list(LAYOUTS), default="sd1", tooltip="Which blocks the numbers address: sd1 (SD1 and SD2, 25 blocks) or sdxl (19)."),
                io.Combo.Input("blend_with", options=[NO_PRESET, *EVERY_PRESET], default=NO_PRESET, optional=True, tooltip="A preset to mix into the weights."),
                io.Float.Input("blend", default=0.5, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="How far the weights go towards the blend_with preset: 0 not at all, 1 all the way."),
                io.Boolean.Input("mirror", default=False, optional=True, tooltip="Swap the down and the up path: IN00 with OUT11, IN01 with OUT10, and so on."),
                io.Boolean.Input("invert", default=False, optional=True, tooltip="Use one minus each weight: the same merge with the models exchanged."),
                io.Float.Input("scale", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="Multiply every weight by this."),
                io.Float.Input("offset", default=0.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="Add this to every weight, after scaling."),
                io.String.Input(
                    "weights",
                    default="GRAD_V",
                    optional=True,
                    tooltip="25 numbers for sd1 or 19 for sdxl (one more with BASE first), one number for all, the name of a preset of the field's or of your own, or pairs such as GRAD_V, IN00=0.75.",
                    extra_dict={"widgetType": "BLOCKWORK_WEIGHTS"},
                ),
            ],
            outputs=[
                io.String.Output("weights_text", display_name="weights", tooltip="The resulting numbers as MBW text."),
                io.Image.Output("picture", display_name="picture", tooltip="The resulting numbers as bars in the shape of the U."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, weights=None, **_):
        return host.fingerprint(weights)

    @classmethod
    def execute(
        cls,
        layout,
        blend_with=NO_PRESET,
        blend=0.5,
        mirror=False,
        invert=False,
        scale=1.0,
        offset=0.0,
        weights="GRAD_V",
    ) -> io.NodeOutput:
        given = host.read_weights(weights, layout)
        values, apart = list(given.values), dict(given.extra)
        if blend_with != NO_PRESET:
            values = presets.blend(values, presets.preset(blend_with, layout), blend)
        values = presets.mirror(values) if mirror else values
        shaped = BlockWeights(
            given.layout,
            tuple(_reshape(values, invert, scale, offset)),
            tuple(zip(apart, _reshape(list(apart.values()), invert, scale, offset), strict=True)),
        ).checked()
        return io.NodeOutput(shaped.text(), torch.from_numpy(draw_weights(shaped))[None])


def _reshape(values: list[float], invert: bool, scale: float, offset: float) -> list[float]:
    return presets.scale(presets.invert(values) if invert else values, scale, offset)


NODES = [BlockWeightsNode]
