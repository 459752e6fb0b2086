"""Block weights: one text of weights, typed, dragged or from a preset, for every node that takes one."""

import torch
from comfy_api.latest import io

from ..blocks import host, presets
from ..blocks.drawing import draw_weights
from ..blocks.names import LAYOUTS
from ..blocks.weights import BlockWeights
from .checks import first_problem
from .show import shown

NO_PRESET = "none"
EVERY_PRESET = list(dict.fromkeys(name for layout in LAYOUTS for name in presets.names(layout)))


class BlockWeightsNode(io.ComfyNode):
    """The list of block weights: sliders in the browser, one text in the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockWeights",
            display_name="Block Weights",
            category="blockwork/blocks",
            description="One weight per block of a model, as the text that every Blockwork node takes. Type it, drag the bars or choose a preset. The weights are then blended, mirrored, inverted, scaled and shifted, in that order.",
            search_aliases=["MBW", "block weights", "merge block weighted preset", "LBW", "weight preset"],
            inputs=[
                io.Combo.Input("layout", options=list(LAYOUTS), default="sd1", tooltip="The blocks of your model: sd1 (SD1 and SD2, 25 blocks), sdxl (19), flux (57), qwen_image (60) and others."),
                io.Combo.Input("blend_with", options=[NO_PRESET, *EVERY_PRESET], default=NO_PRESET, optional=True, tooltip="A preset to blend with the weights."),
                io.Float.Input("blend", default=0.5, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="Share of the blend_with preset: 0 uses the weights only, 1 the preset only."),
                io.Boolean.Input("mirror", default=False, optional=True, tooltip="Reverse the order of the weights: IN00 and OUT11 change places, IN01 and OUT10, and so on."),
                io.Boolean.Input("invert", default=False, optional=True, tooltip="Use one minus each weight: the same merge with the models exchanged."),
                io.Float.Input("scale", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="Multiply every weight by this."),
                io.Float.Input("offset", default=0.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="Add this to every weight, after scaling."),
                io.String.Input(
                    "weights",
                    default="GRAD_V",
                    optional=True,
                    tooltip="One number per block (one more with BASE first), one number for all, a built-in preset or your own, or pairs such as GRAD_V, IN00=0.75 or D00-D07=0.3.",
                    extra_dict={"widgetType": "BLOCKWORK_WEIGHTS"},
                ),
            ],
            outputs=[
                io.String.Output("weights_text", display_name="weights", tooltip="The resulting weights as text."),
                io.Image.Output("picture", display_name="picture", tooltip="The resulting weights as bars: a U for U-Nets, columns for transformers."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, weights=None, **_):
        return host.fingerprint(weights)

    @classmethod
    def validate_inputs(cls, weights="1"):
        return first_problem((host.check_weights, weights))

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
        given = host.read_weights(weights, layout, bypass=True)
        if (blend_with, mirror, invert, scale, offset) == (NO_PRESET, False, False, 1.0, 0.0):
            return _output(given)
        values, apart = list(given.values), dict(given.extra)
        rest = None if given.rest is None else _reshape([given.rest], invert, scale, offset)[0]
        if blend_with != NO_PRESET:
            values, rest = presets.blend(values, presets.preset(blend_with, layout), blend), None
        values = _reshape(presets.mirror(values) if mirror else values, invert, scale, offset)
        extra = zip(apart, _reshape(list(apart.values()), invert, scale, offset), strict=True)
        return _output(
            BlockWeights(given.layout, tuple(values), tuple(extra), rest=rest, off=given.off).checked()
        )


def _output(shaped: BlockWeights) -> io.NodeOutput:
    text = shaped.text()
    return io.NodeOutput(text, torch.from_numpy(draw_weights(shaped))[None], ui=shown(ran=text))


def _reshape(values: list[float], invert: bool, scale: float, offset: float) -> list[float]:
    return presets.scale(presets.invert(values) if invert else values, scale, offset)
