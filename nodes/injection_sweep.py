"""Block growth: watch one prompt take over from another, block by block."""

import comfy.samplers
import torch
from comfy_api.latest import io

from ..injection import host, host_sweep
from ..injection.entries import Mode
from ..injection.picture import draw_grid
from ..injection.sweep import CUSTOM, ORDERS, growth


class BlockGrowth(io.ComfyNode):
    """Samples one image per stage of a growing set of blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkBlockGrowth",
            display_name="Block Growth",
            category="blockwork/injection",
            description="Gives prompt B to no block, then to one block more each time, until it has them all, and lays the images out in a labelled grid: which block carries what, seen at a glance. Nothing is written to disk.",
            search_aliases=["block sweep", "block study", "prompt growth", "XY plot blocks", "which block does what"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Conditioning.Input("positive", tooltip="Prompt A: what the image starts from."),
                io.Conditioning.Input("prompt", tooltip="Prompt B: what takes over."),
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
                io.Combo.Input("mode", options=["replace", "lerp", "concat"], default="replace", optional=True, tooltip="How a block takes prompt B: instead of A, mixed by weight, or beside it."),
                io.Float.Input("weight", default=1.0, min=-10.0, max=10.0, step=0.01, optional=True, tooltip="The share of prompt B for mode lerp."),
                io.Int.Input("columns", default=0, min=0, max=64, optional=True, tooltip="Images per row of the grid; 0 makes it about square."),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="All stages with labels."),
                io.Image.Output("images", tooltip="The images of all stages as a batch."),
                io.String.Output("stages", tooltip="The blocks of each stage, one line each."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, prompt, negative, latent_image, vae, order, within, custom,
        seed, steps, cfg, sampler_name, scheduler, denoise, mode: Mode = "replace", weight=1.0, columns=0,
    ) -> io.NodeOutput:  # fmt: skip
        stages = growth(order, within, custom, host.blocks_of(model))
        sampling = host_sweep.Sampling(seed, steps, cfg, sampler_name, scheduler, denoise)
        images = host_sweep.sample_stages(
            model, positive, prompt, negative, latent_image, vae, stages, sampling, mode, weight
        )
        batch, pictures = len(images[0]), torch.cat(images)
        labels = [label for label, _ in stages for _ in range(batch)]
        grid = draw_grid(pictures.float().cpu().numpy(), labels, columns or (batch if batch > 1 else 0))
        lines = "\n".join(f"{label}: {spec or 'no block'}" for label, spec in stages)
        return io.NodeOutput(torch.from_numpy(grid)[None], pictures, lines)
