"""Texts that no model can take are refused when the prompt is queued, before any model loads."""

import pytest
from refhost.client import Client, PromptRefused


@pytest.mark.parametrize(
    ("text", "said"), [("GRAD_W", "Did you mean GRAD_V"), ("nan", "finite"), ("IN00=x", "is not a number")]
)
def test_weight_texts_are_refused_before_queueing(client: Client, text: str, said: str):
    weights = {"class_type": "BlockworkBlockWeights", "inputs": {"layout": "sd1", "weights": text}}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    with pytest.raises(PromptRefused, match=said):
        client.queue({"1": weights, "2": show})


def test_every_merge_checks_its_text(client: Client):
    load = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15_a.safetensors"}}
    for kind in (
        "BlockworkMergeModels",
        "BlockworkMergeTwoRatios",
        "BlockworkAddDifference",
        "BlockworkScaleBlocks",
    ):
        models = {name: ["1", 0] for name in ("model", "model_a", "model_b", "model_c")}
        merge = {
            "class_type": kind,
            "inputs": {**models, "weights": "GRAD_W | 1" if "Two" in kind else "GRAD_W"},
        }
        show = {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}}
        with pytest.raises(PromptRefused, match="Unknown preset"):
            client.queue({"1": load, "2": merge, "3": show})


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        ("BlockworkSweepGrid", {"images": ["1", 0], "ratios": "0.5, nan"}, "is not a number"),
        ("BlockworkRecipeToFile", {"name": "x", "recipe": "a = b + c, alpha=GRAD_W"}, "Did you mean GRAD_V"),
        ("BlockworkCascadeSigmas", {"model": ["1", 0], "spacing": "smart"}, "is not valid"),
        ("BlockworkSplitBlockPrompt", {"model": ["1", 0], "text": "a (~: IN07=x: b :~)"}, "Cannot read"),
    ],
)
def test_other_grammars_are_refused_too(client: Client, kind: str, inputs: dict, said: str):
    """``tests/host/test_texts_before_queueing.py`` goes over every node; these come over the API."""
    source = "EmptyImage" if "images" in inputs else "CheckpointLoaderSimple"
    first = {} if source == "EmptyImage" else {"ckpt_name": "sd15_a.safetensors"}
    prompt = {
        "1": {
            "class_type": source,
            "inputs": first or {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": kind, "inputs": inputs},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    with pytest.raises(PromptRefused, match=said):
        client.queue(prompt)
