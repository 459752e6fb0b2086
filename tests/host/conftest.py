"""Puts the reference ComfyUI on ``sys.path`` and pins it to the CPU before anything imports it."""

from refhost.pack import use_comfyui

use_comfyui()
