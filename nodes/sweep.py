"""Block sweeps: one image per block of a model, laid out in the shape of the model."""

from typing import Any

import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import io

from ..blocks.names import as_layout
from ..merge.lora import host as host_lora
from ..merge.lora.host_files import FOLDER, stamp
from ..study import host as host_sweep
from ..study import host_cells
from ..study.graph import DEFAULTS, LORA_MODES, LORA_RATIOS, NO_LORA, SCALE, check, sweep_graph
from ..study.host_page import save_page
from ..study.image import as_bytes, by_cell, draw_plot, draw_sweep, measure, report
from ..study.page import sweep_page
from ..study.sweep import check_blocks, check_share, parse_sweep, read_ratios, read_seeds
from .checks import check_prefix, first_problem
from .inputs import key_map_input

CATEGORY = "blockwork/merge"
SOCKETS = (
    "model", "positive", "negative", "latent_image", "vae", "model_b", "clip_vision", "sampler", "sigmas"
)  # fmt: skip


def _outputs() -> list[Any]:
    return [
        io.Image.Output("picture", display_name="image", tooltip="All images in the shape of the model, with those of the unmodified model beside them."),
        io.Image.Output("plot", display_name="plot", tooltip="How far each block moved the images."),
        io.String.Output("report", display_name="report", tooltip="The distances as a table, largest first."),
    ]  # fmt: skip


def _cell_size():
    return io.Int.Input("cell_size", default=128, min=16, max=2048, optional=True, tooltip="Longer side of each image in the overview, in pixels.")  # fmt: skip


def _clip_vision():
    return io.ClipVision.Input("clip_vision", optional=True, tooltip="Optional. With a CLIP vision model the report also compares image embeddings (content, not pixels).")  # fmt: skip


def _page():
    return io.String.Input("page", default="", optional=True, advanced=True, tooltip="Optional. A file name such as my_sweep saves the sweep as one HTML page in the output folder: all images at full size, their distances, and a slide compare. It opens in any browser without ComfyUI.")  # fmt: skip


