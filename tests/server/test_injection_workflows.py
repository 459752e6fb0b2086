"""Injection through the queue of a real ComfyUI: every example workflow, its plan, its cache, its errors."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from refhost import layout
from refhost.client import PromptFailed, PromptRefused, executed_nodes
from safetensors.torch import load_file, save_file

LAYERS = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID", *(f"OUT{n:02}" for n in range(3, 12))]
EMBEDDINGS = layout.TESTS_BASE / "models" / "embeddings"


def by_class(prompt, name):
    return [number for number, node in prompt.items() if node["class_type"] == name]


def pictures(client, prompt, entry, kind="SaveImage"):
    """The images of the nodes of a kind, as arrays."""
    return [
        np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32)
        for node in by_class(prompt, kind)
        for data in client.images(entry, node)
    ]


def report(client, prompt, entry, name):
    """The text that the one node of a class showed."""
    (node,) = by_class(prompt, name)
    (text,) = client.texts(entry)[node]
    return text


@pytest.fixture(scope="module")
def concepts(server):
    """Two XTI files in the server's embeddings folder: kohya's kind and promptplusplus'."""
    EMBEDDINGS.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    first = {layer: torch.randn(2, 768, generator=generator) * 0.02 for layer in LAYERS}
    second = {f"<b-{i}-0>": torch.randn(768, generator=generator) * 0.02 for i in range(16)}
    save_file(first, EMBEDDINGS / "xti_a.safetensors")
    save_file(second, EMBEDDINGS / "xti_b.safetensors")
    (EMBEDDINGS / "xti_mixed.safetensors").unlink(missing_ok=True)
    return first, second


@pytest.mark.parametrize(
    "name", ["injection_red_green", "injection_block_prompt", "injection_regions", "injection_by_model"]
)
def test_examples_run_and_are_cached(client, example, name):
    prompt = example(name)
    entry = client.run(prompt)
    (image,) = pictures(client, prompt, entry)
    assert image.shape == (64, 64, 3) and image.std() > 0
    assert executed_nodes(client.run(prompt)) == set()


def test_injection_changes_the_picture_and_zero_weight_does_not(client, example):
    prompt = example("injection_red_green")
    (node,) = by_class(prompt, "BlockworkInjectIntoBlocks")
    (sampler,) = by_class(prompt, "KSampler")
    (injected,) = pictures(client, prompt, client.run(prompt))
    prompt[node]["inputs"] |= {"weight": 0.0}
    (off,) = pictures(client, prompt, client.run(prompt))
    plain = example("injection_red_green")
    plain[sampler]["inputs"] |= {"model": ["1", 0], "positive": plain[node]["inputs"]["conditioning"]}
    (without,) = pictures(client, plain, client.run(plain))
    assert np.array_equal(off, without)
    assert not np.array_equal(injected, without)


def test_the_plan_names_blocks(client, example):
    prompt = example("injection_regions")
    entry = client.run(prompt)
    text = report(client, prompt, entry, "BlockworkInjectionPlan")
    assert "1. snow: concat 1 in IN01, IN02, IN04, IN05, OUT06" in text
    assert "2. night: lerp 0.4 in IN07, IN08, M00, OUT03, OUT04, OUT05" in text
    assert "No injections" in text  # the right half
    assert report(client, prompt, entry, "PreviewAny") == text
    plans = pictures(client, prompt, entry, "PreviewImage")
    assert len(plans) == 2 and plans[0].shape[0] > 300


def test_block_prompts_resolve(client, example):
    prompt = example("injection_block_prompt")
    texts = [text[0] for text in client.texts(client.run(prompt)).values()]
    assert any("IN07, IN08, M00, OUT03, OUT04, OUT05: a green lizard on a table" in text for text in texts)


def test_sdxl_style_with_a_preset(sdxl_checkpoints, client, example):
    prompt = example("injection_sdxl_style")
    entry = client.run(prompt)
    texts = [text[0] for text in client.texts(entry).values()]
    assert any("B-LoRA" in text for text in texts)
    assert any("watercolour: lerp 0.8 in OUT01" in text for text in texts)
    assert len(pictures(client, prompt, entry)) == 1


def test_growth_makes_one_grid_and_writes_nothing_else(client, example):
    prompt = example("injection_growth")
    before = {path for path in (layout.TESTS_BASE / "output").rglob("*") if "growth" not in path.name}
    entry = client.run(prompt)
    (grid,) = pictures(client, prompt, entry)
    assert grid.shape[1] >= 3 * 64
    (text,) = client.texts(entry).values()
    assert text[0].splitlines()[-1] == "+ OUT05: M00, IN08, OUT03, IN07, OUT04, OUT05"
    after = {path for path in (layout.TESTS_BASE / "output").rglob("*") if "growth" not in path.name}
    assert after == before


def test_xti_example(client, example, concepts):
    first, second = concepts
    prompt = example("xti_style_mix")
    entry = client.run(prompt)
    assert len(pictures(client, prompt, entry)) == 1
    text = report(client, prompt, entry, "BlockworkXTIDensity")
    assert "IN08:" in text and "log density" in text
    saved = load_file(EMBEDDINGS / "xti_mixed.safetensors")
    assert sorted(saved) == sorted(LAYERS)
    assert torch.equal(saved["MID"][0], second["<b-6-0>"])
    assert torch.equal(saved["IN01"], first["IN01"])


def test_a_token_is_trained_on_the_demo_model(client):
    """The template as it is, with a few steps: trained, saved with kohya's keys, used in a new sentence."""
    path = layout.ROOT / "example_workflows" / "api" / "demo_train_xti.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    (node,) = by_class(prompt, "BlockworkTrainXTI")
    prompt[node]["inputs"]["steps"] = 4
    (EMBEDDINGS / "trained_gem.safetensors").unlink(missing_ok=True)
    entry = client.run(prompt)
    assert "<gem>: XTI, 8 images, 4 steps of 2" in report(client, prompt, entry, "BlockworkTrainXTI")
    assert sorted(load_file(EMBEDDINGS / "trained_gem.safetensors")) == sorted(LAYERS)
    painted = pictures(client, prompt, entry)
    assert len(painted) == 4 and all(image.std() > 5 for image in painted)
    prompt[node]["inputs"]["concepts"] = "gem"
    with pytest.raises(PromptRefused, match="not a valid concept"):
        client.run(prompt)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [("IN03", "no cross-attention"), ("IN42", "Blocks of this model with cross-attention: IN01")],
)
def test_wrong_blocks_fail_with_the_valid_names(client, example, blocks, message):
    prompt = example("injection_red_green")
    (node,) = by_class(prompt, "BlockworkInjectIntoBlocks")
    prompt[node]["inputs"]["blocks"] = blocks
    with pytest.raises(PromptFailed, match=message):
        client.run(prompt)


def test_an_unprepared_model_fails_with_advice(client, example):
    prompt = example("injection_red_green")
    (sampler,) = by_class(prompt, "KSampler")
    prompt[sampler]["inputs"]["model"] = ["1", 0]
    with pytest.raises(PromptFailed, match="Connect the MODEL output"):
        client.run(prompt)
