"""The merge templates of the model families, queued up to the merge, with small models of the same or a like kind."""

import subprocess

import pytest
from refhost import layout

MAKE = """
import sys
from refhost.pack import load_pack, use_comfyui
use_comfyui()
load_pack()
import torch
from blockwork.tests.support import networks
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
"""

# Template -> kind of the small models, and the weights they need where they are of another kind than the template's.
FAMILIES = {
    "merge_flux2_klein": ("klein", None),
    "merge_wan22": ("wan", None),
    "merge_z_image": ("wan", "B00-B09=0.25, B10-B19=0.5"),
    "merge_qwen_image": ("wan", "GRAD_V"),
    "merge_anima": ("wan", "LAST_THIRD"),
    "merge_sd35": ("wan", "B00-B07=0.25"),
}


@pytest.fixture(scope="module")
def small(server) -> None:
    folder = layout.TESTS_BASE / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tiny_wan_b.safetensors").exists():
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
