"""Deprojectors in ComfyUI: the only part of this package that imports it."""
