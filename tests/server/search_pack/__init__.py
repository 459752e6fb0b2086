"""A pack with one scorer that reads weights, as another pack's scorer would read images."""

import time


class ScoreOfWeights:
    """The number of characters of the weights, after a while."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "score"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"weights": ("STRING", {"forceInput": True}), "seconds": ("FLOAT", {"default": 0.1})}
        }

    def score(self, weights, seconds):
        time.sleep(seconds)
        return (float(len(weights)),)


NODE_CLASS_MAPPINGS = {"ScoreOfWeights": ScoreOfWeights}
