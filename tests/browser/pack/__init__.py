"""Nodes of the browser tests: one for every kind of deck, and plain ones to compare and to link with."""

import torch
from comfy_api.latest import ComfyExtension, io

NAMES = [f"IN{n:02}" for n in range(12)] + ["M00"] + [f"OUT{n:02}" for n in range(12)]
CATEGORY = "blockwork/tests"
WEB_DIRECTORY = "web"


def _deck_node(node_id: str, widget_type: str, default: str) -> type[io.ComfyNode]:
    class DeckNode(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            text = io.String.Input(
                "weights",
                default=default,
                optional=True,
                tooltip="The text under test.",
                extra_dict={"widgetType": widget_type},
            )
            return io.Schema(node_id, category=CATEGORY, inputs=[text], outputs=[io.String.Output("text")])

        @classmethod
        def execute(cls, weights: str = default) -> io.NodeOutput:
            return io.NodeOutput(weights, ui={"blockwork_text": [weights]})

    DeckNode.__name__ = node_id
    return DeckNode


def _floats_node(node_id: str, names: list[str] = NAMES) -> type[io.ComfyNode]:
    """One stock number widget per name."""

    class FloatsNode(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs: list[io.Input] = [
                io.Float.Input(name, default=0.5, min=0, max=1, step=0.01) for name in names
            ]
            return io.Schema(node_id, category=CATEGORY, inputs=inputs, outputs=[io.String.Output("text")])

        @classmethod
        def execute(cls, **weights: float) -> io.NodeOutput:
            return io.NodeOutput(",".join(f"{weight:g}" for weight in weights.values()))

    FloatsNode.__name__ = node_id
    return FloatsNode


class DeckTestText(io.ComfyNode):
    """A stock text field, to link from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "DeckTestText",
            category=CATEGORY,
            inputs=[io.String.Input("text", default="GRAD_V")],
            outputs=[io.String.Output("text")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(text)


class DeckTestShow(io.ComfyNode):
    """An output node that reports the text it got."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "DeckTestShow",
            category=CATEGORY,
            inputs=[io.String.Input("text", force_input=True)],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": (text,)})


class DeckTestDraw(io.ComfyNode):
    """A plain image for every text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "DeckTestDraw",
            category=CATEGORY,
            inputs=[io.String.Input("text", force_input=True)],
            outputs=[io.Image.Output("image")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(torch.full((1, 16, 32, 3), len(text) % 7 / 7))


class DeckTestMakeLoRA(io.ComfyNode):
    """The settings of Inspire's Make LoRA Block Weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "MakeLBW //Inspire",
            category=CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.String.Input("lora_name", default="none.safetensors"),
                io.Boolean.Input("inverse", default=False),
                io.Int.Input("seed", default=3),
                io.Float.Input("A", default=4.0),
                io.Float.Input("B", default=1.0),
                io.String.Input("block_vector", default="1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1"),
                io.Boolean.Input("bypass", default=False),
            ],
            outputs=[io.Custom("LBW_MODEL").Output("lbw_model"), io.String.Output("populated_vector")],
        )

    @classmethod
    def execute(cls, **given: object) -> io.NodeOutput:
        return io.NodeOutput(None, "")


class DeckTestApplyLoRA(io.ComfyNode):
    """The settings of Inspire's Apply LoRA Block Weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "ApplyLBW //Inspire",
            category=CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Float.Input("strength_model", default=0.8),
                io.Float.Input("strength_clip", default=0.5),
                io.Custom("LBW_MODEL").Input("lbw_model"),
            ],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip")],
        )

    @classmethod
    def execute(cls, model: object, clip: object, **given: object) -> io.NodeOutput:
        return io.NodeOutput(model, clip)


NODES = [
    _deck_node("DeckTestWeights", "BLOCKWORK_WEIGHTS", ",".join(["0"] * 25)),
    _deck_node("DeckTestPair", "BLOCKWORK_WEIGHT_PAIR", ",".join(["1"] * 25) + " | " + ",".join(["0"] * 25)),
    _deck_node("DeckTestSpec", "BLOCKWORK_SPEC", "IN04-IN08, M00=0.5, OUT03"),
    _floats_node("DeckTestFloats"),
    _floats_node("DeckTestFloats60", [f"D{n:02}" for n in range(60)]),  # as many as the blocks of Qwen-Image
    _floats_node("DeckTestHiddenFloats"),  # web/floats.js hides them behind a deck
    DeckTestText,
    DeckTestShow,
    DeckTestDraw,
    DeckTestMakeLoRA,
    DeckTestApplyLoRA,
]


class DeckTestExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> DeckTestExtension:
    return DeckTestExtension()
