"""Re-merging two full-size SD1.5 models after one slider moved, against a full merge and against core's nodes.

    .venv/bin/python benchmarks/incremental.py [ROUNDS [FILE_A FILE_B]]

Needs the checkpoints of `make demo-full-size` and about 14 GB of memory: on a CPU ComfyUI keeps the U-Nets in float32. Other
SD1 checkpoints can be named instead.
For blocks of different sizes, in CPU seconds of node and load together: `name: ours, core, ratio`, then the bound
1.5 x (changed bytes / all bytes) x (our full merge) + 0.2 s and whether the re-merge keeps it.
"""

import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost import layout
from refhost.measure import interleave, ratio_line
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.model_management
import comfy.sd
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1
from blockwork.blocks.presets import preset
from blockwork.merge.live import host
from comfy_extras.nodes_model_merging_model_specific import ModelMergeSD1

BLOCKS = ("IN04", "IN00", "OUT05", "M00")  # a middling one, the smallest, a large one, the largest
FULL = dict(zip(SD1.blocks, (0.1 + 0.8 * value for value in preset("GRAD_V")), strict=True))


def load(path: Path):
    if not path.is_file():
        raise SystemExit(f"{path} is missing. Run `make demo-full-size` once to make it.")
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def core_ratios(weights: dict[str, float]) -> dict[str, float]:
    share = {block: 1 - weight for block, weight in weights.items()}
    keywords = {"time_embed.": share["IN00"], "label_emb.": 1.0, "out.": share["OUT11"]}
    for i in range(12):
        keywords |= {f"input_blocks.{i}.": share[f"IN{i:02}"], f"output_blocks.{i}.": share[f"OUT{i:02}"]}
    return keywords | {f"middle_block.{i}.": share["M00"] for i in range(3)}


def text(weights: dict[str, float]) -> str:
    return ", ".join(map(repr, weights.values()))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = layout.DEMO_BASE / "models" / "checkpoints"
    a, b = (
        load(folder / name)
        for name in sys.argv[2:4] or ("sd15_full_a.safetensors", "sd15_full_b.safetensors")
    )
    sizes: dict[str, int] = {}
    for key, tensor in a.model_state_dict("diffusion_model.").items():
        block = block_of(key, SD1) or ""
        sizes[block] = sizes.get(block, 0) + tensor.nbytes
    total = sum(sizes.values())
    moves = itertools.count(1)

    def ours(block: str | None = None):
        weights = FULL if block is None else FULL | {block: next(moves) / 1000}
        model = host.merge_models(a, b, text(weights))[0]
        comfy.model_management.load_models_gpu([model])
        return model

    def core(block: str):
        model = ModelMergeSD1().merge(a, b, **core_ratios(FULL | {block: next(moves) / 1000}))[0]
        comfy.model_management.load_models_gpu([model])
        return model

    def full():
        comfy.model_management.unload_all_models()  # puts references back on a CPU: next to nothing on the clock
        return ours()

    whole = statistics.median(interleave({"full": full}, rounds)["full"].cpu)
    print(f"full merge, node and load: {whole:.4f} CPU s", flush=True)
    for block in BLOCKS:
        full()
        # core switches among its own merges and ours among ours: each round ends on the full merge, off the clock
        timings = interleave(
            {"ours": lambda block=block: ours(block), "core": lambda block=block: core(block)},
            rounds,
            after=lambda model: ours(),
        )
        share = sizes[block] / total
        bound = 1.5 * share * whole + 0.2
        mine = statistics.median(timings["ours"].cpu)
        print(ratio_line(f"re-merge of {block}, {share:.1%} of the bytes", timings["ours"], timings["core"]))
        print(f"  bound {bound:.4f} CPU s: {'kept' if mine <= bound else 'NOT KEPT'}", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