class BlockSweep(io.ComfyNode):
    """Expands into one merge per cell and one sampler and decoder per image, each with its own cache entry."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockSweep",
            display_name="Block Sweep",
            category=CATEGORY,
            description="Changes one block at a time (scales it, takes it from a second model, or changes it in a LoRA), samples each change with the same seeds, and shows all images in the shape of the model. Use it to see what each block does. No model is written to disk. A stopped sweep resumes.",
            search_aliases=["block study", "block attenuation", "MBW grid", "XYZ plot blocks", "which block does what", "ratio sweep", "supermerger", "skip block", "bypass block", "layer skip", "lora block sweep", "effective block analyzer"],
            enable_expand=True,
            has_intermediate_output=True,  # a page that is loaded again gets the view from the cache
            hidden=[io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="The model to study."),
                io.Conditioning.Input("positive", tooltip="The prompt, the same in every cell."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, the same in every cell."),
                io.Latent.Input("latent_image", tooltip="The latent to sample, as for a KSampler."),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                io.String.Input("seeds", default="1, 2, 3, 4", tooltip="Seeds of every cell: 1, 2, 3, 4 or 1-4."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps per image."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler_ancestral", tooltip="The sampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal", tooltip="The scheduler."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share of the noise, as for a KSampler."),
                io.String.Input("ratios", default="0.75", tooltip="What each block is multiplied by; with model_b connected, the share of B in it. Several ratios make several rows: 0, 0.25, 0.5. The word off bypasses the block: it passes its input on."),
                io.String.Input("blocks", default="ALL", tooltip="The blocks to change: ALL, or names and ranges such as IN04, M00, OUT03-OUT05. One block with many ratios is a ratio sweep."),
                _cell_size(),
                io.Model.Input("model_b", optional=True, tooltip="Connect to swap blocks instead of scaling them: each cell takes one block from this model, by the share in ratios."),
                _clip_vision(),
                io.Sampler.Input("sampler", optional=True, tooltip="Connect with sigmas to sample as SamplerCustom does; steps, sampler_name, scheduler and denoise are then not used."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The noise levels for the connected sampler."),
                key_map_input(),
                io.String.Input("share_a", default="", optional=True, advanced=True, tooltip="With model_b: the share of A in the swept block (M_A). Empty keeps one minus the share of B."),
                _page(),
                io.Combo.Input("lora_name", options=[NO_LORA, *folder_paths.get_filename_list(FOLDER)], default=NO_LORA, optional=True, tooltip="Choose a LoRA to study its blocks instead of the model's. ALL then means the blocks that the LoRA changes."),
                io.Combo.Input("lora_mode", options=list(LORA_MODES), default=SCALE, optional=True, tooltip="With lora_name: scale multiplies one block of the LoRA by the ratios, mute switches one block off, solo uses one block alone. The reference is the whole LoRA for scale and mute, the model without it for solo. Mute and solo do not use ratios."),
                io.Float.Input("lora_strength", default=1.0, min=-100.0, max=100.0, step=0.01, optional=True, tooltip="With lora_name: the strength of the LoRA for the diffusion model. Prompts are encoded outside, so the text encoder is not changed."),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, lora_name=NO_LORA, **_):
        return "" if lora_name == NO_LORA else stamp(lora_name)

    @classmethod
    def validate_inputs(cls, seeds=None, ratios=None, blocks="ALL", share_a="", page=""):
        return first_problem(
            (read_seeds, seeds),
            (read_ratios, ratios),
            (check_blocks, blocks),
            (check_share, share_a),
            (check_prefix, page or None),
        )

    @classmethod
    def execute(
        cls, model, seeds, ratios, blocks, key_map="mbw", lora_name=NO_LORA, lora_mode=SCALE, **settings
    ) -> io.NodeOutput:
        if lora_name != NO_LORA:
            ratios = ratios if lora_mode == SCALE else LORA_RATIOS[lora_mode]
            if blocks.strip().upper() == "ALL":
                blocks = ", ".join(host_lora.touched(model, lora_name, key_map))
        sweep = parse_sweep(host_sweep.layout_of_model(model), blocks, ratios, seeds)
        host_sweep.check_bypass(model, sweep)
        links = host_sweep.own_links(cls.hidden.dynprompt)
        widgets = {name: value for name, value in settings.items() if name not in SOCKETS}
        inputs = (
            DEFAULTS
            | {"ratios": ratios, "key_map": key_map, "lora_name": lora_name, "lora_mode": lora_mode}
            | widgets
            | {name: link for name, link in links.items() if name in SOCKETS}
        )
        check(inputs)
        if settings.get("page"):
            check_prefix(settings["page"])
        return host_sweep.expand(
            cls.hidden.dynprompt,
            lambda prefix, finished: sweep_graph(sweep, inputs, prefix, finished),
            host_sweep.PREVIEWS,
        )


class SweepGrid(io.ComfyNode):
    """Assembles the images of a sweep, wherever they were sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSweepGrid",
            display_name="Block Sweep Image",
            category=CATEGORY,
            description="Shows the images of a block sweep in the shape of the model and measures how far each block moved them. Block Sweep does this already; use this node for images that were sampled elsewhere.",
            search_aliases=["block study", "MBW grid", "image grid", "sweep assemble", "XYZ plot blocks"],
            is_input_list=True,
            has_intermediate_output=True,  # a page that is loaded again gets the view from the cache
            inputs=[
                io.Image.Input("images", tooltip="The images as a list: those of the unmodified model first, one per seed, then for every block those of every ratio."),
                io.String.Input("layout", default="sd1", tooltip="The blocks of the model: sd1 (25, also SD2) or sdxl (19)."),
                io.String.Input("blocks", default="ALL", tooltip="The blocks of the sweep, in the order of the images."),
                io.String.Input("ratios", default="0.75", tooltip="The ratios of the sweep."),
                io.String.Input("seeds", default="1, 2, 3, 4", tooltip="The seeds of the sweep."),
                io.String.Input("title", default="", optional=True, tooltip="Written above the images."),
                _cell_size(),
                _clip_vision(),
                _page(),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, layout=(None,), blocks=(None,), ratios=(None,), seeds=(None,), page=("",)):
        return first_problem(
            (as_layout, layout[0]),
            (read_ratios, ratios[0]),
            (read_seeds, seeds[0]),
            (parse_sweep, layout[0], blocks[0], ratios[0], seeds[0]),
            (check_prefix, page[0] or None),
        )

    @classmethod
    def execute(
        cls,
        images,
        layout,
        blocks,
        ratios,
        seeds,
        title=("",),
        cell_size=(128,),
        clip_vision=(None,),
        page=("",),
    ) -> io.NodeOutput:
        sweep = parse_sweep(layout[0], blocks[0], ratios[0], seeds[0])
        images = [torch.from_numpy(as_bytes(image)) for image in images]
        pictures = by_cell(sweep, images)
        embeddings = host_sweep.embed(clip_vision[0], pictures) if clip_vision[0] is not None else None
        moves = measure(sweep, pictures, embeddings)
        picture, plot = draw_sweep(sweep, pictures, moves, cell_size[0], title[0]), draw_plot(moves, title[0])
        texts = report(sweep, moves, title[0])
        shown = host_sweep.preview(sweep, pictures, moves)
        host_cells.finish(images).update(shown[host_sweep.PREVIEWS][0])
        if page[0].strip():
            path = save_page(sweep_page(sweep, pictures, moves, title[0]), page[0].strip())
            texts = f"{texts}\n\nPage: {path}"
        return io.NodeOutput(torch.from_numpy(picture)[None], torch.from_numpy(plot)[None], texts, ui=shown)
