"""Extract LoRA against core's Extract and Save Lora: time and relative error on layers whose difference has the rank.

    .venv/bin/python benchmarks/lora_extract.py [ROUNDS]

The peer is core's own function, on the same differences (random, exactly of rank r, float32). Both store half precision.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost.measure import interleave, ratio_line
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import torch
from blockwork.merge.lora.factor import factors
from comfy_extras.nodes_lora_extract import extract_lora

LAYERS = (((1280, 1280), 8), ((3072, 768), 16), ((320, 320, 3, 3), 8))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for shape, rank in LAYERS:
        generator = torch.Generator().manual_seed(1)
        columns = torch.Size(shape[1:]).numel()
        difference = torch.randn(shape[0], rank, generator=generator) @ torch.randn(
            rank, columns, generator=generator
        )
        difference = difference.view(shape)

        def error(up: torch.Tensor, down: torch.Tensor, wanted: torch.Tensor = difference) -> float:
            product = up.half().float().flatten(1) @ down.half().float().flatten(1)
            return float((product - wanted.flatten(1)).norm() / wanted.norm())

        timings = interleave(
            {
                "ours": lambda d=difference, r=rank: factors(d, r),
                "core": lambda d=difference, r=rank: extract_lora(d.clone(), r),
            },
            rounds,
        )
        name = f"{'x'.join(map(str, shape))} rank {rank}"
        print(ratio_line(f"{name}, CPU s", timings["ours"], timings["core"]))
        ours, core = error(*factors(difference, rank)), error(*extract_lora(difference.clone(), rank))
        print(f"{name}, relative error: {ours:.2e}, {core:.2e}, {ours / core:.4f}", flush=True)


if __name__ == "__main__":
    main()
