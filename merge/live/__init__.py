"""Live merging: patches on a clone of a loaded model; nothing is computed before core loads it."""
