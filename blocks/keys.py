"""The prefixes of state-dict keys, and which part of a model a key belongs to: the one place for both."""

UNET, TEXT, VAE_PART, EMA, OTHER = "unet", "text", "vae", "ema", "other"

MODEL = "diffusion_model."  # ComfyUI's own prefix of a loaded diffusion model
PREFIXES = {
    UNET: ("model.diffusion_model.", MODEL),
    TEXT: ("cond_stage_model.", "conditioner.", "clip_l.", "clip_g.", "clip_h.", "text_encoders."),
    VAE_PART: ("first_stage_model.", "vae."),
    EMA: ("model_ema.",),
}
MARKERS = (
    "v_pred",
    "ztsnr",
    "edm_vpred.sigma_max",
    "edm_vpred.sigma_min",
    "edm_mean",
    "edm_std",
    "scaled_fp8",
)
QUANTISED = (".scale_weight", ".weight_scale", ".weight_scale_2", ".comfy_quant", "scaled_fp8")
POSITION_IDS = ".position_ids"


def part_of(key: str) -> str:
    """``unet``, ``text``, ``vae``, ``ema`` or ``other`` (schedule buffers, markers)."""
    return next((part for part, prefixes in PREFIXES.items() if key.startswith(prefixes)), OTHER)


def ema_key(key: str) -> str:
    """The key of the moving average of ``key`` in a LatentDiffusion file: without dots, under ``model_ema.``."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")
