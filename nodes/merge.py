"""Live merging: models, text encoders and VAEs combined in the graph, with no file written."""

from typing import Any

from comfy_api.latest import io

from ..blocks.host import check_optional, check_pair, check_weights, fingerprint
from ..merge.elemental import check_selectors
from ..merge.live import host
from .checks import first_problem
from .inputs import elemental_input, key_map_input, non_finite_input, weights_input
from .show import shown

CATEGORY = "blockwork/merge"
GRAD_V, ONE, HALVES = "GRAD_V", "1", "0.5 | 0.5"  # texts that fit every layout


def _by_block(default: str, tooltip: str, **deck: Any) -> list[Any]:
    """What every merge by block ends with: key map, NaN policy, the weights, and selectors of single tensors."""
    return [
        key_map_input(),
        non_finite_input(),
        weights_input("weights", default, tooltip, **deck),
        elemental_input(),
    ]


def _outputs(kind: Any, name: str, tooltip: str) -> list[Any]:
    """The merged thing, and the report."""
    report = io.String.Output(
        "report",
        display_name="report",
        tooltip="The tensors that were merged, and those that were not with the reason.",
    )
    return [kind.Output(name, display_name=name, tooltip=tooltip), report]


class ByBlock(io.ComfyNode):
    """A merge whose block weights may name presets of the user's own, which can change behind its back."""

    @classmethod
    def fingerprint_inputs(cls, weights=None, weights_a=None, **_):
        return fingerprint(weights, weights_a)

    @classmethod
    def validate_inputs(cls, weights="1", weights_a="", elemental=""):
        return first_problem(
            (check_weights, weights), (check_optional, weights_a), (check_selectors, elemental)
        )


class MergeModels(ByBlock):
    """Two models, block by block: M_A A + M_B B."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeModels",
            display_name="Merge Models by Block",
            category=CATEGORY,
            description="Merges two models block by block (MBW). Each weight is the share of B in one block; A keeps the rest, or the share given in weights_a.",
            search_aliases=[
                "MBW",
                "merge block weighted",
                "block merge",
                "model merge",
                "weighted sum",
                "supermerger",
            ],
            inputs=[
                io.Model.Input("model_a", tooltip="The model that is kept where a weight is 0."),
                io.Model.Input("model_b", tooltip="The model that is taken where a weight is 1."),
                io.String.Input(
                    "weights_a",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="Optional weights of model A (M_A). Default: 1 - weights. Same forms as weights; the two need not sum to one.",
                ),
                *_by_block(
                    GRAD_V,
                    "Share of B per block: one number per block (25 for SD1, 19 for SDXL, 57 for Flux ...), one more with BASE first, one number for all, a preset name, or pairs such as IN00=0.75 or D00-D07=0.3. Any number, also below 0 and above 1.",
                ),
            ],
            outputs=_outputs(io.Model, "model", "A with the merge attached; A itself is not changed."),
        )

    @classmethod
    def execute(
        cls, model_a, model_b, weights_a="", key_map="mbw", non_finite="error", weights=GRAD_V, elemental=""
    ) -> io.NodeOutput:
        model, plan = host.merge_models(model_a, model_b, weights, weights_a, key_map, non_finite, elemental)
        return io.NodeOutput(model, plan.report(), ui=shown(ran=weights, layout=plan.layout))


class MergeTwoRatios(io.ComfyNode):
    """Two models with two ratios per block on one deck."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeTwoRatios",
            display_name="Merge Models by Two Ratios",
            category=CATEGORY,
            description="Multiplies each block of A by one ratio and of B by another and adds them: M_A A + M_B B. The two need not sum to one, so a block can be weakened or strengthened.",
            search_aliases=["mbw_each", "M_A M_B", "two ratio merge", "MBW", "block merge", "add models"],
            inputs=[
                io.Model.Input("model_a", tooltip="The model that M_A multiplies. Blocks that are not named keep its weights."),
                io.Model.Input("model_b", tooltip="The model that M_B multiplies."),
                *_by_block(
                    HALVES,
                    "M_A | M_B: two texts of weights separated by a bar. Each is one number per block, one number for all, a preset name, or pairs such as IN00=0.75.",
                    deck="BLOCKWORK_WEIGHT_PAIR",
                ),
            ],
            outputs=_outputs(io.Model, "model", "A with the merge attached; A itself is not changed."),
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, weights=None, **_):
        return fingerprint(*(weights or "").split("|"))

    @classmethod
    def validate_inputs(cls, weights=HALVES, elemental=""):
        return first_problem((check_pair, weights), (check_selectors, elemental))

    @classmethod
    def execute(
        cls, model_a, model_b, key_map="mbw", non_finite="error", weights=HALVES, elemental=""
    ) -> io.NodeOutput:
        model, plan = host.merge_two_ratios(model_a, model_b, weights, key_map, non_finite, elemental)
        return io.NodeOutput(model, plan.report(), ui=shown(ran=weights, layout=plan.layout))


