"""Combining the weights of models, block by block."""
