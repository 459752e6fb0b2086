"""LoRA by block: load, as hooks, measure, save."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..blocks.host import fingerprint
from ..merge.lora import host, host_extract, host_report
from ..merge.lora.host import Settings
from ..merge.lora.host_files import FOLDER, stamp
from .checks import check_prefix, first_problem
from .inputs import key_map_input, weights_input
from .show import shown

CATEGORY = "blockwork/LoRA"
REPORT = io.String.Output("report", display_name="report", tooltip="The weight and the number of patches per block, the blocks that the LoRA does not change, and tensors that were not loaded.")  # fmt: skip


def _file():
    return io.Combo.Input("lora_name", options=folder_paths.get_filename_list(FOLDER), tooltip="The LoRA file. All types and namings that ComfyUI reads work.")  # fmt: skip


def _model(tooltip: str, optional: bool = False):
    if optional:
        tooltip += " Without it the blocks are those that the names in the file tell."
    return [
        io.Model.Input("model", optional=optional, tooltip=tooltip),
        io.Clip.Input("clip", optional=True, tooltip="The text encoder. Without it the text-encoder part of the LoRA is not used."),
    ]  # fmt: skip


def _strengths():
    return [
        io.Float.Input("strength_model", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip="Strength for the diffusion model, multiplied with the weight of each block."),
        io.Float.Input("strength_clip", default=1.0, min=-100.0, max=100.0, step=0.01, optional=True, tooltip="Strength for the text encoder, multiplied with the weight of BASE."),
    ]  # fmt: skip


def _weights():
    """How the weights are read, and the weights at the end: the deck stands at the foot of the node."""
    return [
        io.String.Input("elemental", default="", multiline=True, optional=True, advanced=True, tooltip="Weights of single elements, later ones take precedence: IN05-OUT05:attn:0, :ff:0.5. A name before three fields is allowed, as in LoRA Block Weight."),
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, advanced=True, control_after_generate=True, tooltip="Seed of the letters R (0 to 1) and U (-1.5 to 1.5) in the weights."),
        io.Float.Input("a", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, advanced=True, tooltip="The value of the letter A in the weights; a is half of it."),
        io.Float.Input("b", default=0.0, min=-10.0, max=10.0, step=0.01, optional=True, advanced=True, tooltip="The value of the letter B in the weights; b is half of it."),
        key_map_input(),
        weights_input("weights", "1", "Weight of the LoRA per block: names and ranges (IN04-IN08=0.5; blocks that are not named keep 1), a preset such as MIDD or OUTALL, or a list of LoRA Block Weight (12, 17, 20, 21, 26, 27, 58 or 61 numbers; blocks outside the list get 0).", neutral=1),
    ]  # fmt: skip


class ByBlock(io.ComfyNode):
    """A LoRA file with block weights: runs again when the file or a named preset changes."""

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, weights=None, **_):
        return [stamp(lora_name) if lora_name else "", fingerprint(weights)]

    @classmethod
    def validate_inputs(cls, weights="1", elemental=""):
        return first_problem((host.check_weights, weights), (host.check_selectors, elemental))


class LoadLoRA(ByBlock):
    """Core's LoRA loader with one weight per block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkLoadLoRA",
            display_name="Load LoRA by Block",
            category=CATEGORY,
            description="Loads a LoRA with one weight per block of the model. Works for every architecture and every LoRA naming that ComfyUI reads. Moving a slider recomputes only its block.",
            search_aliases=["LoRA Block Weight", "LBW", "Lora Loader (Block Weight)", "load lora", "lora blocks"],
            inputs=[*_model("The model that the LoRA is applied to."), _file(), *_strengths(), *_weights()],
            outputs=[
                io.Model.Output("out_model", display_name="model", tooltip="The model with the LoRA attached; the input is not changed."),
                io.Clip.Output("out_clip", display_name="clip", tooltip="The text encoder with the LoRA attached; none when no clip is connected."),
                REPORT,
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, lora_name, strength_model, clip=None, strength_clip=1.0, weights="1", **settings
    ) -> io.NodeOutput:
        loaded = host.load_by_block(
            model, clip, lora_name, strength_model, strength_clip, weights, Settings(**settings)
        )
        placed = loaded.placed
        return io.NodeOutput(*loaded[:3], ui=shown(untouched=placed.untouched, layout=placed.layout))


