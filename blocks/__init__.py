"""The shared vocabulary: what the blocks of a U-Net are called, and how numbers and texts address them."""
