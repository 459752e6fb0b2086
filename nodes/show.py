"""What a node shows on itself in the browser: its report, its image, the weights it ran with."""

import math
from typing import Any

import torch
from comfy_api.latest import ui

RAN = "blockwork_text"  # read by web/blockwork.js: a deck whose text comes over a link shows what ran
REPORT = "blockwork_report"  # read by web/report.js
CHANGE = "blockwork_change"  # read by web/report.js: decks show it as a tint
UNTOUCHED = "blockwork_untouched"  # read by web/blockwork.js: the node's deck hatches these blocks


def shown(
    report: str = "",
    image: torch.Tensor | None = None,
    ran: str | None = None,
    change: dict[str, float] | None = None,
    untouched: list[str] | None = None,
    cls: Any = None,
) -> dict[str, Any]:
    """The ``ui`` of a node: ``image`` is ``b h w c``, ``ran`` the weight text that the node got, ``change`` per block.

    ``untouched`` are the blocks that a LoRA does not change.
    """
    found: dict[str, Any] = {}
    if report:
        found[REPORT] = (report,)
    if image is not None:
        found |= ui.PreviewImage(image, cls=cls).as_dict()
    if ran is not None:
        found[RAN] = (ran,)
    if change is not None:
        found[CHANGE] = ({block: value for block, value in change.items() if math.isfinite(value)},)
    if untouched is not None:
        found[UNTOUCHED] = (untouched,)
    return found
