"""Searches as prompts without models: nodes that score and draw weights, with faults that a test orders."""

import asyncio
import weakref

import torch
from blockwork.blocks.weights import parse
from blockwork.search import host
from blockwork.tests.support import executor_kit as kit

SCORER, IMAGES, PLUS, SLOW, LOOK = "ScoreOfWeights", "ImageOfWeights", "PlusOne", "SlowPlus", "LookAtPrompt"
CALLS: list = []
DRAWN: list = []  # weak references to the images
FAULTS: dict[int, object] = {}  # call number -> what the scorer gives or raises


class ScoreOfWeights:
    """A score with a known optimum, IN00 = 0.3: reads the weights, and does what FAULTS says."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "score"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"weights": ("STRING", {"forceInput": True})},
            "optional": {"seed": ("INT", {"forceInput": True}), "plus": ("FLOAT", {"forceInput": True})},
        }

    def score(self, weights, seed=0, plus=0.0):
        CALLS.append((weights, seed))
        fault = FAULTS.get(len(CALLS))
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            return (fault,)
        return (plus - (parse(weights, "sd1").of("IN00", 0.0) - 0.3) ** 2 + seed,)


class ImageOfWeights:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"weights": ("STRING", {"forceInput": True})}}

    def draw(self, weights):
        image = torch.full((1, 8, 8, 3), 0.5)
        DRAWN.append(weakref.ref(image))
        return (image,)


class PlusOne:
    """A slow thing outside the loop, which must run once."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "give"
    CATEGORY = ""
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def give(self, text):
        PlusOne.calls += 1
        return (1.0,)


class SlowPlus(PlusOne):
    """A node that waits the first time, as for another server."""

    events: list = []

    async def give(self, text):
        self.events.append("runs")
        try:
            await asyncio.sleep(60 if len(self.events) == 1 else 0)
        except asyncio.CancelledError:
            self.events.append("is cancelled")
            raise
        return (1.0,)


class LookAtPrompt(ImageOfWeights):
    """Keeps what Save Image would write into its file."""

    @classmethod
    def INPUT_TYPES(cls):
        return {**super().INPUT_TYPES(), "hidden": {"prompt": "PROMPT", "workflow": "EXTRA_PNGINFO"}}

    def draw(self, weights, prompt, workflow):
        kit.KEPT["looked"] = prompt, workflow
        return super().draw(weights)


NODES = {SCORER: ScoreOfWeights, IMAGES: ImageOfWeights, PLUS: PlusOne, SLOW: SlowPlus, LOOK: LookAtPrompt}


def prompt(space="IN00 = 0..1; M00 = 0.5", ask=None, tell=None, scorer=None, more=None):
    inputs = {"study": "a study", "space": ["1", 0], "sampler": "random", "seed": 1, "trials": 6}
    found = {
        "1": {"class_type": "BlockworkSearchSpace", "inputs": {"layout": "sd1", "space": space}},
        "2": {"class_type": "BlockworkSearchAsk", "inputs": {**inputs, **(ask or {})}},
        "3": {"class_type": SCORER, "inputs": {"weights": ["2", 0], **(scorer or {})}},
        "4": {
            "class_type": "BlockworkSearchTell",
            "inputs": {"trial": ["2", 1], "score": ["3", 0], "direction": "maximize", **(tell or {})},
        },
        **(more or {}),
    }
    for output, name in enumerate(("study", "weights", "report")):
        found[name] = {"class_type": kit.KEEP, "inputs": {"thing": ["4", output], "name": name}}
    return found


CASES = {
    "class_type": "BlockworkSearchCases",
    "inputs": {"trial": ["2", 1], "prompts": "a cat", "seeds": "1, 2", "holdout_seeds": "11-14"},
}


def rows():
    return host.read_study("a study").rows()
