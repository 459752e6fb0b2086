"""The prefixes of state-dict keys, and which part of a model a key belongs to: the one place for both."""

UNET, TEXT, VAE_PART, EMA, ALONE, OTHER = "unet", "text", "vae", "ema", "alone", "other"

MODEL = "diffusion_model."  # ComfyUI's own prefix of a loaded diffusion model
PREFIXES = {
    UNET: ("model.diffusion_model.", MODEL),
    TEXT: ("cond_stage_model.", "conditioner.", "clip_l.", "clip_g.", "clip_h.", "text_encoders."),
    VAE_PART: ("first_stage_model.", "vae.", "pretransform.", "audio_vae.", "vocoder."),
    EMA: ("model_ema.",),
    ALONE: ("alone.",),  # ours: a file that is one text encoder, one VAE, ... and has no prefixes
}
CHECKPOINT = "model.diffusion_model."  # the prefix under which merges hold every diffusion model
AUDIO_MODEL, COSMOS, PLAIN = (
    "model.model.",
    "net.",
    "model.",
)  # other prefixes of core's unet_prefix_from_state_dict
MARKERS = (
    "v_pred",
    "ztsnr",
    "edm_vpred.sigma_max",
    "edm_vpred.sigma_min",
    "edm_mean",
    "edm_std",
)
_QUANTISED = frozenset(
    [
        "scale_weight",
        "weight_scale",
        "weight_scale_2",
        "weight_scale_inv",
        "scale_input",
        "input_scale",
        "scale_b",
        "pre_quant_scale",
        "comfy_quant",
        "scaled_fp8",
        "absmax",
        "nested_absmax",
        "quant_map",
        "nested_quant_map",
        "qweight",
        "qzeros",
        "zero_point",
        "weight_zero_point",
        "SCB",
    ]
)
POSITION_IDS = ".position_ids"


def is_quantised(key: str) -> bool:
    """Whether the key belongs to a quantised weight: a scale, a code table, a mark (ComfyUI, bitsandbytes, GPTQ, ...)."""
    return key.rpartition(".")[2] in _QUANTISED or ".quant_state." in key


def part_of(key: str) -> str:
    """``unet``, ``text``, ``vae``, ``ema``, ``alone`` or ``other`` (schedule buffers, markers)."""
    for part, prefixes in PREFIXES.items():
        if key.startswith(prefixes):
            return part
    return OTHER


def ema_key(key: str) -> str:
    """The key of the moving average of ``key`` in a LatentDiffusion file: without dots, under ``model_ema.``."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")