class HookLoRA(ByBlock):
    """The same as HOOKS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkHookLoRA",
            display_name="Create Hook LoRA by Block",
            category=CATEGORY,
            description="Creates HOOKS from a LoRA with one weight per block, for Set CLIP Hooks, Cond Set Props and Set Hook Keyframes: a LoRA for one prompt only, or one whose strength changes during sampling.",
            search_aliases=["hook lora", "LoRA Block Weight", "lora schedule", "LBW start stop"],
            inputs=[
                *_model("The model that the hooks will be used with. It gives the names of the layers and is not changed."),
                _file(),
                *_strengths(),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Hooks to combine with."),
                *_weights(),
            ],
            outputs=[io.Hooks.Output("hooks", display_name="hooks", tooltip="The LoRA as hooks."), REPORT],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, lora_name, strength_model, clip=None, strength_clip=1.0, prev_hooks=None, weights="1", **settings
    ) -> io.NodeOutput:  # fmt: skip
        made = host.hook_by_block(
            model, clip, lora_name, strength_model, strength_clip, weights, Settings(**settings), prev_hooks
        )
        placed = made.placed
        return io.NodeOutput(*made[:2], ui=shown(untouched=placed.untouched, layout=placed.layout))


class LoRAReport(io.ComfyNode):
    """The size of a LoRA per block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkLoRAReport",
            display_name="LoRA Report",
            category=CATEGORY,
            description="Shows how much a LoRA changes each block: exact norm of the change, its share of the model's own norm, and the effective rank, as an image and a table.",
            search_aliases=["lora analysis", "lora block norm", "which blocks does a lora change", "lora rank"],
            is_output_node=True,
            inputs=[*_model("The model that the LoRA is for.", optional=True), _file(), key_map_input()],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Blocks in the shape of the model; the longest bar is the block with the largest share."),
                io.String.Output("report", display_name="report", tooltip="Per block: norm of the change, share of the model's norm, effective rank, patches."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_):
        return stamp(lora_name) if lora_name else ""

    @classmethod
    def execute(cls, lora_name, model=None, clip=None, key_map="mbw") -> io.NodeOutput:
        image, text, shares = host_report.lora_report(model, clip, lora_name, key_map)
        return io.NodeOutput(image, text, ui=shown(text, image, change=shares, cls=cls))


