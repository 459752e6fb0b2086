"""Puts the reference ComfyUI on ``sys.path`` and pins it to the CPU before anything imports it."""

import sys

from refhost import layout

sys.path.insert(0, str(layout.comfyui_path()))

import comfy.cli_args  # noqa: E402  (needs the path above)

comfy.cli_args.args.cpu = True

import comfy.model_management  # noqa: E402, F401  (reads the flag at import)
