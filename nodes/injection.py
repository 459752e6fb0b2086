"""Injection: a different prompt in every block, on a conditioning, on a model, or in one sentence."""

import torch
from comfy_api.latest import io

from ..blocks.names import MIDDLE
from ..blocks.spec import Part
from ..blocks.spec_check import check as check_spec
from ..injection import host, host_change, host_encode
from ..injection.entries import MODES
from ..injection.picture import draw_plan
from ..injection.presets import PRESETS, described
from ..injection.prompt_syntax import check as check_prompt
from ..injection.report import plan_text
from ..injection.timing import LAST_STEP, windows
from .checks import first_problem
from .show import shown

CATEGORY = "blockwork/injection"
PARTS: dict[str, Part] = {"keys and values": "kv", "keys": "k", "values": "v"}
NAMES = {
    "positive": ("positive",),
    "negative": ("negative",),
    "positive and negative": ("positive", "negative"),
    "middle (Dual CFG)": ("middle",),
    "empty (Perp-Neg)": ("empty_negative_prompt",),
}


def _prompt() -> io.Input:
    return io.Conditioning.Input("prompt", tooltip="The prompt for the chosen blocks: a plain encoded text, also one with a schedule (start and end percent). Areas, masks, strengths and ControlNets belong on the conditioning instead.")  # fmt: skip


def _blocks() -> io.Input:
    """The block spec, last: it is drawn as a deck, and a deck above other widgets leaves gaps when resized."""
    return io.String.Input("blocks", default=MIDDLE, optional=True, extra_dict={"widgetType": "BLOCKWORK_SPEC"}, tooltip="Which blocks: IN07, M00, OUT03-OUT11(+2), input:7, idx:6, up_blocks.0.attentions.1, (16,down,1), all, down, mid, up, coarse, fine, 8, 16, 32, 64, SDXL's inner layers as OUT01.3-9, _ for all others; each with =weight, @0.0-0.4, /k or /v. A list of 25 (SD1) or 19 (SDXL) block weights works too.")  # fmt: skip


def _how_and_when() -> list[io.Input]:
    return [
        io.Combo.Input("mode", options=list(MODES), default="replace", optional=True, tooltip="replace and lerp: the block sees (1 - weight) own + weight prompt, at weight 1 the prompt alone. concat: both, one after the other. add: own + weight (prompt - reference)."),
        io.Float.Input("weight", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="How strongly; multiplies the weights written in blocks. 0 is off. concat takes 0 or 1, the other modes any number, also below 0 and above 1."),
        io.Combo.Input("part", options=list(PARTS), default="keys and values", optional=True, advanced=True, tooltip="Which half of attention sees the prompt: keys decide where in the image a word acts, values what it adds there. /k or /v in blocks goes first."),
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True, tooltip="Share of the sampling (by noise level, as in ComfyUI's own ranges) at which the injection begins."),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True, tooltip="Share of the sampling before which the injection ends. A range that starts where another ends never overlaps it."),
        io.Int.Input("first_step", default=0, min=0, max=LAST_STEP, optional=True, advanced=True, tooltip="Sampler step at which the injection begins, counted from 0 at the first sigma that the sampler gets (with KSampler Advanced: from its own start)."),
        io.Int.Input("last_step", default=LAST_STEP, min=0, max=LAST_STEP, optional=True, advanced=True, tooltip="Sampler step before which the injection ends."),
        io.Combo.Input("pooled", options=["base", "injected", "lerp"], default="base", optional=True, advanced=True, tooltip="The pooled embedding (SDXL, Kandinsky 5, HunyuanDiT, Stable Cascade, IF), which the whole model sees and no single block: of the conditioning, of the prompt, or mixed by weight. It changes only while the injection acts."),
        io.Combo.Input("controlnet_prompt", options=["base", "injected"], default="base", optional=True, advanced=True, tooltip="Which prompt a ControlNet on this conditioning sees: the conditioning's own, or the injected one with the same mode, weight and times."),
        io.Conditioning.Input("reference", optional=True, advanced=True, tooltip="For mode add: the prompt to subtract, for example the plain word that the prompt describes further."),
        io.String.Input("label", default="", optional=True, advanced=True, tooltip="What the plan calls this injection; empty: its blocks."),
    ]  # fmt: skip


def _change(model, prompt, blocks, options) -> host_change.Change:
    """The change that the shared inputs ask for."""
    times = ("start_percent", "end_percent", "first_step", "last_step")
    return host_change.change(
        model,
        prompt,
        blocks,
        windows=windows(**{name: options[name] for name in times if name in options}),
        part=PARTS[options.get("part", "keys and values")],
        for_controlnet=options.get("controlnet_prompt") == "injected",
        **{
            name: options[name]
            for name in ("mode", "weight", "pooled", "reference", "label")
            if name in options
        },
    )


class ByBlocks(io.ComfyNode):
    """A node with a block spec, which is checked before anything loads."""

    @classmethod
    def validate_inputs(cls, blocks=MIDDLE):
        return first_problem((check_spec, blocks))


