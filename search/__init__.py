"""Search of block weights: a space as text, studies kept by Optuna, the loop between Ask and Tell, scores, results."""
