"""Recipes: merges written as text, one line per merge; grammar, scanner, the ``mbw_each`` reader, model names."""

from .grammar import Line, Recipe, parse, to_text
from .scanner import RecipeError

__all__ = ["Line", "Recipe", "RecipeError", "parse", "to_text"]
