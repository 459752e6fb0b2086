"""Merging files to a file: sources are read, merged and written piece by piece, never held whole."""

from .run import Merged, merge_files, opened, recipe_of, replay

__all__ = ["Merged", "merge_files", "opened", "recipe_of", "replay"]
