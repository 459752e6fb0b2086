"""How a block is made to do nothing: the last layer of each of its residual branches is multiplied by 0.

A residual block adds what its branches compute to its input: ``x + attention(x)``, ``x + mlp(x)``. With the last layer of
each branch at 0 the block passes its input on. Layers that change the shape (a U-Net's skip connections and
upsampling) stay. A block that does more than add to its input has no such form and is refused by name.
The branches and their last layers are told by the names that ComfyUI's model classes use.
"""

import re
from collections.abc import Iterable

from .names import BlockError, Layout
from .stacks import diffusion_key, place_of

_PARAMETERS = (".weight", ".bias")
_BRANCH = re.compile(r"attn|attention|mlp|feed_forward|^ffn?(?:_[a-z])?$|_ff$|^moe$|processor|^channelwise$")
_LAST = re.compile(
    r"(?<!net\.0\.)(?<!ff\.0\.)(?:^|(?<=\.))(?:(?:img_attn_|txt_attn_|out_|o_|output_|down_|c_)?proj(?:_[xy]|_out)?(?:\.(?:vid|txt|all))?"
    r"|(?:attn_|ff_|linear_)?out|out_layer|o|wo|to_out(?:_t)?(?:\.0)?|to_add_out|w[12]o|expand_from_attn"
    r"|(?:linear_)?fc2|w_?2|down|(?:net\.|ff\.|mlp\.)?2|layer2|linear_?2|point_conv\.conv|channelwise\.4|mapper(?:_\w+)?)$"
)
_AROUND = re.compile(  # layers that only steer or feed the branches, or that keep the shape
    r"norm|mod(?:ulation|[CX]+)?(?:_|\.|$)|ada_?ln|(?:^|\.)ada(?:\.|$)|scale_shift|shift_table|skip_linear|_ln$"
    r"|(?:^|\.)(?:ls|gamma|alpha|freqs)|compress_to_attn|kv_mapper|depthwise|(?:^|[._])ln_",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:^|\.)(?:\w*qkv|(?:to_|w)?[qkv](?:_proj)?)$"
)  # queries, keys, values: they add nothing themselves
_RESIDUAL = re.compile(r"([0-9]+\.(?:.*\.)?)out_layers\.([0-9]+)")
_TRANSFORMER_OUT = re.compile(r"[0-9]+\.(?:proj_out|(?:.*\.)?time_stack\.proj_out)")


def last_layers(keys: Iterable[str], layout: Layout, blocks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Block -> the keys that are multiplied by 0 to bypass it; BlockError that names the blocks that cannot be bypassed.

    ``keys`` are all keys of the model, with the prefix of a checkpoint or of ComfyUI.
    """
    wanted: dict[str, dict[str, str]] = {block: {} for block in blocks}
    for key in keys:
        inside = diffusion_key(key)
        place = place_of(inside, layout.titles) if inside else None
        if inside is None or place is None:
            continue
        stack, number = place
        block = stack.blocks[number]
        if block in wanted:
            path = inside.removeprefix(stack.title).removeprefix(".")
            if stack.title != "middle_block":
                path = path.partition(".")[2]
            wanted[block][key] = path.partition(".")[2] if stack.levels else path
    find = _in_unet if layout.is_unet else _in_transformer
    found: dict[str, tuple[str, ...]] = {}
    refused: dict[str, BlockError] = {}
    for block, paths in wanted.items():
        try:
            found[block] = find(block, paths)
        except BlockError as error:
            refused[block] = error
    if len(refused) == 1:
        raise next(iter(refused.values()))
    if refused:
        instead = f"Use {', '.join(found)}." if found else "Scale them with a number."
        raise BlockError(
            f"{', '.join(refused)} cannot be bypassed: they do more than add to their input. {instead}"
        )
    return found


def _in_unet(block: str, paths: dict[str, str]) -> tuple[str, ...]:
    last: dict[str, int] = {}
    for path in paths.values():
        if match := _RESIDUAL.match(path):
            last[match.group(1)] = max(last.get(match.group(1), 0), int(match.group(2)))
    modules = {f"{prefix}out_layers.{number}" for prefix, number in last.items()}
    found = tuple(
        key
        for key, path in paths.items()
        if (module := _module(path)) in modules or _TRANSFORMER_OUT.fullmatch(module)
    )
    if not found:
        raise _refused(block, "it only changes the shape of its input")
    return found


def _in_transformer(block: str, paths: dict[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    branches: dict[str, list[str]] = {}
    ended: set[str] = set()
    for key, path in paths.items():
        module = _module(path)
        if _AROUND.search(module or path):
            continue
        branch = _branch(module)
        branches.setdefault(branch, []).append(module)
        if _LAST.search(module) and path.endswith(_PARAMETERS):
            found.append(key)
            ended.add(branch)
    open_ = [
        name
        for name, modules in branches.items()
        if name not in ended and not all(map(_ASKS.search, modules))
    ]
    if open_ or not found:
        where = f"its {open_[0]}" if open_ and open_[0] else "a part of it"
        raise _refused(block, f"{where} is not a residual branch with a known last layer")
    if "" in ended and len(branches) > 1 and any(module == "linear2" for module in branches[""]):
        raise _refused(block, "it normalises the sum of its input and its branches")
    return tuple(found)


def _module(path: str) -> str:
    return path.rpartition(".")[0]


def _branch(module: str) -> str:
    """The branch that a module is in: up to the first name of attention or feed-forward; '' for the block itself."""
    parts = module.split(".")
    for place, part in enumerate(parts[:-1] if len(parts) > 1 else parts):
        if _BRANCH.search(part):
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1])


def _refused(block: str, why: str) -> BlockError:
    return BlockError(f"{block} cannot be bypassed: {why}. Choose another block, or scale it with a number.")
