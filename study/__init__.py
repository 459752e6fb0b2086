"""Studies of blocks: sweeps expanded into the graph, one cache entry per cell, and the images of their results."""