class InjectIntoBlocks(ByBlocks):
    """Injects a prompt into blocks of a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkInjectIntoBlocks",
            display_name="Inject Into Blocks",
            category=CATEGORY,
            description="Gives chosen blocks of the model another prompt. Works on this conditioning alone, so with areas, masks, any guider, any batch; costs no extra model pass; chains with itself in order. Sample with the MODEL that comes out.",
            search_aliases=["prompt injection", "block prompt", "per-block prompt", "attn2 injection", "B-LoRA prompt", "P+"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with: a U-Net, a transformer with cross-attention, or an IF stage. Its blocks are read off it."),
                io.Conditioning.Input("conditioning", tooltip="What to inject into: a positive, a negative, or one region of several."),
                _prompt(),
                *_how_and_when(),
                _blocks(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model, able to carry out injections. Connect it to the sampler."),
                io.Conditioning.Output("conditioning_out", display_name="conditioning", tooltip="The conditioning with the injection."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, conditioning, prompt, blocks=MIDDLE, **options) -> io.NodeOutput:
        change = _change(model, prompt, blocks, options)
        return io.NodeOutput(host.prepare(model), change.on(conditioning))


class InjectIntoModel(ByBlocks):
    """Injects a prompt into blocks of whatever conditioning the sampler will have under a name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkInjectIntoModel",
            display_name="Inject Into Blocks (Model)",
            category=CATEGORY,
            description="The same injection without touching the conditioning: the model gives it to the positive, the negative or another conditioning of the guider, by name.",
            search_aliases=["prompt injection model", "attn2 prompt injection", "block prompt model"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with: a U-Net, a transformer with cross-attention, or an IF stage. Its blocks are read off it."),
                io.Combo.Input("name", options=list(NAMES), default="positive", tooltip="Which of the guider's conditionings gets the injection."),
                _prompt(),
                *_how_and_when(),
                _blocks(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model that injects. Connect it to the sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, name, prompt, blocks=MIDDLE, **options) -> io.NodeOutput:
        return io.NodeOutput(_change(model, prompt, blocks, options).by_name(model, NAMES[name]))


class BlockPromptEncode(io.ComfyNode):
    """Encodes a sentence with block prompts in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockPromptEncode",
            display_name="Block Prompt Encode",
            category=CATEGORY,
            description="A prompt whose words differ by block: a (~: IN00-OUT11: cute; M00: excellent :~) girl. Each different sentence is encoded once. For other encoders use Split Block Prompt.",
            search_aliases=["block prompt", "dumpunet", "in-sentence block prompt", "CLIP text encode blocks"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with: its blocks are read off it."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default="a (~: coarse: green lizard; _: red cube :~), photo", tooltip="A prompt. (~: blocks: words; blocks: words :~) puts words in its place for these blocks; _ means all others; later ones win. Blocks take weights, ranges and parts: M00=0.5, coarse@0.0-0.4, OUT03/k. Word weights (word:1.2) work as ever."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model, able to carry out injections. Connect it to the sampler."),
                io.Conditioning.Output("conditioning", tooltip="The encoded prompt."),
                io.String.Output("resolved", tooltip="The sentence that each block gets."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text=None):
        return first_problem((check_prompt, text))

    @classmethod
    def execute(cls, model, clip, text) -> io.NodeOutput:
        change, conditioning, resolved = host_encode.encode_block_prompt(model, clip, text)
        return io.NodeOutput(host.prepare(model), change.on(conditioning), resolved)


class BlockPresetNode(io.ComfyNode):
    """A block choice from the literature, as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockPreset",
            display_name="Block Preset",
            category=CATEGORY,
            description="Blocks that papers and articles report to carry content, style, composition, object or colour, as a text for any blocks input.",
            search_aliases=["content style blocks", "B-LoRA blocks", "coarse fine blocks", "composition block"],
            inputs=[io.Combo.Input("preset", options=list(PRESETS), default="coarse", tooltip="Which blocks. The second output says what they carry, in which models, and who reports it.")],
            outputs=[
                io.String.Output("blocks", tooltip="The block spec."),
                io.String.Output("source", tooltip="What the blocks carry and who reports it."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, preset) -> io.NodeOutput:
        return io.NodeOutput(PRESETS[preset].spec, described(preset))


class InjectionPlan(io.ComfyNode):
    """Shows which block receives what."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkInjectionPlan",
            display_name="Injection Plan",
            category=CATEGORY,
            description="An image of the model's blocks with what each receives, and the same as text. Injections that the model makes by name are listed after those of the conditioning.",
            search_aliases=["injection preview", "block prompt table", "which block gets what"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model the conditioning is for."),
                io.Conditioning.Input("conditioning", tooltip="A conditioning with injections; of several entries (regions) each gets an image."),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="One image per entry of the conditioning."),
                io.String.Output("text", tooltip="The plan as text."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, conditioning) -> io.NodeOutput:
        blocks, carried = host.blocks_of(model), host_change.carried_by(conditioning)
        by_name = host_change.carried_by_name(model)
        images = [torch.from_numpy(draw_plan(one, blocks)) for one in (*carried, *by_name.values())]
        texts = [plan_text(injections, blocks) for injections in carried]
        texts += [
            f"By the model, into the {name}:\n{plan_text(one, blocks)}" for name, one in by_name.items()
        ]
        text, image = "\n\n".join(texts), torch.stack(same_height(images))
        return io.NodeOutput(image, text, ui=shown(text, image, cls=cls))


def same_height(images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Images ``h w c`` padded with white below to the height of the tallest."""
    height = max(image.shape[0] for image in images)
    return [torch.nn.functional.pad(one, (0, 0, 0, 0, 0, height - one.shape[0]), value=1.0) for one in images]
