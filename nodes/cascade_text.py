"""Prompts for pixel stages."""

from comfy_api.latest import io

from ..cascade import host_text
from . import cascade_inputs as shared


class TextEncode(io.ComfyNode):
    """A prompt through T5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeTextEncode",
            display_name="Cascade Text Encode",
            category=shared.CATEGORY,
            description="Encodes a prompt for IF stages. Encode an empty text for the negative: T5 of nothing is what "
            "the stages were trained with, not zeros.",
            search_aliases=["DeepFloyd prompt", "T5 encode", "CLIP Text Encode", "caption cleaning"],
            inputs=[
                io.Clip.Input("clip", tooltip="T5 from the Cascade T5 Loader."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt; (words:1.2) weighs them. 77 tokens are read, the rest is cut.",
                ),
                io.Boolean.Input(
                    "clean_caption",
                    default=False,
                    optional=True,
                    tooltip="Clean the text as IF's training captions were: lower case, no links, markup, file names. "
                    "It also removes the brackets of prompt weights.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, clip, text, clean_caption=False) -> io.NodeOutput:
        return io.NodeOutput(host_text.encode(clip, text, clean_caption))


class StylePrompt(io.ComfyNode):
    """A second prompt for the pooled embedding alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeStylePrompt",
            display_name="Cascade Style Prompt",
            category=shared.CATEGORY,
            description="Gives the pooled text embedding a prompt of its own, as IF's style transfer does: the content "
            "prompt stays in cross-attention, the style prompt sets the overall look.",
            search_aliases=["style transfer", "pooled prompt", "DeepFloyd style"],
            inputs=[
                io.Conditioning.Input("content", tooltip="The prompt that cross-attention keeps reading."),
                io.Conditioning.Input("style", tooltip="The prompt that the pooled embedding is made of."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, content, style) -> io.NodeOutput:
        return io.NodeOutput(host_text.with_pooled_text(content, style))
