"""The ComfyUI face: a table of contents of every node in the pack, room by room."""

from comfy_api.latest import ComfyExtension, io

from . import (
    atelier,
    atelier_stages,
    blocks,
    cascade,
    deprojector,
    deprojector_models,
    injection,
    merge,
    merge_files,
    recipes,
    sweep,
)

ROOMS = (
    blocks,
    merge,
    merge_files,
    recipes,
    sweep,
    injection,
    deprojector_models,
    deprojector,
    cascade,
    atelier,
    atelier_stages,
)


class BlockworkExtension(ComfyExtension):
    """Hands ComfyUI the nodes of all rooms, in the order of the rooms."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for room in ROOMS for node in room.NODES]
