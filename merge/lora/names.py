"""The blocks of a LoRA read off its own names, where no model is at hand: kohya's, diffusers' and ComfyUI's.

A number in a name tells the block where its row of layers is one that ``blocks.stacks`` knows. Names with underscores
(kohya, LyCORIS) have a dot put around each number; ``down_blocks`` and ``up_blocks`` of diffusers are counted
as the U-Net counts its blocks. ``attn2`` of the U-Nets and the numbers there tell SD1 and SDXL apart.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...blocks.keys import MODEL
from ...blocks.names import INPUT_BLOCKS, MIDDLE_BLOCK, NO_LAYOUT, OUTPUT_BLOCKS, SD1, SDXL, Layout, layout_of
from ...blocks.stacks import KNOWN

TEXTS = ("lora_te", "lora_prior_te", "text_encoder")
PREFIXES = (
    MODEL, "transformer.", "unet.", "base_model.model.", "lora_unet_", "lora_transformer_", "lora_prior_unet_",
    "lycoris_",
)  # fmt: skip
_SUFFIX = re.compile(
    r"(?:_lora\.(?:up|down)\.weight|\.(?:alpha|lora_(?:up|down|mid)\.weight|lora_[AB](?:\.default)?(?:\.weight)?"
    r"|lora\.(?:up|down)\.weight|lora_linear_layer\.(?:up|down)\.weight|hada_\w+|lokr_\w+|oft_blocks|dora_scale"
    r"|rescale|diff|diff_b|w_norm|b_norm|set_weight|reshape_weight|[ab][12]\.weight))$"
)
_NUMBERED = re.compile(r"(?:(.+?)\.)(\d{1,6})\.")
_WIDTHS = {768: "sd1", 1024: "sd1", 2048: "sdxl"}  # of the prompt, which attn2 reads
_LAST_SDXL = 8  # input and output blocks
_SINGLE = "single_transformer_blocks"  # of diffusers' names of Flux, with the names of the rows in the model:
_FLUX = {"transformer_blocks": "double_blocks", _SINGLE: "single_blocks"}


@dataclass
class OwnNames:
    """Modules of a file and the keys that stand for their layers; which modules are a text encoder's; the naming."""

    layout: Layout = NO_LAYOUT
    keys: dict[str, str] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    naming: dict[str, str] = field(default_factory=dict)  # row of layers -> how the file writes it

    @property
    def has_blocks(self) -> bool:
        return self.layout is not NO_LAYOUT


def own_names(tensors: Mapping[str, Tensor]) -> OwnNames:
    """The layers and blocks that the names of a LoRA's tensors tell; no layout where they tell none."""
    found, last = OwnNames(), dict[str, int]()
    for module in dict.fromkeys(_SUFFIX.sub("", name) for name in tensors if _SUFFIX.search(name)):
        prefix = next((one for one in PREFIXES if module.startswith(one)), "")
        if module.startswith(TEXTS):
            found.texts.add(module)
            found.keys[module] = f"{module}.weight"
            continue
        written = _dotted(module.removeprefix(prefix))
        path = _as_unet(written)
        found.keys[module] = f"{MODEL}{path}.weight"
        if (place := _NUMBERED.match(f"{path}.")) and _is_row(place[1]):
            last[place[1]] = max(last.get(place[1], 0), int(place[2]))
            found.naming.setdefault(
                place[1], prefix + written[: len(written) - len(path)] + written.partition(".")[0]
            )
    found.layout = _layout(last, tensors)
    if _SINGLE in last:
        for module, key in found.keys.items():
            title, _, rest = key.removeprefix(MODEL).partition(".")
            if module not in found.texts and title in _FLUX:
                found.keys[module] = f"{MODEL}{_FLUX[title]}.{rest}"
    return found


def _is_row(title: str) -> bool:
    return title in KNOWN or title in (INPUT_BLOCKS, MIDDLE_BLOCK, OUTPUT_BLOCKS, _SINGLE)


def _dotted(path: str) -> str:
    """A path with underscores with a dot before and after each number; other paths as they are."""
    if "." in path:
        return path
    return re.sub(r"(\.\d+)_", r"\1.", re.sub(r"_(\d+)(?=_|$)", r".\1", path))


def _as_unet(path: str) -> str:
    """A path of diffusers' U-Net with the numbers of the U-Net's own blocks; other paths as they are."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(attentions|resnets)\.(\d)\.?(.*)", path):
        side, level, kind, number, rest = found.groups()
        row, first = (INPUT_BLOCKS, 1) if side == "down" else (OUTPUT_BLOCKS, 0)
        return f"{row}.{3 * int(level) + int(number) + first}.{int(kind == 'attentions')}.{rest}"
    if found := re.match(r"(down|up)_blocks\.(\d)\.(?:down|up)samplers\.?(.*)", path):
        side, level, rest = found.groups()
        row, last = (INPUT_BLOCKS, 3) if side == "down" else (OUTPUT_BLOCKS, 2)
        return f"{row}.{3 * int(level) + last}.2.{rest}"
    return re.sub(r"^mid_block[._]", f"{MIDDLE_BLOCK}.0.", path)


def _layout(last: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Layout:
    """The blocks of the rows that the names tell, each up to its last number; a U-Net's by its kind."""
    if {INPUT_BLOCKS, MIDDLE_BLOCK, OUTPUT_BLOCKS} & last.keys():
        highest = max(last.get(INPUT_BLOCKS, 0), last.get(OUTPUT_BLOCKS, 0))
        kind = "sd1" if highest > _LAST_SDXL else _kind(tensors)
        return {"sd1": SD1, "sdxl": SDXL}.get(kind, NO_LAYOUT)
    names = _FLUX if _SINGLE in last else {}
    rows = {names.get(title, title): number for title, number in last.items()}
    keys = [f"{MODEL}{title}.{i}.layer.weight" for title, number in rows.items() for i in range(number + 1)]
    return layout_of(keys) if keys else NO_LAYOUT


def _kind(tensors: Mapping[str, Tensor]) -> str:
    """sd1 or sdxl by the width of the prompt or the depth of a block; empty where nothing tells."""
    kinds: Iterable[str] = (
        _WIDTHS.get(tensor.shape[1], "")
        for name, tensor in tensors.items()
        if re.search(r"attn2[._](?:processor\.)?to_[kv]", name)
        and re.search(r"lora_(?:down|A)|_lora\.down|lora\.down", name)
    )
    deep = any(re.search(r"transformer_blocks[._][1-9]", name) for name in tensors)
    return next(filter(None, kinds), "sdxl" if deep else "")