class AddDifference(ByBlock):
    """Three models, block by block: A + M (B - C)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkAddDifference",
            display_name="Add Difference by Block",
            category=CATEGORY,
            description="Adds the difference of B and C to A, block by block: A + M (B - C). With an inpainting model as A, its extra input channels stay.",
            search_aliases=["add difference", "MBW", "three model merge", "inpainting merge", "supermerger"],
            inputs=[
                io.Model.Input("model_a", tooltip="The model that is added to."),
                io.Model.Input("model_b", tooltip="The model whose training is added to A."),
                io.Model.Input("model_c", tooltip="The model that B was trained from; it is subtracted."),
                *_by_block(
                    ONE,
                    "How much of B - C is added per block: one number per block, one number for all, a preset name, or pairs such as IN00=0.75 or D00-D07=0.3.",
                ),
            ],
            outputs=_outputs(io.Model, "model", "A with the difference attached; A itself is not changed."),
        )

    @classmethod
    def execute(
        cls, model_a, model_b, model_c, key_map="mbw", non_finite="error", weights=ONE, elemental=""
    ) -> io.NodeOutput:
        model, plan = host.add_model_difference(
            model_a, model_b, model_c, weights, key_map, non_finite, elemental
        )
        return io.NodeOutput(model, plan.report(), ui=shown(ran=weights, layout=plan.layout))


class ScaleBlocks(ByBlock):
    """One model with each block multiplied by a number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkScaleBlocks",
            display_name="Scale Blocks",
            category=CATEGORY,
            description="Multiplies the weights of each block by a number, or bypasses blocks, to see what a block does. Needs no second model.",
            search_aliases=[
                "block attenuation",
                "block scale",
                "MBW",
                "block study",
                "bypass block",
                "skip layer",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to study."),
                *_by_block(
                    ONE,
                    "Factor per block, 1 for no change: one number per block, or only the blocks that change, as in IN04=0.75. IN04=off bypasses a block: it passes its input on.",
                    neutral=1,
                ),
            ],
            outputs=_outputs(
                io.Model, "model", "The model with its blocks scaled; the input is not changed."
            ),
        )

    @classmethod
    def execute(cls, model, key_map="mbw", non_finite="error", weights=ONE, elemental="") -> io.NodeOutput:
        scaled, plan = host.scale_blocks(model, weights, key_map, non_finite, elemental)
        return io.NodeOutput(scaled, plan.report(), ui=shown(ran=weights, layout=plan.layout))


def _ratio(part: str, default: float):
    return io.Float.Input(
        "ratio",
        default=default,
        min=-10.0,
        max=10.0,
        step=0.001,
        tooltip=f"Share of B's {part}; with C connected, how much of B - C is added to A.",
    )


class MergeCLIP(io.ComfyNode):
    """Text encoders with one ratio, or one each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeCLIP",
            display_name="Merge CLIP",
            category=CATEGORY,
            description="Merges two text encoders with one ratio (the BASE ratio of MBW), or adds the difference of B and C to A. A dual or triple CLIP can have a ratio per text encoder.",
            search_aliases=[
                "clip merge",
                "text encoder merge",
                "base alpha",
                "MBW",
                "t5 merge",
                "dual clip merge",
            ],
            inputs=[
                io.Clip.Input("clip_a", tooltip="The text encoder that is kept at ratio 0."),
                io.Clip.Input("clip_b", tooltip="The text encoder that is taken at ratio 1."),
                _ratio("text encoder", 0.5),
                io.Clip.Input(
                    "clip_c", optional=True, tooltip="Connect for add difference: A + ratio (B - C)."
                ),
                io.String.Input(
                    "encoders",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Other ratios for single text encoders of a dual or triple CLIP, as in clip_l=0.5, t5xxl=0. The report lists their names.",
                ),
            ],
            outputs=_outputs(io.Clip, "clip", "The merged text encoder; A itself is not changed."),
        )

    @classmethod
    def validate_inputs(cls, encoders=""):
        return first_problem((host.check_encoders, encoders), (check_optional, encoders))

    @classmethod
    def execute(cls, clip_a, clip_b, ratio, clip_c=None, encoders="") -> io.NodeOutput:
        clip, plan = host.merge_clips(clip_a, clip_b, ratio, clip_c, encoders)
        return io.NodeOutput(clip, plan.report())


class MergeVAE(io.ComfyNode):
    """Autoencoders with one ratio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeVAE",
            display_name="Merge VAE",
            category=CATEGORY,
            description="Merges two VAEs with one ratio. Averaged VAEs tend to be dark and blurry, so other merges keep the VAE of A. 0 keeps A, 1 uses B.",
            search_aliases=["vae merge", "autoencoder merge"],
            inputs=[
                io.Vae.Input("vae_a", tooltip="The VAE that is kept at ratio 0."),
                io.Vae.Input("vae_b", tooltip="The VAE that is taken at ratio 1."),
                _ratio("VAE", 0.0),
                io.Vae.Input(
                    "vae_c", optional=True, tooltip="Connect for add difference: A + ratio (B - C)."
                ),
            ],
            outputs=_outputs(io.Vae, "vae", "The merged VAE; A itself is not changed."),
        )

    @classmethod
    def execute(cls, vae_a, vae_b, ratio, vae_c=None) -> io.NodeOutput:
        vae, plan = host.merge_vaes(vae_a, vae_b, ratio, vae_c)
        return io.NodeOutput(vae, plan.report())
