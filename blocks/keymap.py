"""Which block a state-dict key belongs to, under the conventions of the field.

The tools disagree about what stands outside the numbered blocks, so the choice is explicit:

=============  ==================  ===========  ========================  ====
key_map        time_embed          label_emb    out.                      VAE
=============  ==================  ===========  ========================  ====
mbw            IN00                BASE         last OUT                  BASE
supermerger    IN00                BASE; IN00   last OUT                  BASE
                                   for SDXL
mecha          BASE                OUT11; BASE  last OUT                  BASE; VAE for SDXL
                                   for SDXL
comfy          TIME_EMBED          LABEL_EMB    OUT                       none
=============  ==================  ===========  ========================  ====

Text encoders are BASE (CLIP under ``comfy``). ``mbw`` is kohya's and bbc-mc's rule, ``supermerger``
hako-mikan's, ``mecha`` sd-mecha's ``*-supermerger_blocks`` configs, ``comfy`` that of ComfyUI's ModelMerge nodes.
"""

from .names import BASE, MIDDLE, VAE, BlockError, Layout, as_layout

KEY_MAPS = ("mbw", "supermerger", "mecha", "comfy")
CLIP, TIME_EMBED, LABEL_EMB, OUT = "CLIP", "TIME_EMBED", "LABEL_EMB", "OUT"

_TEXT_ENCODERS = ("cond_stage_model.", "conditioner.", "clip_l.", "clip_g.", "clip_h.", "text_encoders.")
_VAES = ("first_stage_model.", "vae.")
_EMA = "model_ema."


def block_of(key: str, layout: "str | Layout", key_map: str = "mbw") -> str | None:
    """The block that ``key`` is weighted with, or None when this key_map never merges it.

    ``key`` may be a checkpoint's (``model.diffusion_model.input_blocks.1.0...``) or ComfyUI's own
    (``diffusion_model.input_blocks.1.0...``). Raises BlockError for an unknown layout or key_map.
    """
    shape = as_layout(layout)
    if key_map not in KEY_MAPS:
        raise BlockError(f"unknown key_map {key_map!r}; known are {', '.join(KEY_MAPS)}")
    if key_map == "supermerger" and not ("weight" in key or "bias" in key):
        return None  # supermerger leaves text_projection, positional_embedding, logit_scale, ... alone
    inside = key.removeprefix("model.")
    if inside.startswith("diffusion_model."):
        return _unet_block(inside.removeprefix("diffusion_model."), shape, key_map)
    if key.startswith(_TEXT_ENCODERS):
        return CLIP if key_map == "comfy" else BASE
    if key.startswith(_VAES):
        return _vae_block(shape, key_map)
    if key.startswith(_EMA):
        return BASE if key_map in ("mbw", "supermerger") else None
    return None


def _unet_block(inside: str, layout: Layout, key_map: str) -> str | None:
    part, _, rest = inside.partition(".")
    number = rest.partition(".")[0]
    if part == "input_blocks":
        return f"IN{int(number):02}"
    if part == "middle_block":
        return MIDDLE
    if part == "output_blocks":
        return f"OUT{int(number):02}"
    if part == "time_embed":
        return {"mecha": BASE, "comfy": TIME_EMBED}.get(key_map, "IN00")
    if part == "label_emb":
        return _label_block(layout, key_map)
    if part == "out":
        return OUT if key_map == "comfy" else layout.last_output
    return layout.last_output if key_map == "mecha" else BASE


def _label_block(layout: Layout, key_map: str) -> str:
    many = layout.inputs == 12  # the 25-block layouts; SDXL's family treats its label embedding apart
    return {
        "mbw": BASE,
        "supermerger": BASE if many else "IN00",
        "mecha": layout.last_output if many else BASE,
        "comfy": LABEL_EMB,
    }[key_map]


def _vae_block(layout: Layout, key_map: str) -> str | None:
    if key_map == "comfy":
        return None
    return VAE if key_map == "mecha" and layout.inputs != 12 else BASE
