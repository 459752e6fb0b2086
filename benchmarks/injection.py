"""Sampling with a prompt injected into all blocks of SD1 and of Anima, against none, and against a patch per block.

    .venv/bin/python benchmarks/injection.py [ROUNDS] [sd1|anima]

The U-Net has SD1's 16 cross-attention layers at 320 channels throughout, Anima 14 blocks of 512 channels, both random
weights: small, so that what injection adds weighs more than it does in the real models. Prints `name: ours, peer,
ratio` in CPU seconds, and what the bookkeeping of one pass costs on its own.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost.measure import Timing, interleave, ratio_line
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.supported_models
import torch
from blockwork.injection import host
from blockwork.injection.host_batch import calc_cond_batch
from blockwork.injection.host_carry import KEY, Run
from blockwork.injection.host_layers import attn2_patch
from blockwork.injection.host_pass import apply_model
from blockwork.tests.support import transformer_kit
from blockwork.tests.support.injection_kit import (
    SD1,
    Recorder,
    carry,
    cfg_guider,
    prompt,
    random_model,
    sample,
)
from comfy.conds import CONDCrossAttn

STEPS = 2
SIDE = 12
ANIMA = {"model_channels": 512, "num_blocks": 14, "num_heads": 8}
ANIMA_STEPS, ANIMA_SIDE = 4, 24


class PatchPerBlock:
    """The usual way: one attn2 patch per block, each of which looks at every layer, the time and the sides."""

    def __init__(self, block: tuple[str, int], tokens: torch.Tensor, start: float, end: float):
        self.block, self.tokens, self.start, self.end = block, tokens, start, end

    def __call__(self, n, k, v, options):
        sigma = options["sigmas"].detach().cpu()[0].item()
        if options["block"] != self.block or not self.end <= sigma <= self.start:
            return n, k, v
        out = k.clone()
        tokens = self.tokens.to(k.device, dtype=k.dtype)
        rows = k.shape[0] // len(options["cond_or_uncond"])
        for chunk, side in enumerate(options["cond_or_uncond"]):
            if side == 0:
                out[chunk * rows : (chunk + 1) * rows] = tokens
        return n, out, out


def patched(model, tokens):
    model = model.clone()
    for block in host.blocks_of(model).attending:
        model.set_model_attn2_patch(PatchPerBlock((block.side, block.number), tokens, 1e9, 0.0))
    return model


def rotated(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """``interleave`` with another contender first in every round: the first one pays for what others left."""
    names = list(contenders)
    timings = {name: Timing() for name in names}
    for number in range(rounds):
        first = number % len(names)
        order = names[first:] + names[:first]
        for name, timing in interleave({name: contenders[name] for name in order}, 1).items():
            timings[name].cpu += timing.cpu
            timings[name].wall += timing.wall
    return timings


def bookkeeping(model, conditioning) -> float:
    """Seconds that the two wrappers and 16 patches add to one pass, the U-Net itself left out."""
    own, negative = (CONDCrossAttn(prompt(seed)[0][0]) for seed in (1, 2))
    carried = conditioning[0][1]["model_conds"][KEY]
    conds = [
        [{"model_conds": {"c_crossattn": own, KEY: carried}}],
        [{"model_conds": {"c_crossattn": negative}}],
    ]
    x, sigma = torch.zeros(2, 4, SIDE, SIDE), torch.ones(2)
    layers = host.blocks_of(model).sub_blocks
    options = {"cond_or_uncond": [1, 0], KEY: Run()}

    class Network:
        class_obj = model.model

        def __call__(self, x, t, c_concat, c_crossattn, control, options, **kwargs):
            for side, number, inner in layers:
                extra = {**options, "block": (side, number), "block_index": inner}
                attn2_patch(x, c_crossattn, c_crossattn, extra)

    def batch(base, conds, x, timestep, model_options):
        entries = [cond[0]["model_conds"] for cond in reversed(conds)]
        chunks = entries[0][KEY].concat([entries[1][KEY]])
        context = entries[0]["c_crossattn"].concat([entries[1]["c_crossattn"]])
        apply_model(Network(), x, sigma, None, context, None, options, **{KEY: chunks})

    times = []
    for _ in range(200):
        start = time.process_time()
        calc_cond_batch(batch, model.model, conds, x, sigma, {"transformer_options": options})
        times.append(time.process_time() - start)
    return median(times)


def anima(rounds: int) -> None:
    """Anima with keys and values of every block injected, against the same model without."""
    model = transformer_kit.anima(**ANIMA)
    positive, negative, other = (transformer_kit.prompt("anima", seed) for seed in (1, 2, 3))
    injected, prepared = carry(model, positive, other), host.prepare(model)
    noise = torch.randn(1, 16, 1, ANIMA_SIDE, ANIMA_SIDE, generator=torch.Generator().manual_seed(0))
    passes = []
    for one, conditioning in ((prepared, injected), (model, positive)):
        record = Recorder()
        sample(cfg_guider(record.watch(one), conditioning, negative), noise, 1)
        passes.append(record.passes)
    print(f"passes through Anima: {passes[0]} with injection, {passes[1]} without")
    contenders = {
        "ours": lambda: sample(cfg_guider(prepared, injected, negative), noise, ANIMA_STEPS),
        "none": lambda: sample(cfg_guider(model, positive, negative), noise, ANIMA_STEPS),
    }
    timings = rotated(contenders, rounds)
    for name, timing in timings.items():
        print(timing.line(f"  Anima, {name}"))
    print(ratio_line("Anima: injection in 14 blocks against none", timings["ours"], timings["none"]))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    if wanted != "sd1":
        anima(rounds)
    if wanted != "anima":
        unet(rounds)


def unet(rounds: int) -> None:
    """SD1's layers, injected, without, and with a patch per block."""
    config = {**SD1, "model_channels": 320, "channel_mult": [1, 1, 1, 1]}
    model = random_model(comfy.supported_models.SD15, config)
    positive, negative, other = prompt(1), prompt(2), prompt(3)
    injected, prepared = carry(model, positive, other), host.prepare(model)
    per_block = patched(model, other[0][0])

    small = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    passes, pictures = [], []
    for one, conditioning in ((prepared, injected), (model, positive), (per_block, positive)):
        record = Recorder()
        pictures.append(sample(cfg_guider(record.watch(one), conditioning, negative), small, STEPS))
        passes.append(record.passes)
    assert torch.equal(pictures[0], pictures[2]), "ours and the patches do not do the same work"
    print(f"passes through the U-Net: {passes[0]} with injection, {passes[1]} without")
    for batch in (1, 4):
        noise = torch.randn(batch, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        contenders = {
            "ours": lambda noise=noise: sample(cfg_guider(prepared, injected, negative), noise, STEPS),
            "none": lambda noise=noise: sample(cfg_guider(model, positive, negative), noise, STEPS),
            "patches": lambda noise=noise: sample(cfg_guider(per_block, positive, negative), noise, STEPS),
        }
        timings = rotated(contenders, rounds)
        for name, timing in timings.items():
            print(timing.line(f"  batch {batch}, {name}"))
        print(
            ratio_line(
                f"batch {batch}: injection in 16 blocks against none", timings["ours"], timings["none"]
            )
        )
        print(
            ratio_line(f"batch {batch}: against a patch per block", timings["ours"], timings["patches"]),
            flush=True,
        )
    print(f"bookkeeping of one pass: {bookkeeping(prepared, injected) * 1e6:.0f} us CPU")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
