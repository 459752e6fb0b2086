"""Merging files to a file: sources are read, merged and written piece by piece, never held whole."""

from .replay import replay
from .run import Merged, merge_files, opened, recipe_of

__all__ = ["Merged", "merge_files", "opened", "recipe_of", "replay"]
