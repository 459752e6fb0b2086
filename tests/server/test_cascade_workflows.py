"""The example workflows of the cascade through a real server, with small made stages and fewer steps."""

import json
from pathlib import Path

import pytest
from blockwork.tests.support import cascade_files
from refhost.client import PromptRefused, executed_nodes

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"spacing": "3,1", "steps": 2, "width": 16, "height": 16}
SD_QUICK = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """The four small files, where the server's ComfyUI looks for models."""
    cascade_files.make_files(server.base / "models")


def example(name, quick=QUICK):
    """An example workflow with shorter runs and smaller pictures."""
    prompt = json.loads((ROOT / f"example_workflows/api/{name}.json").read_text())
    for node in prompt.values():
        for key, value in quick.items():
            if not isinstance(node["inputs"].get(key), (list, type(None))):
                node["inputs"][key] = value
    return prompt


def sizes(client, entry):
    from io import BytesIO

    from PIL import Image

    return [Image.open(BytesIO(data)).size for data in client.images(entry)]


def test_the_whole_cascade_in_one_node(client):
    entry = client.run(example("cascade_64_256_1024"))
    assert (256, 256) in sizes(client, entry)  # 16 -> 64 -> 256
    memory = client.texts(entry)["memory"][0]
    print(memory)
    lines = memory.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == ["T5", "stage I", "stage II", "stage III"]
    assert all("weights" in line and "peak" in line for line in lines[:4])
    assert lines[4].startswith("largest model ")


def test_the_second_run_comes_from_the_cache(client):
    prompt = example("cascade_64_256_1024")
    client.run(prompt)
    assert executed_nodes(client.run(prompt)) == set()


def test_not_square(client):
    prompt = example("cascade_64_256_1024")
    prompt["cascade"]["inputs"].update(width=24, height=16, batch_size=2)
    del prompt["cascade"]["inputs"]["stage_3"], prompt["three"]
    assert sizes(client, client.run(prompt))[:2] == [(96, 64), (96, 64)]


@pytest.mark.parametrize("name", ["cascade_prompt_change", "cascade_style_transfer", "cascade_inpaint"])
def test_wired_by_hand(client, name):
    prompt = example(name)
    for node in prompt.values():
        if node["class_type"] == "SolidMask":
            node["inputs"]["width"] = node["inputs"]["height"] = 16 if node["inputs"]["value"] == 0 else 8
        if node["class_type"] == "MaskComposite":
            node["inputs"].update(x=4, y=4)
    found = sizes(client, client.run(prompt))
    assert found
    assert set(found) <= {(16, 16), (64, 64)}


def test_a_missing_file_says_where_it_comes_from(client):
    prompt = example("cascade_64_256_1024")
    prompt["one"]["inputs"]["stage_file"] = "IF-I-XL.safetensors"
    prompt["cascade"]["inputs"]["t5_file"] = "t5xxl.safetensors"
    with pytest.raises(PromptRefused) as refusal:
        client.run(prompt)
    message = str(refusal.value)
    for words in ("IF-I-XL.safetensors", "DeepFloyd IF licence", "models/diffusion_models"):
        assert words in message
    for words in ("t5xxl.safetensors", "google/t5-v1_1-xxl", "models/text_encoders"):
        assert words in message


def test_core_loads_an_original_stage_and_samples_it(client):
    """Load Diffusion Model, core's KSampler, core's empty latent and core's pixel VAE; only the T5 is ours."""
    prompt = example("cascade_prompt_change")
    for node in ("stage2", "low", "prompt2", "sigmas2", "guider2", "sample2", "image2", "save2"):
        del prompt[node]
    prompt["stage1"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": cascade_files.STAGE_FILES["I"], "weight_dtype": "default"},
    }
    prompt["threshold"] = {
        "class_type": "BlockworkThreshold",
        "inputs": {"model": ["stage1", 0], "mode": "dynamic", "percentile": 0.95, "cap": 1.5},
    }
    prompt["sample1"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["threshold", 0], "positive": ["prompt1", 0], "negative": ["empty", 0], "seed": 1,
            "latent_image": ["latent1", 0], "steps": 3, "cfg": 7.0, "sampler_name": "dpmpp_2m_sde",
            "scheduler": "normal", "denoise": 1.0,
        },
    }  # fmt: skip
    assert sizes(client, client.run(prompt)) == [(16, 16)]


@pytest.mark.parametrize("name", ["cascade_sd_upscale", "threshold_cfg20"])
def test_with_stable_diffusion(client, name):
    prompt = example(name, SD_QUICK)
    for node in prompt.values():
        if "spacing" in node["inputs"]:
            node["inputs"]["spacing"] = "3,1"
    entry = client.run(prompt)
    assert sizes(client, entry)
    if name == "threshold_cfg20":
        assert "saturation" in client.texts(entry)["words"][0]
