"""Transformers through the queue of a real ComfyUI, plain and quantised: sweeps, bypass and comparisons."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image
from refhost import layout
from refhost.client import Client, PromptFailed

# A Flux of two double and three single blocks whose prompt is SD1's, and a small autoencoder with its 16 channels.
MAKE = """
import sys
from refhost.pack import load_pack, use_comfyui
use_comfyui()
load_pack()
import torch
from blockwork.tests.support import networks, quantised_kit, tiny
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

models = sys.argv[1]
small = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 768, "vec_in_dim": 768, "depth": 2, "depth_single_blocks": 3}
for seed, letter in enumerate("ab", 1):
    network = tiny.fill(networks.build("Flux.1 dev", "cpu", torch.bfloat16, **small), seed)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, f"{models}/diffusion_models/tiny_flux_{letter}.safetensors")
    matrices = [key for key, value in state.items() if "blocks." in key and key.endswith(".weight") and value.ndim == 2]
    state = quantised_kit.quantised(state, "fp8_scaled", matrices)
    save_file(state, f"{models}/diffusion_models/tiny_flux_fp8_{letter}.safetensors")
torch.manual_seed(0)
vae = TAESD(latent_channels=16)
for layer in vae.modules():
    if isinstance(layer, torch.nn.Conv2d):
        torch.nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
        last = layer
with torch.no_grad():  # images of all values
    last.weight /= 4 * vae.taesd_decoder(torch.randn(1, 16, 8, 8)).std()
    last.bias.fill_(0.5)
save_file(vae.state_dict(), f"{models}/vae/tiny_taef1.safetensors")
"""
BLOCKS = ["D00", "D01", "S00", "S01", "S02"]
SWEEP = "7"


@pytest.fixture(scope="module", autouse=True)
def made(server) -> None:
    models = layout.TESTS_BASE / "models"
    for folder in ("diffusion_models", "vae"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    if not (models / "vae" / "tiny_taef1.safetensors").exists():
        subprocess.run(
            [layout.venv_bin("python"), "-c", MAKE, models],
            check=True,
            cwd=layout.ROOT / "tools",
            timeout=300,
        )


def flux(name: str) -> dict:
    return {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": f"tiny_flux_{name}.safetensors", "weight_dtype": "default"},
    }


def text(of: list) -> dict:
    return {"class_type": "PreviewAny", "inputs": {"source": of}}


def sampling(name: str, sampler: str, **inputs) -> dict:
    """A prompt with a model, SD1's prompts, a latent, and a sampler node with the id SWEEP."""
    return {
        "1": flux(name),
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15_a.safetensors"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": "a red house"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ""}},
        "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "VAELoader", "inputs": {"vae_name": "tiny_taef1.safetensors"}},
        SWEEP: {
            "class_type": sampler,
            "inputs": {
                "model": ["1", 0],
                "positive": ["3", 0],
                "negative": ["4", 0],
                "latent_image": ["5", 0],
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                **inputs,
            },
        },
    }


def sweep(client: Client, name: str, **inputs) -> tuple[dict[str, np.ndarray], list[str]]:
    """The image of each cell by its label, and the lines of the table."""
    inputs = {"vae": ["6", 0], "seeds": "1", "cell_size": 64, "key_map": "mbw"} | inputs
    prompt = sampling(name, "BlockworkBlockSweep", **inputs) | {"8": text([SWEEP, 2])}
    if "model_b" in inputs:
        prompt["9"] = flux(name.replace("_a", "_b"))
    entry = client.run(prompt)
    [shown] = entry["outputs"][SWEEP]["blockwork_sweep"]
    images = {cell["label"]: picture(client, cell["file"]) for cell in shown["cells"]}
    return images, client.texts(entry)["8"][0].splitlines()[2:]


def picture(client: Client, file: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get_bytes("/view", **file))).convert("RGB"))


