"""Block prompts for any text encoder: split into plain sentences, encoded by any node, and injected again."""

from comfy_api.latest import io

from ..blocks.spec_check import check as check_spec
from ..injection import host, host_change, host_encode
from ..injection.prompt_syntax import check as check_prompt
from .checks import first_problem
from .injection import CATEGORY


class SplitBlockPrompt(io.ComfyNode):
    """Splits a block prompt into plain sentences and the blocks that get them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSplitBlockPrompt",
            display_name="Split Block Prompt",
            category=CATEGORY,
            description="Splits a (~: blocks: words :~) prompt into the base sentence and, as lists, the other sentences with the blocks they are for. Encode them with any node (prompt schedules, LoRA tags, other encoders), then connect Inject Block Prompts.",
            search_aliases=["block prompt", "split prompt", "prompt control blocks", "dumpunet"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with: its blocks are read off it."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default="a (~: coarse: green lizard; _: red cube :~), photo", tooltip="A prompt with block prompts, as for Block Prompt Encode."),
            ],
            outputs=[
                io.String.Output("base", tooltip="The sentence of all blocks that nothing else is said of."),
                io.String.Output("sentences", is_output_list=True, tooltip="The other sentences, in the order in which they are injected."),
                io.String.Output("blocks", is_output_list=True, tooltip="The blocks of each sentence, with weight, part and time."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text=None):
        return first_problem((check_prompt, text))

    @classmethod
    def execute(cls, model, text) -> io.NodeOutput:
        return io.NodeOutput(*host_encode.split_block_prompt(model, text))


class InjectBlockPrompts(io.ComfyNode):
    """Injects a list of prompts, each into its own blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkInjectBlockPrompts",
            display_name="Inject Block Prompts",
            category=CATEGORY,
            description="Injects a list of encoded prompts into a conditioning, one after the other, each into its own blocks: the counterpart of Split Block Prompt.",
            search_aliases=["block prompt", "prompt injection list", "inject several prompts"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Conditioning.Input("conditioning", tooltip="The encoded base sentence."),
                io.Conditioning.Input("prompts", tooltip="The encoded sentences, as a list."),
                io.String.Input("blocks", force_input=True, tooltip="The blocks of each sentence, as a list of the same length."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model, able to carry out injections. Connect it to the sampler."),
                io.Conditioning.Output("conditioning_out", display_name="conditioning", tooltip="The conditioning with the injections."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, blocks=()):
        return first_problem(*((check_spec, spec) for spec in blocks))

    @classmethod
    def execute(cls, model, conditioning, prompts, blocks) -> io.NodeOutput:
        changed = host_change.inject_all(model[0], conditioning[0], prompts, blocks)
        return io.NodeOutput(host.prepare(model[0]), changed)
