"""The merge templates of the model families, queued up to the merge, with small models of the same or a like kind."""

import subprocess

import pytest
import torch
from refhost import layout
from safetensors.torch import save_file

MAKE = """
import sys
from refhost.pack import load_pack, use_comfyui
use_comfyui()
load_pack()
import torch
from blockwork.tests.support import networks, quantised_kit
from safetensors.torch import save_file

KINDS = {
    "klein": ("Flux.2 klein 4B", {"hidden_size": 128, "num_heads": 1, "context_in_dim": 64}),
    "wan": ("Wan 2.1", {"dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 40, "text_dim": 4096}),
}
torch.manual_seed(0)
for kind, (name, changes) in KINDS.items():
    for letter in "ab":
        network = networks.build(name, "cpu", torch.bfloat16, **changes)
        state = {key: torch.randn_like(value) / 16 for key, value in network.state_dict().items()}
        save_file(state, f"{sys.argv[1]}/tiny_{kind}_{letter}.safetensors")
        matrices = [key for key, value in state.items() if "blocks." in key and key.endswith(".weight") and value.ndim == 2]
        state = quantised_kit.quantised(state, "fp8_scaled", matrices)
        save_file(state, f"{sys.argv[1]}/tiny_{kind}_fp8_{letter}.safetensors")
"""

# Template -> kind of the small models, and the weights they need where they are of another kind than the template's.
FAMILIES = {
    "merge_flux2_klein": ("klein", None),
    "merge_wan22": ("wan", None),
    "merge_z_image": ("wan", "B00-B09=0.25, B10-B19=0.5"),
    "merge_qwen_image": ("wan", "GRAD_V"),
    "merge_anima": ("wan", "LAST_THIRD"),
    "merge_sd35": ("wan", "B00-B07=0.25"),
    "merge_fp8_scaled": ("klein_fp8", "D=0.25, S00-S09=0.5"),
}


@pytest.fixture(scope="module")
def small(server) -> None:
    folder = layout.TESTS_BASE / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tiny_wan_fp8_b.safetensors").exists():
        subprocess.run(
            [layout.venv_bin("python"), "-c", MAKE, folder],
            check=True,
            cwd=layout.ROOT / "tools",
            timeout=300,
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_template_of_a_family_merges(client, example, small, name):
    kind, weights = FAMILIES[name]
    prompt = example(name)
    reports = [key for key, node in prompt.items() if node["class_type"] == "PreviewAny"]
    kept = {
        key: node
        for key, node in prompt.items()
        if node["class_type"] in ("PreviewAny", "BlockworkMergeModels", "BlockworkBlockWeights")
    }
    for node in list(kept.values()):
        if node["class_type"] == "BlockworkMergeModels":
            for letter in "ab":
                loader = node["inputs"][f"model_{letter}"][0]
                kept[loader] = {
                    "class_type": "UNETLoader",
                    "inputs": {"unet_name": f"tiny_{kind}_{letter}.safetensors", "weight_dtype": "default"},
                }
                node["inputs"][f"model_{letter}"] = [loader, 0]
            if weights:
                node["inputs"]["weights"] = weights
    texts = client.texts(client.run(kept))
    assert len(reports) == (2 if name == "merge_wan22" else 1)
    for report in reports:
        assert "tensors merged" in texts[report][0] and " B" in texts[report][0]
        if kind.endswith("_fp8"):
            for letter in "AB":
                assert f"{letter} is quantised (" in texts[report][0]


def test_template_of_a_merge_to_an_fp8_scaled_file(client, example, small):
    """A plain and a quantised file; a loader of ComfyUI reads the result, and it merges on."""
    prompt = example("merge_file_fp8_scaled")
    inputs = prompt["1"]["inputs"]
    inputs |= {
        "model_a": "tiny_wan_a.safetensors",
        "model_b": "tiny_wan_fp8_b.safetensors",
        "overwrite": True,
    }
    texts = client.texts(client.run(prompt))
    assert "Quantised with new scales: " in texts["2"][0] and "B is quantised (" in texts["2"][0]
    assert "dtype=fp8_scaled" in texts["3"][0]
    again = {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": f"{inputs['name']}.safetensors", "weight_dtype": "default"},
        },
        "2": {"class_type": "BlockworkScaleBlocks", "inputs": {"model": ["1", 0], "weights": "B03=0.5"}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}},
    }
    assert "A is quantised (" in client.texts(client.run(again))["3"][0]


def test_template_of_a_lora_on_a_transformer(client, example, small):
    tensors = {}
    for block in (3, 25):
        name = f"diffusion_model.blocks.{block}.self_attn.q"
        tensors |= {f"{name}.lora_A.weight": torch.ones(1, 128), f"{name}.lora_B.weight": torch.ones(128, 1)}
    path = layout.TESTS_BASE / "models" / "loras" / "tiny_wan_lora.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    prompt = {key: node for key, node in example("lora_z_image").items() if key in "1234"}
    prompt["1"]["inputs"]["unet_name"] = "tiny_wan_a.safetensors"
    prompt["2"]["inputs"]["lora_name"] = prompt["4"]["inputs"]["lora_name"] = path.name
    entry = client.run(prompt)
    report = client.texts(entry)["3"][0]
    assert "B03          x 0.3  (1 patches)" in report and "B25          x 0.8  (1 patches)" in report
    assert "does not change 38 blocks: B00" in report
    assert entry["outputs"]["2"]["blockwork_untouched"][0] == [
        f"B{i:02}" for i in range(40) if i not in (3, 25)
    ]
    change = entry["outputs"]["4"]["blockwork_change"][0]
    assert {block for block, share in change.items() if share} == {"B03", "B25"}