@pytest.mark.parametrize("name", ["a", "fp8_a"])
def test_a_sweep_scales_and_bypasses_each_block_of_a_transformer(client, name):
    """Each block changes the image; a bypassed block gives the image of Scale Blocks with the word off."""
    images, lines = sweep(client, name, ratios="0.5, off", blocks="ALL")
    assert len(images) == 1 + 2 * len(BLOCKS)
    assert sorted({line.split()[0] for line in lines}) == BLOCKS
    assert all(float(line.split()[-1]) > 0 for line in lines), lines
    scaled = sampling(name, "KSampler", seed=1) | {
        "10": {"class_type": "BlockworkScaleBlocks", "inputs": {"model": ["1", 0], "weights": "S01=off"}},
        "11": text(["10", 1]),
        "12": {"class_type": "VAEDecode", "inputs": {"samples": [SWEEP, 0], "vae": ["6", 0]}},
        "13": {"class_type": "PreviewImage", "inputs": {"images": ["12", 0]}},
    }
    scaled[SWEEP]["inputs"]["model"] = ["10", 0]
    entry = client.run(scaled)
    assert "S01 is bypassed" in client.texts(entry)["11"][0]
    alone = picture(client, entry["outputs"]["13"]["images"][0])
    far = {label: np.abs(alone.astype(int) - image).mean() for label, image in images.items()}
    assert min(far, key=lambda label: far[label]) == "S01 = off", far  # not equal: cells are JPEG


def test_a_sweep_takes_blocks_of_a_quantised_transformer_from_another(client):
    images, lines = sweep(client, "fp8_a", ratios="1", blocks="D01, S02", model_b=["9", 0])
    assert len(images) == 3 and {"D01 = 1", "S02 = 1"} <= images.keys()
    assert len(lines) == 2 and all(float(line.split()[-1]) > 0 for line in lines), lines


def test_loaded_transformers_are_compared_by_block(client):
    """Plain and quantised: rounding to float8 is a small distance in every block, the other model a large one."""
    for other, low, high in (("fp8_a", 0.001, 0.1), ("b", 0.5, 3.0)):
        prompt = {
            "1": flux("a"),
            "2": flux(other),
            "3": {
                "class_type": "BlockworkCompareModels",
                "inputs": {"model_a": ["1", 0], "model_b": ["2", 0], "measure": "distance", "key_map": "mbw"},
            },
            "4": text(["3", 1]),
        }
        check_distances(client.texts(client.run(prompt))["4"][0], low, high)


def test_files_of_transformers_are_compared_by_block(client):
    for other, low, high in (("fp8_a", 0.001, 0.1), ("b", 0.5, 3.0)):
        inputs = {"model_a": "tiny_flux_a.safetensors", "model_b": f"tiny_flux_{other}.safetensors"}
        prompt = {
            "1": {
                "class_type": "BlockworkCompareFiles",
                "inputs": inputs | {"measure": "distance", "key_map": "mbw"},
            },
            "2": text(["1", 1]),
        }
        check_distances(client.texts(client.run(prompt))["2"][0], low, high)


def check_distances(table: str, low: float, high: float) -> None:
    """The third number of each row, for every block of the model."""
    rows = {row.split()[0]: row.split() for row in table.splitlines()}
    assert rows.keys() >= {*BLOCKS, "IN", "TXT", "OUT"}
    for block in BLOCKS:
        assert low < float(rows[block][3]) < high, table


def test_a_block_that_a_transformer_lacks_is_an_error_that_lists_its_blocks(client):
    prompt = {
        "1": flux("fp8_a"),
        "2": {"class_type": "BlockworkScaleBlocks", "inputs": {"model": ["1", 0], "weights": "D02=off"}},
        "3": text(["2", 1]),
    }
    with pytest.raises(PromptFailed, match=r"Unknown block 'D02'.*D00-D01, S00-S02"):
        client.run(prompt)
