"""LoRA by block: weight texts as LoRA Block Weight writes them, the size of a LoRA per block, files scaled per block."""
