"""Block growth: one prompt takes over from another, block by block."""

import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import io

from ..injection import host
from ..injection.picture import draw_grid
from ..injection.sweep import CUSTOM, ORDERS, check_texts, growth
from ..study import host as host_sweep
from ..study import host_cells
from ..study.growth import growth_graph
from ..study.image import as_bytes
from .checks import first_problem, listed

CATEGORY = "blockwork/injection"
SOCKETS = ("model", "positive", "prompt", "negative", "latent_image", "vae")


def _outputs() -> list:
    return [
        io.Image.Output("grid", tooltip="All stages with labels."),
        io.Image.Output("images", tooltip="The images of all stages as a batch."),
        io.String.Output("stages", tooltip="The blocks of each stage, one line each."),
    ]


class BlockGrowth(io.ComfyNode):
    """Expands into one injection, sampler and decoder per stage, each with its own cache entry."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockGrowth",
            display_name="Block Growth",
            category=CATEGORY,
            description="Gives prompt B to no block, then to one block more each time, until it has them all, and shows the images in a labelled grid. Use it to see which block carries what. Each stage has its own cache entry: a stopped growth resumes. Nothing is written to disk.",
            enable_expand=True,
            hidden=[io.Hidden.dynprompt],
            search_aliases=["block sweep", "block study", "prompt growth", "XY plot blocks", "which block does what"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Conditioning.Input("positive", tooltip="Prompt A: the prompt of the first stage."),
                io.Conditioning.Input("prompt", tooltip="Prompt B: the prompt that takes over."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, the same in every stage."),
                io.Latent.Input("latent_image", tooltip="The latent to sample, as for a KSampler."),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                io.Combo.Input("order", options=[*ORDERS, CUSTOM], default="from the middle outward", tooltip="In which order blocks are added."),
                io.String.Input("within", default="all", tooltip="The blocks that take part, as a block spec: all, coarse, or IN07-OUT05."),
                io.String.Input("custom", default="8\n16\n32, 64", multiline=True, tooltip="For order custom: one block spec per line, added from the top."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Seed of the noise, the same for every stage."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps per image."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="The scheduler."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share of the noise, as for a KSampler."),
                io.Combo.Input("mode", options=["replace", "lerp", "concat"], default="replace", optional=True, tooltip="How a block gets prompt B: mixed with A by weight (at 1 B alone), or beside it."),
                io.Float.Input("weight", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="The share of prompt B."),
                io.Int.Input("columns", default=0, min=0, max=64, optional=True, tooltip="Images per row of the grid; 0 makes it about square."),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, order=None, within=None, custom=None):
        return first_problem(listed(cls, order=order), (check_texts, order, within, custom))

    @classmethod
    def execute(
        cls, model, order, within, custom, mode="replace", weight=1.0, columns=0, **settings
    ) -> io.NodeOutput:
        stages = growth(order, within, custom, host.blocks_of(model))
        links = host_sweep.own_links(cls.hidden.dynprompt)
        widgets = {name: value for name, value in settings.items() if name not in SOCKETS}
        inputs = {"mode": mode, "weight": weight, "columns": columns, **widgets, **links}
        return host_sweep.expand(
            cls.hidden.dynprompt, lambda prefix, finished: growth_graph(stages, inputs, prefix, finished)
        )


class GrowthGrid(io.ComfyNode):
    """Assembles the images of a growth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkGrowthGrid",
            display_name="Block Growth Grid",
            category=CATEGORY,
            description="Shows images with a label each in a grid. Block Growth does this already; use this node for stages that were sampled elsewhere.",
            search_aliases=["image grid", "labelled grid", "block growth image"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The images as a list, one batch per stage."),
                io.String.Input("stages", multiline=True, default="", tooltip="One line per stage: label: blocks."),
                io.Int.Input("columns", default=0, min=0, max=64, optional=True, tooltip="Images per row of the grid; 0 makes it about square, or one row per stage for batches."),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(cls, images, stages, columns=(0,)) -> io.NodeOutput:
        host_cells.finish(images)
        batch, everything = len(images[0]), torch.cat(images)
        labels = [line.partition(": ")[0] for line in stages[0].splitlines() for _ in range(batch)]
        across = columns[0] or (batch if batch > 1 else 0)
        grid = draw_grid(as_bytes(everything).astype(np.float32) / 255, labels, across)  # as read from files
        return io.NodeOutput(torch.from_numpy(grid)[None], everything, stages[0])
