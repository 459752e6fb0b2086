"""Quantised weights in files, in plain torch: which formats can be read, their numbers, and writing them again."""
