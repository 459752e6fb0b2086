"""The density of a concept's tokens among the words of a CLIP, as an image and as text."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .concept import XTI
from .density import read_density
from .host_xti import encoders, vocabularies
from .plot import density_text, draw_density


def density_report(clip: Any, xti: XTI, bandwidth: float = 0.0) -> tuple[Tensor, str]:
    """The plot ``1 h w 3`` and the text, text encoder by text encoder; 0: the vocabularies' own bandwidths.

    Raises ValueError for a concept of another kind of text encoder.
    """
    names = list(encoders(clip))
    if len(xti.widths) != len(names):
        raise ValueError(
            f"<{xti.name}> is for {len(xti.widths)} text encoders, and this CLIP has {len(names)}. Connect the CLIP that "
            "the concept was trained for."
        )
    plots, texts = [], []
    for encoder, (name, vocabulary) in enumerate(zip(names, vocabularies(clip), strict=True)):
        tokens = [xti.tokens(layer, encoder) for layer in range(len(xti.keys))]
        reading = read_density(tokens, vocabulary.float().cpu(), bandwidth)
        title = f"<{xti.name}>" if len(names) == 1 else f"<{xti.name}> in {name}"
        plots.append(draw_density(reading, title, xti.keys))
        texts.append(density_text(reading, title, xti.keys))
    return torch.from_numpy(np.concatenate(plots))[None], "\n".join(texts)
