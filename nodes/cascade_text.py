"""Prompts for IF stages."""

from comfy_api.latest import io

from ..cascade import host_text
from . import cascade_inputs as shared


class TextEncode(io.ComfyNode):
    """A prompt through T5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkCascadeTextEncode",
            display_name="IF Text Encode",
            category=shared.CATEGORY,
            description="Encodes a prompt for IF stages. For the negative, encode an empty text: the stages were trained with "
            "T5's states of an empty text, not with zeros.",
            search_aliases=["DeepFloyd prompt", "T5 encode", "CLIP Text Encode", "caption cleaning"],
            inputs=[
                io.Clip.Input("clip", tooltip="T5 from IF T5 Loader."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. (words:1.2) sets a weight, embedding:name inserts an embedding. 77 tokens are read, the "
                    "rest is cut off.",
                ),
                io.Boolean.Input(
                    "clean_caption",
                    default=False,
                    optional=True,
                    tooltip="Clean the text as IF's training captions were: lower case, no links, markup or file names. "
                    "This also removes the brackets of prompt weights.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The encoded prompt.")],
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
            display_name="IF Style Prompt",
            category=shared.CATEGORY,
            description="Uses a second prompt for the pooled text embedding, as IF's style transfer does: cross-attention reads "
            "the content prompt, and the style prompt sets the overall look.",
            search_aliases=["style transfer", "pooled prompt", "DeepFloyd style"],
            inputs=[
                io.Conditioning.Input("content", tooltip="The prompt for cross-attention."),
                io.Conditioning.Input("style", tooltip="The prompt for the pooled embedding."),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The content prompt with the pooled text of the style.",
                )
            ],
        )

    @classmethod
    def execute(cls, content, style) -> io.NodeOutput:
        return io.NodeOutput(host_text.with_pooled_text(content, style))