class SaveLoRA(ByBlock):
    """A LoRA file scaled per block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSaveLoRA",
            display_name="Save LoRA by Block",
            category=CATEGORY,
            description="Saves a LoRA with its block weights multiplied in. Names and metadata stay, so every LoRA loader reads the file. DoRA, OFT and BOFT layers can be kept (1) or left out (0).",
            search_aliases=["bake lora blocks", "lora block weight save", "resize lora", "LBW save"],
            is_output_node=True,
            inputs=[
                *_model("The model that the LoRA is for. It gives the names of the layers and is not changed.", optional=True),
                _file(),
                io.String.Input("filename_prefix", default="loras/by_block", tooltip="Name of the file below the output folder; loaders list files in output/loras. A number is added."),
                *_weights(),
            ],
            outputs=[
                io.String.Output("file", display_name="file", tooltip="The name of the written file."),
                io.String.Output("report", display_name="report", tooltip="How many tensors were written."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, weights="1", elemental="", filename_prefix=None):
        return first_problem(
            (host.check_weights, weights), (host.check_selectors, elemental), (check_prefix, filename_prefix)
        )

    @classmethod
    def execute(
        cls, lora_name, filename_prefix, model=None, clip=None, weights="1", **settings
    ) -> io.NodeOutput:
        path, text = host_report.save_by_block(
            model, clip, lora_name, filename_prefix, weights, Settings(**settings)
        )
        return io.NodeOutput(path.name, text, ui=shown(text))


def _dtype():
    return io.Combo.Input("dtype", options=list(host_extract.DTYPES), default="fp16", optional=True, tooltip="Number format of the file.")  # fmt: skip


def _written() -> list[Any]:
    return [
        io.String.Output("file", display_name="file", tooltip="The name of the written file."),
        io.String.Output("report", display_name="report", tooltip="Layers, ranks and errors of the file."),
    ]


class ExtractLoRA(io.ComfyNode):
    """A LoRA from the difference of two models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkExtractLoRA",
            display_name="Extract LoRA",
            category=CATEGORY,
            description="Saves the difference between a model and its base as a LoRA, layer by layer, of a fixed rank or by energy. Convolutions are included. The report gives the error per block.",
            search_aliases=["lora extraction", "extract lora from checkpoint", "svd lora", "Extract and Save Lora"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The tuned or merged model. Patches are included."),
                io.Model.Input("base", tooltip="The model that is subtracted."),
                io.String.Input("filename_prefix", default="loras/extracted", tooltip="Name of the file below the output folder; a number is added."),
                io.Int.Input("rank", default=32, min=1, max=4096, tooltip="Largest rank of a layer."),
                io.Float.Input("energy", default=1.0, min=0.01, max=1.0, step=0.001, optional=True, tooltip="Below 1: the smallest rank per layer whose squared singular values reach this share of the whole difference."),
                _dtype(),
                key_map_input(),
            ],
            outputs=_written(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return first_problem((check_prefix, filename_prefix))

    @classmethod
    def execute(
        cls, model, base, filename_prefix, rank, energy=1.0, dtype="fp16", key_map="mbw"
    ) -> io.NodeOutput:
        path, text = host_extract.extract(model, base, filename_prefix, rank, energy, dtype, key_map)
        return io.NodeOutput(path.name, text, ui=shown(text))


class MergeLoRA(io.ComfyNode):
    """Two LoRAs as one file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkMergeLoRA",
            display_name="Merge LoRAs by Block",
            category=CATEGORY,
            description="Saves the sum of two LoRAs as one LoRA, each with its own weight per block. Exact (ranks add), or reduced to a rank. With a model, files of different naming can be mixed.",
            search_aliases=["lora merge", "combine loras", "add loras", "lora resize"],
            is_output_node=True,
            inputs=[
                *_model("The model that both LoRAs are for. It gives the names of the layers and is not changed.", optional=True),
                io.Combo.Input("lora_a", options=folder_paths.get_filename_list(FOLDER), tooltip="The first LoRA file."),
                io.Combo.Input("lora_b", options=folder_paths.get_filename_list(FOLDER), tooltip="The second LoRA file."),
                io.String.Input("filename_prefix", default="loras/merged", tooltip="Name of the file below the output folder; a number is added."),
                io.Int.Input("rank", default=0, min=0, max=4096, optional=True, tooltip="Largest rank of a layer; 0 keeps the sum exact, its rank is the sum of both."),
                _dtype(),
                key_map_input(),
                io.String.Input("weights_b", default="1", optional=True, tooltip="Weights of the second LoRA per block, in the same forms as weights."),
                weights_input("weights", "1", "Weights of the first LoRA per block: names and ranges, a preset, or a list of LoRA Block Weight.", neutral=1),
            ],
            outputs=_written(),
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_a=None, lora_b=None, weights=None, weights_b=None, **_):
        return [stamp(name) if name else "" for name in (lora_a, lora_b)] + [fingerprint(weights, weights_b)]

    @classmethod
    def validate_inputs(cls, weights="1", weights_b="1", filename_prefix=None):
        return first_problem(
            (host.check_weights, weights), (host.check_weights, weights_b), (check_prefix, filename_prefix)
        )

    @classmethod
    def execute(
        cls, lora_a, lora_b, filename_prefix, model=None, clip=None, rank=0, dtype="fp16", key_map="mbw", weights_b="1",
        weights="1",
    ) -> io.NodeOutput:  # fmt: skip
        path, text = host_extract.merge_loras(
            model,
            clip,
            (lora_a, lora_b),
            (weights, weights_b),
            filename_prefix,
            rank,
            dtype,
            Settings(key_map=key_map),
        )
        return io.NodeOutput(path.name, text, ui=shown(text))
