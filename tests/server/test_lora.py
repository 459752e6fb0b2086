"""LoRA by block through the queue of a real ComfyUI: the templates, a slider move, the saved file in core's loader."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refhost.client import PromptFailed, PromptRefused, executed_nodes
from safetensors import safe_open
from safetensors.torch import save_file

PREFIX = "model.diffusion_model."


def pixels(client, prompt):
    """The image of node 8, without the workflow in its metadata."""
    return np.asarray(Image.open(io.BytesIO(client.images(client.run(prompt), "8")[0])))


@pytest.fixture(scope="module")
def style(server) -> Path:
    """A LoRA for the attention layers of the small checkpoint, in the generic naming."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    with safe_open(server.base / "models" / "checkpoints" / "sd15_a.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118  (safe_open has no iterator)
            if key.startswith(PREFIX) and key.endswith(("attn1.to_q.weight", "attn2.to_v.weight")):
                rows, columns = file.get_slice(key).get_shape()
                name = "diffusion_model." + key.removeprefix(PREFIX).removesuffix(".weight")
                tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
                tensors[f"{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
    path = server.base / "models" / "loras" / "sd15_style.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def test_the_template_runs_and_a_slider_runs_the_loader_again(client, example, style):
    prompt = example("lora_by_block")
    entry = client.run(prompt)
    texts = client.texts(entry)
    assert "IN04" in texts["9"][0] and "eff. rank" in texts["10"][0]
    moved = copy.deepcopy(prompt)
    moved["2"]["inputs"]["weights"] = "OUT03-OUT11=0.5, IN01-M00=0.3"
    ran = executed_nodes(client.run(moved))
    assert "2" in ran and "6" in ran and "1" not in ran and "10" not in ran


def test_the_saved_file_is_what_the_live_node_attaches(client, example, style, server):
    prompt = example("lora_by_block")
    prompt["2"]["inputs"]["weights"] = prompt["12"]["inputs"]["weights"] = "IN04-IN08=0"
    prompt["8"] = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}
    live = pixels(client, prompt)
    written = sorted((server.base / "output" / "loras").glob("by_block_*.safetensors"))[-1]
    core = copy.deepcopy(prompt)
    core["2"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["1", 0], "clip": ["1", 1], "lora_name": written.name, "strength_model": 1.0, "strength_clip": 1.0,
        },
    }  # fmt: skip
    for node in ("9", "10", "11", "12"):
        del core[node]
    assert np.array_equal(pixels(client, core), live)


def test_hooks_with_keyframes_run(client, example, style):
    client.run(example("lora_by_block_scheduled"))


def test_a_wrong_list_is_refused_with_its_lengths(client, example, style):
    prompt = example("lora_by_block")
    prompt["2"]["inputs"]["weights"] = "1, 0, 1"
    with pytest.raises(PromptFailed, match="17, 27"):
        client.run(prompt)


def test_extraction_and_sums_are_written_and_listed(client, example, style, server):
    prompt = example("lora_extract")
    prompt["3"]["inputs"]["rank"] = 2
    texts = client.texts(client.run(prompt))
    assert "relative error" in texts["3"][0]
    assert "layers" in client.texts(client.run(example("lora_merge")))["2"][0]
    listed = client.get("/models/loras")
    assert any("extracted_" in name for name in listed) and any("merged_" in name for name in listed)


def test_a_lora_in_a_recipe_is_written_with_its_hash(client, example, style):
    prompt = example("recipe_lora")
    prompt["1"]["inputs"]["overwrite"] = True
    report = client.texts(client.run(prompt))["2"][0]
    assert (
        "lora(sd15_style, 0.8, [IN04-IN08=0.5, OUT03-OUT11=1])" in report and "IN04         x 0.5" in report
    )
    read = {
        "1": {
            "class_type": "BlockworkReadRecipe",
            "inputs": {"checkpoint": "merges/example_lora.safetensors"},
        }
    }
    read["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    assert "pin lora(sd15_style) = " in client.texts(client.run(read))["2"][0]
    prompt["1"]["inputs"]["recipe"] = "out = sd15_a + lora(sd15_style, 0.8, [NO_PRESET])"
    with pytest.raises(PromptRefused, match="Unknown preset 'NO_PRESET'"):
        client.run(prompt)


def test_a_sweep_of_a_lora(client, example, style):
    prompt = example("lora_sweep")
    prompt["5"]["inputs"] |= {
        "blocks": "IN04, OUT05, OUT11",
        "seeds": "1",
        "steps": 1,
        "cfg": 1.0,
        "cell_size": 64,
    }
    plain = client.texts(client.run(prompt))["8"][0]
    assert plain.startswith("each block of sd15_style.safetensors solo, seeds 1")
    prompt["5"]["inputs"]["lora_mode"] = "mute"
    muted = client.texts(client.run(prompt))["8"][0]
    for report in (plain, muted):
        assert "OUT05 = " in report and "IN04 = " in report
