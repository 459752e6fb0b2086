"""Live merging of two full-size SD1.5 models, against ComfyUI's ModelMergeSD1 and a bare fp32 lerp.

    .venv/bin/python benchmarks/merge_live.py [ROUNDS]

Needs the checkpoints of `make demo-full-size` and about 14 GB of memory: on a CPU ComfyUI keeps the U-Nets in float32.
Prints `name: ours, peer, ratio` in CPU seconds.
"""

import gc
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
from blockwork.blocks.names import SD1
from blockwork.blocks.presets import preset
from blockwork.merge.live import host
from comfy_extras.nodes_model_merging_model_specific import ModelMergeSD1


def load(name: str):
    path = layout.DEMO_BASE / "models" / "checkpoints" / name
    if not path.is_file():
        raise SystemExit(f"{path} is missing. Run `make demo-full-size` once to make it.")
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def core_ratios() -> dict[str, float]:
    ratios = dict(zip(SD1.blocks, (1 - weight for weight in preset("GRAD_V")), strict=True))
    keywords = {"time_embed.": ratios["IN00"], "label_emb.": 1.0, "out.": ratios["OUT11"]}
    for i in range(12):
        keywords |= {f"input_blocks.{i}.": ratios[f"IN{i:02}"], f"output_blocks.{i}.": ratios[f"OUT{i:02}"]}
    return keywords | {f"middle_block.{i}.": ratios["M00"] for i in range(3)}


def load_onto_device(model):
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return model


def unload(result) -> None:
    comfy.model_management.unload_all_models()
    gc.collect()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    a, b = load("sd15_full_a.safetensors"), load("sd15_full_b.safetensors")
    ratios = core_ratios()
    pairs = [
        (p, q)
        for p, q in zip(
            a.model.diffusion_model.parameters(), b.model.diffusion_model.parameters(), strict=True
        )
    ]

    def ours():
        return host.merge_models(a, b, "GRAD_V")[0]

    def core():
        return ModelMergeSD1().merge(a, b, **ratios)[0]

    first = interleave({"first": ours}, 1)["first"]
    print(f"first merge of a pair, with the scan for NaN: {first.cpu[0]:.4f} CPU s")
    nodes = interleave({"ours": ours, "core": core}, rounds)
    print(ratio_line("merge node (bookkeeping)", nodes["ours"], nodes["core"]), flush=True)

    contenders = {
        "ours": lambda: load_onto_device(ours()),
        "core": lambda: load_onto_device(core()),
        "floor": lambda: [torch.lerp(p.data, q.data, 0.3) for p, q in pairs],
    }
    loads = interleave(contenders, rounds, after=unload)
    for name, timing in loads.items():
        print(timing.line(f"  {name}"))
    print(ratio_line("merge and load against core", loads["ours"], loads["core"]))
    print(ratio_line("merge and load against a bare fp32 lerp", loads["ours"], loads["floor"]))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
