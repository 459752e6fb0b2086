"""How close a deprojector comes to the true hidden states of a text, row by row."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import models, texts
from .plots import line_plot


def report(loaded: models.LoadedDeprojector, clip: Any, text: str, rows: Any = None) -> tuple[Tensor, str]:
    """A plot of the cosine per row to the true hidden states, and the mean figures as text.

    Free-running, from true rows where the model allows it, and for comparison the empty text's rows.
    """
    encoder = texts.text_encoder(clip)
    true, pooled = texts.encode(encoder, text)
    models.check_width(loaded, pooled.shape[-1], "CLIP's embedding")
    free = models.run(loaded, pooled, models.Shaping(), rows)
    end = texts.end_row(encoder, encoder.tokenize(text)["l"][0])
    lines = {"free-running": _cosines(free, true)}
    forced = _teacher_forced(loaded, pooled, true, rows)
    if forced is not None:
        lines["from true rows"] = _cosines(forced, true)
    lines["empty text's rows"] = _cosines(texts.encode(encoder, "")[0], true)
    series = {name: list(enumerate(values.tolist())) for name, values in lines.items()}
    plot = line_plot(
        series, f"{loaded.name}: {text[:60]!r}", ("row", "cosine to the true hidden state"), (-1, 1)
    )
    return plot, "\n".join(_summary(name, values, end) for name, values in lines.items())


def _teacher_forced(
    loaded: models.LoadedDeprojector, pooled: Tensor, true: Tensor, rows: Any
) -> Tensor | None:
    module = loaded.module
    if not hasattr(module, "teacher_forced") or module.config.ensemble_size > 1:
        return None
    module = module.rebased(*rows) if rows else module
    with torch.no_grad():
        result = module.teacher_forced(pooled.to(module.sos_embed), true.to(module.sos_embed))
    return result.to(true)


def _cosines(states: Tensor, true: Tensor) -> Tensor:
    count = min(states.shape[1], true.shape[1])
    return F.cosine_similarity(states[0, :count].float(), true[0, :count].float(), dim=-1)


def _summary(name: str, cosines: Tensor, end: int) -> str:
    words, after = cosines[1 : end + 1], cosines[end + 1 :]
    tail = f", after the end {after.mean():.4f}" if len(after) else ""
    return f"{name}: words and end (rows 1-{end}) {words.mean():.4f}{tail}"
