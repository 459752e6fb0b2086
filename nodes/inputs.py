"""Inputs that several nodes share: block weights, key map, file menus, policies."""

from comfy_api.latest import io

from ..blocks.keymap import KEY_MAPS
from ..merge.files import host as host_recipe
from ..merge.live.host import NON_FINITE
from ..merge.recipe.grammar import CHOICES

NONE = host_recipe.BY_HAND


def weights_input(name: str, default: str, tooltip: str, deck: str = "BLOCKWORK_WEIGHTS", neutral: float = 0):
    """The block weights input: MBW text, drawn as a deck of sliders by the pack's front-end.

    ``neutral`` is the weight of blocks that the text does not name, which leaves A as it is.
    """
    extra = {"widgetType": deck} | ({"neutral": neutral} if neutral else {})
    return io.String.Input(name, default=default, optional=True, tooltip=tooltip, extra_dict=extra)


def elemental_input():
    """Ratios of single layers, in supermerger's selector language."""
    return io.String.Input(
        "elemental",
        default="",
        multiline=True,
        optional=True,
        tooltip="Ratios of single layers, as Blocks:Elements:Ratio, later ones take precedence: OUT03 OUT04:attn2:0.5, D00-D07:img mlp:0.2, NOT M00:attn:0. The words attn, mlp, mod, img and txt match whole names; other words match anywhere in the name of a weight.",
    )


def key_map_input():
    """Which convention decides where layers outside the numbered blocks belong."""
    return io.Combo.Input(
        "key_map",
        options=list(KEY_MAPS),
        default="mbw",
        optional=True,
        advanced=True,
        tooltip="Where layers outside the numbered blocks belong: mbw (kohya, bbc-mc), supermerger, mecha (sd-mecha) or comfy (own names TIME_EMBED, LABEL_EMB, OUT).",
    )


def non_finite_input():
    """What a merge does with NaN and infinity in a source."""
    return io.Combo.Input(
        "non_finite",
        options=list(NON_FINITE),
        default="error",
        optional=True,
        advanced=True,
        tooltip="What to do when a tensor of a model holds NaN or infinity: stop, or keep A's values there and report it.",
    )


def checkpoint_input(name: str, tooltip: str, optional: bool = False):
    """A list of the model files ComfyUI lists, checkpoints first; an optional one starts at none."""
    files = host_recipe.model_files()
    return io.Combo.Input(
        name, options=[NONE, *files] if optional else files, optional=optional, tooltip=tooltip
    )


def choice_input(name: str, tooltip: str):
    """One of a recipe's settings, at its default."""
    return io.Combo.Input(
        name,
        options=list(CHOICES[name]),
        default=CHOICES[name][0],
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


def overwrite_input():
    """Whether an existing merge may be replaced."""
    return io.Boolean.Input(
        "overwrite",
        default=False,
        optional=True,
        tooltip="Replace an existing file of that name. A source is never overwritten.",
    )


def checkpoint_or_vae(name: str, tooltip: str):
    """A list of the files a VAE can be taken from."""
    files = [NONE, *host_recipe.model_files("vae"), *host_recipe.model_files("checkpoints")]
    return io.Combo.Input(name, options=files, optional=True, tooltip=tooltip)
