"""One training step of XTI on a full-size SD1.5 with random weights: seconds, and the process' peak memory.

    python benchmarks/train_xti.py [--size 512] [--dtype bf16]

The U-Net has SD1.5's real configuration and fp16 weights, as the released file has; the text encoder is SD1's in fp32. Both
are copied for the training, which the peak includes. Prints GiB after loading and at the peak, and seconds per step.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import torch
from refhost.pack import load_pack, use_comfyui

CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_linear_in_transformer": False,
    "use_temporal_attention": False, "use_spatial_transformer": True, "legacy": False, "context_dim": 768,
    "num_heads": 8, "num_head_channels": -1, "adm_in_channels": None,
}  # fmt: skip


def peak() -> float:
    """The process' peak memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args()
    load_pack()
    use_comfyui()
    import comfy.model_patcher
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models
    from blockwork.injection import host_train  # pyright: ignore
    from blockwork.injection.train import Recipe  # pyright: ignore
    from comfy import supported_models_base

    cpu = torch.device("cpu")
    config = comfy.supported_models.SD15(dict(CONFIG))
    config.set_inference_dtype(torch.float16, None)
    base = config.get_model({}, device=cpu)
    model = comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)
    target = supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target)
    with torch.no_grad():
        for weight in (*base.parameters(), *clip.cond_stage_model.parameters()):
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.5)
    print(f"loaded: peak {peak():.2f} GiB", flush=True)
    side = options.size // 8
    what = host_train.task(
        model, clip, "gem: stone", [], None, [torch.randn(1, 4, side, side)], (), "object", "", "XTI", 1
    )
    how = host_train.Options(options.dtype, checkpointing=True, resumable=False)
    recipe = Recipe(steps=1, density=0.01, bandwidth=0.02)  # random words have no bandwidth of their own
    start = time.perf_counter()
    print(host_train.train(model, clip, what, recipe, how).text)
    print(
        f"one step at {options.size} pixels with {options.dtype}: {time.perf_counter() - start:.0f} s, peak {peak():.2f} GiB"
    )
    return 0 if peak() < 12 else 1


if __name__ == "__main__":
    raise SystemExit(main())
