"""The pack's routes: the user's own presets, and the layout of a model file.

JSON in and out. Clients name presets and files that ComfyUI lists, never paths; ComfyUI checks the origin.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from ..blocks import header, host, own_presets
from ..blocks.names import BlockError

PRESETS = "/blockwork/presets"
LAYOUT = "/blockwork/layout"
FOLDERS = ("checkpoints", "diffusion_models")


def register() -> None:
    """Add the routes to the running server."""
    routes = PromptServer.instance.routes
    routes.get(LAYOUT)(_layout)
    routes.get(PRESETS)(_listed)
    routes.post(PRESETS)(_changing(_save))
    routes.post(f"{PRESETS}/remove")(_changing(_remove))
    routes.post(f"{PRESETS}/import")(_changing(_import))


async def _layout(request: web.Request) -> web.Response:
    """The blocks of a listed file, or ``layout: null`` and the reason: a deck then keeps its menu."""
    folder, name = request.query.get("folder", ""), request.query.get("name", "")
    try:
        found = await asyncio.to_thread(_layout_of, folder, name)
        return web.json_response({"layout": found})
    except (BlockError, OSError) as error:
        reason = str(error) if isinstance(error, BlockError) else f"{name[:80]!r} cannot be read."
        return web.json_response({"layout": None, "reason": reason})


def _layout_of(folder: str, name: str) -> dict[str, Any]:
    if folder not in FOLDERS or name not in folder_paths.get_filename_list(folder):
        raise BlockError(f"ComfyUI does not list {name[:80]!r}.")
    return header.layout_of_file(Path(folder_paths.get_full_path_or_raise(folder, name)))


async def _listed(_: web.Request) -> web.Response:
    presets = await asyncio.to_thread(own_presets.read_folder, host.preset_folder())
    return web.json_response(
        {
            "presets": [
                {
                    "name": preset.name,
                    "values": preset.values,
                    "about": preset.about,
                    "file": preset.file,
                    "editable": preset.file == own_presets.SAVED,
                }
                for preset in presets.values()
            ]
        }
    )


def _changing(change: Callable[[dict[str, Any]], None]) -> Callable[[web.Request], Any]:
    """A route that changes the saved presets and answers with all of them, or with a reason and status 400."""

    async def answer(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return web.json_response({"error": "Expected JSON."}, status=415)
        if request.content_length is None or request.content_length > 2 * own_presets.MOST_BYTES:
            return web.json_response({"error": "The request is too large."}, status=413)
        try:
            given = json.loads(await request.read())
            await asyncio.to_thread(change, given)
        except BlockError as error:
            return web.json_response({"error": str(error)}, status=400)
        except (ValueError, TypeError, KeyError, AttributeError):
            return web.json_response({"error": "The request is not a valid preset."}, status=400)
        return await _listed(request)

    return answer


def _save(given: dict[str, Any]) -> None:
    preset = own_presets.checked(
        given["name"], [float(value) for value in given["values"]], given.get("about", "")
    )
    own_presets.save(host.preset_folder(), [preset])


def _remove(given: dict[str, Any]) -> None:
    own_presets.remove(host.preset_folder(), str(given["name"]))


def _import(given: dict[str, Any]) -> None:
    presets = own_presets.read_text(given["text"], own_presets.SAVED)
    if not presets:
        raise BlockError("The file holds no presets. Expected lines with a name, a tab and numbers.")
    own_presets.save(host.preset_folder(), list(presets.values()))
