"""Every text that a grammar of the pack reads is checked when a prompt is queued, before any model loads.

The tests run core's own validation. They go over all nodes: a new STRING input is listed here as one that anything
can be written into, or has a text that core refuses with a sentence of the pack.
"""

import asyncio
import inspect
import math

import blockwork
import pytest
from comfy_api.latest import io
from execution import validate_inputs

import nodes as core

NODES = {
    node.GET_SCHEMA().node_id.removeprefix("Blockwork"): node
    for node in asyncio.run(asyncio.run(blockwork.comfy_entrypoint()).get_node_list())
}
ANYTHING = {"title", "label", "prompt", "negative", "prompts", "question", "name_first", "name_second", "stages", "columns", "rows", "token", "captions", "run", "plot_title", "holdout_prompts", "plan"}  # fmt: skip
ANYTHING_OF = {("EncodeXTI", "text"), ("CascadeTextEncode", "text"), ("DeprojectorReport", "text"), ("ReplayRecipe", "name"), ("ScoreText", "text")}  # fmt: skip
WEIGHTS, SELECTORS, SPEC = (
    ("GRAD_W", "Did you mean GRAD_V"),
    ("attn:0.5", "fields"),
    ("IN07=x", "Cannot read"),
)
REFUSED = {
    "weights": WEIGHTS, "weights_a": WEIGHTS, "weights_b": WEIGHTS, "weights_2": WEIGHTS, "elemental": SELECTORS,
    "encoders": ("clip_l=nan", "finite"), "options": ("density=0.3", "Options of"), "blocks": SPEC, "within": SPEC,
    "recipe": ("out = A + B, alpha=GRAD_W", "Did you mean GRAD_V"), "name": ("../x", "Invalid output name"),
    "filename_prefix": ("../x", "not a name for a file"), "page": ("../x", "not a name for a file"),
    "ratios": ("0.5, nan", "is not a number"), "seeds": ("4-1", "range of seeds"), "share_a": ("half", "not a number"),
    "layout": ("sd7", "Unknown layout"), "spacing": ("ten", "is not valid"), "filename": ("../x", "file name"),
    "custom": SPEC, "study": ("../x", "name"), "space": ("IN = sideways", "sideways"), "holdout_seeds": ("4-1", "4-1"),
    "wanted": ("colour = loud", "loud"), "concepts": ("no colon", "not a valid concept"),
    "custom_templates": ("a photo", "where the token belongs"), "ranking": ("the second one", "Cannot read the ranking"),
}  # fmt: skip
REFUSED_OF = {
    ("MergeTwoRatios", "weights"): ("GRAD_W | 1", "Did you mean GRAD_V"),
    ("BlockSweep", "blocks"): ("IN01, IN01", "given twice"),
    ("SweepGrid", "blocks"): ("IN99", "IN99"),
    ("BlockPromptEncode", "text"): ("a (~: IN07=x: cat :~)", "Cannot read"),
    ("SplitBlockPrompt", "text"): ("a (~: IN07 cat :~)", "No colon"),
    ("EncodeAndMerge", "text"): ("cat:nan", "finite"),
    ("TextToEmbedding", "text"): ("cat:inf", "finite"),
}
BESIDE = {("BlockGrowth", "custom"): {"order": "custom"}}
FILLED = {"SearchCases": {"prompts": "a cat"}}  # what a user has to write


def texts():
    for name, node in NODES.items():
        for one in node.GET_SCHEMA().inputs:
            if isinstance(one, io.String.Input):
                yield name, one.id


def free(name: str, text: str) -> bool:
    return text in ANYTHING or (name, text) in ANYTHING_OF


CHECKED = [one for one in texts() if not free(*one)]


def problems(node_name: str, **given) -> str:
    """What core says of a prompt of this node alone; the sockets are left open, which is not looked at."""
    node = NODES[node_name]
    kind = node.GET_SCHEMA().node_id
    core.NODE_CLASS_MAPPINGS[kind] = node
    inputs = {
        one.id: one.default
        for one in node.GET_SCHEMA().inputs
        if isinstance(one, io.WidgetInput) and one.default is not None
    }
    prompt = {"1": {"class_type": kind, "inputs": {**inputs, **FILLED.get(node_name, {}), **given}}}
    valid, errors, _ = asyncio.run(validate_inputs("prompt", prompt, "1", {}))
    assert isinstance(valid, bool)
    kinds = (
        "custom_validation_failed",
        "value_not_in_list",
        "value_smaller_than_min",
        "value_bigger_than_max",
    )
    return "\n".join(f"{one['message']}: {one['details']}" for one in errors if one["type"] in kinds)


@pytest.mark.parametrize(("name", "text"), CHECKED)
def test_a_bad_text_is_refused_and_a_linked_one_is_left_to_the_run(name: str, text: str):
    bad, said = REFUSED_OF.get((name, text)) or REFUSED[text]
    beside = BESIDE.get((name, text), {})
    found = problems(name, **beside, **{text: bad})
    assert said in found
    assert "Custom validation failed" in found
    core.NODE_CLASS_MAPPINGS["Linked"] = core.NODE_CLASS_MAPPINGS["BlockworkBlockWeights"] = NODES[
        "BlockWeights"
    ]
    linked = {"1": {"class_type": f"Blockwork{name}", "inputs": {text: ["2", 0]}}, "2": {"class_type": "Linked", "inputs": {"layout": "sd1"}}}  # fmt: skip
    _, errors, _ = asyncio.run(validate_inputs("prompt", linked, "1", {}))
    assert [
        one for one in errors if one["type"] == "custom_validation_failed" and text in one["details"]
    ] == []


@pytest.mark.parametrize("name", sorted({name for name, _ in CHECKED}))
def test_defaults_are_taken_and_core_still_checks_what_it_checked(name: str):
    assert "Custom validation" not in problems(name)
    node = NODES[name]
    named = inspect.getfullargspec(node.validate_inputs).args
    for one in node.GET_SCHEMA().inputs:
        if isinstance(one, io.Combo.Input) and one.options is not None:
            assert problems(name, **{one.id: "not in the menu"})
        elif isinstance(one, io.Int.Input | io.Float.Input):
            assert one.id not in named
            if one.max is not None and math.isfinite(one.max):
                assert problems(name, **{one.id: one.max + 1})
