"""What the layers outside the stacks of a transformer are for, told by their names.

``IN``: embedders of image and time. ``TXT``: projections of the text. ``OUT``: the last layers. ``BASE``: the rest,
such as modulation that all blocks share. The words are those of ComfyUI's model classes.
"""

import re
from functools import cache

from .names import BASE, IN, OUT, TXT

_SHARED = {
    "modulation", "adaln", "ada", "table", "shift", "distilled", "refiner", "motion", "face", "music", "pose", "control",
}  # fmt: skip
_LAST = {"final", "out", "head", "last", "postprocess"}
_TIME = {"t", "time", "timestep", "tproj", "tmlp"}
_TEXT = {
    "txt", "text", "context", "cap", "caption", "t5", "llm", "byt5", "clip", "condition", "seq", "y", "yproj", "pooled",
    "pooler", "txtfusion", "txtmlp", "connector",
}  # fmt: skip
_IMAGE = {
    "img", "image", "x", "vid", "video", "visual", "vision", "patch", "patchify", "pos", "positional", "latent", "in",
    "input", "first", "guidance", "vector", "embedding", "pixel", "pixels", "s", "p", "preprocess",
}  # fmt: skip
_ROLES = ((BASE, _SHARED), (OUT, _LAST), (IN, _TIME), (TXT, _TEXT), (IN, _IMAGE))


def own_name(inside: str) -> str:
    """ComfyUI's own prefix of a key as a name: ``FINAL_LAYER`` for ``final_layer.linear.weight``."""
    return re.sub(r"[^A-Z0-9_]", "_", inside.partition(".")[0].upper())


def role(inside: str) -> str:
    """IN, TXT, OUT or BASE for a key below the diffusion model: by its first name, else by the second."""
    first, _, rest = inside.partition(".")
    second, dot, _ = rest.partition(".")
    return _role(first) or (dot and _role(second)) or BASE


@cache
def _role(name: str) -> str | None:
    words = {word if word in _TEXT else word.rstrip("0123456789") for word in name.lower().split("_")}
    return next((found for found, known in _ROLES if words & known), None)
