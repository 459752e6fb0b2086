"""U-Net forward of IF's stage shapes against diffusers, same weights, dtype and input, run in turn.

The I-M shape has 371,605,830 parameters. Ours keeps what depends on the text alone from step to step, as a
sampling run does; diffusers computes it every time. Prints medians of CPU seconds (CUDA seconds with --cuda).
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from blockwork.tests.support import cascade_oracles as oracles

STAGES = {"I-M": 64, "II": 256}  # and the side of their pictures in pixels
PARAMETERS_OF_I_M = 371_605_830


def arguments_of(stage: str) -> dict:
    """Arguments of UNet2DConditionModel for the I-M shape, or for a narrow stage II of five levels."""
    if stage == "I-M":
        widths, time_dim = (192, 384, 576, 768), 768
        return {
            **oracles.stage_one_arguments(64, 64), "layers_per_block": 3, "block_out_channels": widths,
            "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
            "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
            "time_embedding_dim": time_dim, "cross_attention_dim": 768, "encoder_hid_dim": 4096,
        }  # fmt: skip
    return {
        **oracles.stage_two_arguments(64, 64), "layers_per_block": [2, 2, 3, 5, 5],
        "block_out_channels": (64, 128, 256, 384, 384),
        "down_block_types": ("ResnetDownsampleBlock2D",) * 3 + ("SimpleCrossAttnDownBlock2D",) * 2,
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2 + ("ResnetUpsampleBlock2D",) * 3,
        "time_embedding_dim": 384, "cross_attention_dim": 384, "encoder_hid_dim": 4096,
    }  # fmt: skip


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or wall seconds once the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=STAGES, help="one of them; both when not given")
    parser.add_argument("--batch", type=int, default=2, help="2 is one guided step")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile both networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for stage in [options.stage] if options.stage else STAGES:
        compare(stage, STAGES[stage], options)


def compare(stage: str, size: int, options: argparse.Namespace) -> None:
    """Run both networks in turn and print the medians, the ratio and how far the outputs differ."""
    device, dtype = torch.device("cuda" if options.cuda else "cpu"), getattr(torch, options.dtype)

    theirs = oracles.diffusers_unet(arguments_of(stage)).to(device=device, dtype=dtype)
    ours = oracles.cascade_room("unet").from_state_dict(theirs.state_dict())  # the very same tensors
    if stage == "I-M":
        assert sum(p.numel() for p in ours.parameters()) == PARAMETERS_OF_I_M
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, ours.config.in_channels, size, size)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    text = torch.randn(options.batch, 77, 4096, generator=generator).to(device, dtype)
    t = torch.full((options.batch,), 500, device=device)
    aug = torch.full_like(t, 250) if ours.config.super_resolution else None
    states = ours.encode_text(text)
    mine, peer = (torch.compile(net) if options.compile else net for net in (ours, theirs))

    with torch.inference_mode():
        for _ in range(2 if options.cuda or options.compile else 1):
            out = mine(x, t, aug_steps=aug, text=states)
            expected = peer(x, t, encoder_hidden_states=text, class_labels=aug).sample
        difference = (out - expected).abs().max().item()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            started = clock(device)
            mine(x, t, aug_steps=aug, text=states)
            between = clock(device)
            peer(x, t, encoder_hidden_states=text, class_labels=aug)
            times[0].append(between - started)
            times[1].append(clock(device) - between)
    a, b = (statistics.median(found) for found in times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"unet {stage} {size}px batch {options.batch} {options.dtype}: {a:.3f} s ({1 / a:.2f} steps/s), "
        f"{b:.3f} s, {b / a:.3f}x; largest difference {difference:.1e}; peak RSS {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
