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
