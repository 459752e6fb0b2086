"""Live merging of two full-size models, against ComfyUI's ModelMerge node of the architecture and a bare fp32 lerp.

    .venv/bin/python benchmarks/merge_live.py [ROUNDS] [--model sd15|flux1|qwen_image]

``sd15``, the default, needs the checkpoints of `make demo-full-size` and about 14 GB of memory: on a CPU ComfyUI keeps
the U-Nets in float32. The transformers are core's own classes with all their blocks and keys, narrowed to about 1 GB in
bfloat16, with random weights.
Prints `name: ours, peer, ratio` in CPU seconds; the wall seconds are in the lines above.
"""

import argparse
import gc
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost import layout
from refhost.measure import Timing, interleave, ratio_line, timed
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from blockwork.blocks.names import SD1
from blockwork.blocks.presets import preset
from blockwork.merge.live import host
from blockwork.tests.support import networks
from comfy_extras import nodes_model_merging_model_specific as core_nodes

# Model -> core's configuration, the network of tests/support, the arguments that narrow it, core's merge node.
TRANSFORMERS = {
    "flux1": (
        comfy.supported_models.Flux,
        "Flux.1 dev",
        {"hidden_size": 640, "num_heads": 5},
        core_nodes.ModelMergeFlux1,
    ),
    "qwen_image": (
        comfy.supported_models.QwenImage,
        "Qwen-Image",
        {"num_attention_heads": 4, "in_channels": 64, "out_channels": 16},
        core_nodes.ModelMergeQwenImage,
    ),
}
SHARE = 0.3  # of B, in all blocks of a transformer: core's unlisted keys follow its first slider


def load(name: str):
    path = layout.DEMO_BASE / "models" / "checkpoints" / name
    if not path.is_file():
        raise SystemExit(f"{path} is missing. Run `make demo-full-size` once to make it.")
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def built(what: str, seed: int):
    """A MODEL of core's own kind with random weights in bfloat16."""
    kind, name, changes, _ = TRANSFORMERS[what]
    config = kind(networks.NETWORKS[name][1] | changes)
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 22, generator=generator).bfloat16()
    for tensor in itertools.chain(model.diffusion_model.parameters(), model.diffusion_model.buffers()):
        times = -(-tensor.numel() // pool.numel())
        tensor.data.copy_(pool.repeat(times)[: tensor.numel()].view(tensor.shape).roll(seed))
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def core_ratios() -> dict[str, float]:
    ratios = dict(zip(SD1.blocks, (1 - weight for weight in preset("GRAD_V")), strict=True))
    keywords = {"time_embed.": ratios["IN00"], "label_emb.": 1.0, "out.": ratios["OUT11"]}
    for i in range(12):
        keywords |= {f"input_blocks.{i}.": ratios[f"IN{i:02}"], f"output_blocks.{i}.": ratios[f"OUT{i:02}"]}
    return keywords | {f"middle_block.{i}.": ratios["M00"] for i in range(3)}


def sliders(node) -> dict[str, float]:
    """Every slider of core's node at A's share."""
    names = node.INPUT_TYPES()["required"]
    return {name: 1 - SHARE for name in names if not name.startswith("model")}


def load_onto_device(model):
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return model


def unload(result) -> None:
    comfy.model_management.unload_all_models()
    gc.collect()


def lerped(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.lerp(p.data.float(), q.data.float(), SHARE).to(p.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--model", choices=["sd15", *TRANSFORMERS], default="sd15")
    options = parser.parse_args()
    if options.model == "sd15":
        a, b = load("sd15_full_a.safetensors"), load("sd15_full_b.safetensors")
        weights, node, ratios = "GRAD_V", core_nodes.ModelMergeSD1, core_ratios()
    else:
        a, b = built(options.model, 1), built(options.model, 2)
        weights, node = repr(SHARE), TRANSFORMERS[options.model][3]
        ratios = sliders(node)
    networks_of_both = (a.model.diffusion_model.parameters(), b.model.diffusion_model.parameters())
    pairs = list(zip(*networks_of_both, strict=True))
    size = sum(p.nbytes for p, _ in pairs)
    print(f"{options.model}: {len(a.model_state_dict('diffusion_model.'))} keys, {size / 1e9:.2f} GB")

    nodes = {"ours": Timing(), "core": Timing()}
    loads = {"ours": Timing(), "core": Timing()}

    def both(name, merge):
        def run():
            with timed(nodes[name]):
                merged = merge()
            with timed(loads[name]):
                return load_onto_device(merged)

        return run

    def ours():
        return host.merge_models(a, b, weights)[0]

    first = interleave({"first": ours}, 1)["first"]
    print(f"first merge of a pair, with the scan for NaN: {first.cpu[0]:.4f} CPU s", flush=True)
    contenders = {
        "ours": both("ours", ours),
        "core": both("core", lambda: node().merge(a, b, **ratios)[0]),
        "floor": lambda: [lerped(p, q) for p, q in pairs],
    }
    totals = interleave(contenders, options.rounds, after=unload)
    for name, timing in totals.items():
        print(timing.line(f"  {name}, merge and load"))
    for name in nodes:
        print(loads[name].line(f"  {name}, load alone"))
    print(ratio_line("merge node (bookkeeping)", nodes["ours"], nodes["core"]))
    print(ratio_line("load alone against core", loads["ours"], loads["core"]))
    print(ratio_line("merge and load against core", totals["ours"], totals["core"]))
    print(ratio_line("merge and load against a bare fp32 lerp", totals["ours"], totals["floor"]))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
