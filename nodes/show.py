"""What a node shows on itself in the browser: its report, its image, the weights it ran with."""

import math
from typing import Any

import torch
from comfy_api.latest import ui

from ..blocks.names import Layout

RAN = "blockwork_text"  # read by web/blockwork.js: a deck whose text comes over a link shows what ran
REPORT = "blockwork_report"  # read by web/report.js
LAYOUT = "blockwork_layout"  # read by web/blockwork.js: decks take the blocks of the model that the node got
CHANGE = "blockwork_change"  # read by web/report.js: decks show it as a tint
UNTOUCHED = "blockwork_untouched"  # read by web/blockwork.js: the node's deck hatches these blocks


def shown(
    report: str = "",
    image: torch.Tensor | None = None,
    ran: str | None = None,
    change: dict[str, float] | None = None,
    untouched: list[str] | None = None,
    cls: Any = None,
    layout: Layout | None = None,
) -> dict[str, Any]:
    """The ``ui`` of a node: ``image`` is ``b h w c``, ``ran`` the weight text that the node got, ``change`` per block.

    ``untouched`` are the blocks that a LoRA does not change, ``layout`` is that of the model that the node got.
    """
    found: dict[str, Any] = {}
    if report:
        found[REPORT] = (report,)
    if image is not None:
        found |= ui.PreviewImage(image, cls=cls).as_dict()
    if ran is not None:
        found[RAN] = (ran,)
    if layout is not None and layout.blocks:
        found[LAYOUT] = (layout.as_json(),)
    if change is not None:
        found[CHANGE] = ({block: value for block, value in change.items() if math.isfinite(value)},)
    if untouched is not None:
        found[UNTOUCHED] = (untouched,)
    return found
