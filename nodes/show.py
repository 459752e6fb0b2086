"""What a node shows on itself in the browser: its report, its image, the weights it ran with."""

from typing import Any

import torch
from comfy_api.latest import ui

RAN = "blockwork_text"  # read by web/blockwork.js: a deck whose text comes over a link shows what ran
REPORT = "blockwork_report"  # read by web/report.js


def shown(
    report: str = "", image: torch.Tensor | None = None, ran: str | None = None, cls: Any = None
) -> dict[str, Any]:
    """The ``ui`` of a node: ``image`` is ``b h w c``; ``ran`` is the weight text that the node got."""
    found: dict[str, Any] = {}
    if report:
        found[REPORT] = (report,)
    if image is not None:
        found |= ui.PreviewImage(image, cls=cls).as_dict()
    if ran is not None:
        found[RAN] = (ran,)
    return found
