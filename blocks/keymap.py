"""Which block a state-dict key belongs to, under the conventions of the community.

Numbered modules are in the block of their number under every key map. The tools disagree about the rest of a
U-Net, so the choice is explicit:

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

and of a transformer:

=============  =========================================================================
key_map        layers outside the stacks
=============  =========================================================================
mbw            IN (image, time), TXT (text), OUT (last layers), else BASE
supermerger    IN where the key contains ``_in``, OUT for ``final_layer``, else BASE
mecha          BASE
comfy          ComfyUI's own prefix: ``img_in.`` is IMG_IN, ``final_layer.`` is FINAL_LAYER
=============  =========================================================================

A weight for BASE also applies to IN, TXT, OUT and ComfyUI's prefixes that have no weight of their own.
Text encoders are BASE (CLIP under ``comfy``; CLIP and T5 for transformers under ``supermerger``). ``mbw`` is
kohya's and bbc-mc's rule, ``supermerger`` hako-mikan's, ``mecha`` sd-mecha's ``*-supermerger_blocks`` configs,
``comfy`` that of ComfyUI's ModelMerge nodes.
"""

from . import outside
from .keys import EMA, PREFIXES, TEXT, VAE_PART
from .names import BASE, CLIP, IN, LABEL_EMB, MIDDLE, OUT, T5, TIME_EMBED, VAE, BlockError, Layout, as_layout
from .stacks import diffusion_key, place_of

KEY_MAPS = ("mbw", "supermerger", "mecha", "comfy")


def block_of(key: str, layout: "str | Layout", key_map: str = "mbw") -> str | None:
    """The block that ``key`` is weighted with, or None when this key_map never merges it.

    ``key`` may be a checkpoint's (``model.diffusion_model.input_blocks.1.0...``) or ComfyUI's own
    (``diffusion_model.input_blocks.1.0...``). Raises BlockError for an unknown layout or key_map.
    """
    shape = as_layout(layout)
    if key_map not in KEY_MAPS:
        raise BlockError(f"Unknown key_map {key_map!r}. Available: {', '.join(KEY_MAPS)}.")
    if key_map == "supermerger" and not ("weight" in key or "bias" in key):
        return None  # supermerger leaves text_projection, positional_embedding, logit_scale, ... alone
    inside = diffusion_key(key)
    if inside is not None:
        return _diffusion_block(inside, shape, key_map)
    if key.startswith(PREFIXES[TEXT]):
        return _text_block(key, shape, key_map)
    if key.startswith(PREFIXES[VAE_PART]):
        return _vae_block(shape, key_map)
    if key.startswith(PREFIXES[EMA]):
        return BASE if key_map in ("mbw", "supermerger") else None
    return None


def _diffusion_block(inside: str, layout: Layout, key_map: str) -> str:
    if layout.is_unet:
        return _unet_block(inside, layout, key_map)
    if place := place_of(inside, layout.titles):
        stack, number = place
        return stack.blocks[number]
    if not layout.stacks or key_map == "mecha":
        return BASE
    if key_map == "comfy":
        return outside.own_name(inside)
    if key_map == "supermerger":
        return IN if "_in" in inside else OUT if "final_layer" in inside else BASE
    return outside.role(inside)


def _unet_block(inside: str, layout: Layout, key_map: str) -> str:
    part, _, rest = inside.partition(".")
    number = rest.partition(".")[0]
    if part in ("input_blocks", "output_blocks") and number.isdecimal():
        return f"{'IN' if part == 'input_blocks' else 'OUT'}{int(number[:6]):02}"
    if part == "middle_block":
        return MIDDLE
    if part == "time_embed":
        return {"mecha": BASE, "comfy": TIME_EMBED}.get(key_map, "IN00")
    if part == "label_emb":
        return _label_block(layout, key_map)
    if part == "out":
        return OUT if key_map == "comfy" else layout.last_output
    return layout.last_output if key_map == "mecha" else BASE


def _label_block(layout: Layout, key_map: str) -> str:
    many = layout.inputs == 12  # the 25-block layouts; the SDXL family treats its label embedding apart
    return {
        "mbw": BASE,
        "supermerger": BASE if many else "IN00",
        "mecha": layout.last_output if many else BASE,
        "comfy": LABEL_EMB,
    }[key_map]


def _text_block(key: str, layout: Layout, key_map: str) -> str:
    if key_map == "comfy":
        return CLIP
    if key_map != "supermerger" or layout.is_unet or not layout.stacks:
        return BASE
    return T5 if "t5xxl" in key else CLIP if "clip" in key else BASE


def _vae_block(layout: Layout, key_map: str) -> str | None:
    if key_map == "comfy":
        return None
    if layout.is_unet or not layout.stacks:
        return VAE if key_map == "mecha" and layout.inputs != 12 else BASE
    return None if key_map == "supermerger" else BASE
