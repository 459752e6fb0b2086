"""Deprojection: from CLIP's pooled embedding back to the hidden states that Stable Diffusion works with.

``load(path)`` or ``from_state_dict(state_dict, config)`` give a module; ``module.deproject(embeds)`` runs it.
"""

from .base import Deprojector
from .ensemble import Concat, from_units, merge_units
from .errors import DeprojectorError
from .files import from_state_dict, load, save

__all__ = [
    "Concat",
    "Deprojector",
    "DeprojectorError",
    "from_state_dict",
    "from_units",
    "load",
    "merge_units",
    "save",
]
