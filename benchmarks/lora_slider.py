"""Moving one slider of a loaded LoRA, against core's LoRA loader with another strength, on a full-size SD1.5 U-Net.

    .venv/bin/python benchmarks/lora_slider.py [ROUNDS]

The U-Net (860 million parameters, float32 as ComfyUI keeps it on a CPU) has random weights; the LoRA has rank 16 for all
linear layers of the attention blocks. Both sides attach the LoRA to a clone of the model and load it, as a queued prompt
does; core's side has the file in memory already, as its node has. `name: ours, core, ratio` in CPU seconds.
"""

import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost.measure import interleave, ratio_line
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import folder_paths
import torch
from blockwork.merge.lora import host
from refhost import checkpoints
from safetensors.torch import load_file, save_file

RANK = 16
BLOCKS = ("IN04", "OUT05", "M00")


def unet() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.SD15(checkpoints._unet_config(checkpoints.SD15))
    config.unet_config |= {"num_heads": 8, "num_head_channels": -1}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.02, 0.02)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def lora(model: comfy.model_patcher.ModelPatcher) -> dict[str, torch.Tensor]:
    state, tensors = model.model.state_dict(), {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        rows = ("lora_unet_input", "lora_unet_middle", "lora_unet_output")
        if name.startswith(rows) and "transformer_blocks" in name and state[key].ndim == 2:
            size, columns = state[key].shape
            tensors[f"{name}.lora_up.weight"] = torch.randn(size, RANK) * 0.01
            tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, columns) * 0.01
    return tensors


def main(folder: Path) -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    model = unet()
    path = folder / "x.safetensors"
    save_file(lora(model), path)
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    held, moves = load_file(path), itertools.count(1)

    def loaded(patcher):
        comfy.model_management.load_models_gpu([patcher])
        return patcher

    def ours(block: str):
        text = f"{block}={next(moves) / 1000}"
        return loaded(host.load_by_block(model, None, path.name, 1.0, 1.0, text).model)

    def core(tensors: dict[str, torch.Tensor]):
        return loaded(comfy.sd.load_lora_for_models(model, None, tensors, 1 - next(moves) / 1000, 0)[0])

    kept = ours("IN04")  # keeps the file in memory, as the output of the node does
    for block in BLOCKS:
        ours(block)
        timings = interleave(
            {"ours": lambda block=block: ours(block), "core": lambda: core(held)},
            rounds,
            after=lambda _, block=block: ours(block),
        )
        print(
            ratio_line(
                f"slider of {block}, against another strength in core", timings["ours"], timings["core"]
            ),
            flush=True,
        )
    timings = interleave(
        {"ours": lambda: ours("IN04"), "core": lambda: core(load_file(path))},
        rounds,
        after=lambda _: ours("IN04"),
    )
    print(
        ratio_line(
            "slider of IN04, against reading and loading the file again in core",
            timings["ours"],
            timings["core"],
        )
    )
    del kept


if __name__ == "__main__":
    with torch.inference_mode(), tempfile.TemporaryDirectory() as name:
        main(Path(name))
