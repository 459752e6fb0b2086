"""Finding the recipe of a merge: which share of which candidate is in each block."""

from .answer import images, recipe_text, report, weights_of, weights_text
from .finding import Found, find_recipe

__all__ = ["Found", "find_recipe", "images", "recipe_text", "report", "weights_of", "weights_text"]
