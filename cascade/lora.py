"""Names of LoRA files for IF stages, turned into the names ComfyUI maps to our modules."""

from typing import TypeVar

Value = TypeVar("Value")

PREFIXES = ("unet.", "base_model.model.unet.", "base_model.model.")
ROOTS = ("down_blocks.", "mid_block.", "up_blocks.")


def comfy_names(lora: dict[str, Value]) -> dict[str, Value]:
    """The same entries under names core's LoRA code maps to a stage.

    Covers PEFT (``unet.X.lora_A.weight``) and diffusers' old attention processors
    (``X.processor.to_q_lora.up.weight``); kohya names and anything unknown pass through.
    """
    return {_comfy_name(name): value for name, value in lora.items()}


def _comfy_name(name: str) -> str:
    bare = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    if not bare.startswith(ROOTS):
        return name
    if ".processor." in bare:
        bare = bare.replace(".processor.", ".").replace("to_out_lora", "to_out.0_lora")
    return f"diffusion_model.{bare}"
