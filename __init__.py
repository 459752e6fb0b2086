"""Blockwork: diffusion models, taken apart and put together block by block.

The door of the pack, and nothing else: ComfyUI calls ``comfy_entrypoint``; whatever costs time to
import is imported there.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension that lists every node of the pack."""
    from .nodes import BlockworkExtension

    return BlockworkExtension()
