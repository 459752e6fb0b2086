"""The example workflows through the queue of a real ComfyUI, on a checkpoint without text_projection."""

import io
import shutil

import numpy as np
import pytest
import torch
from blockwork.deprojector import files
from blockwork.deprojector.families import LstmConfig
from PIL import Image
from refhost import layout
from refhost.client import PromptFailed, executed_nodes

MODELS = layout.TESTS_BASE / "models"
BEINGS = ("cat", "dog", "maid", "robot", "fox", "hat", "owl", "knight", "tree", "boat", "witch")


def _deprojector(name, layers, seed):
    path = MODELS / "deprojector" / f"{name}.safetensors"
    if not path.is_file():
        torch.manual_seed(seed)
        module = files.build(LstmConfig(use_model3=True, num_layers=layers), "cpu").eval()
        for key, buffer in module.named_buffers():
            buffer.copy_(-torch.eye(768) if key == "deprojection" else torch.randn(768))
        files.save(module, path)


@pytest.fixture(scope="module", autouse=True)
def models(server):
    """Random deprojectors under the names that the examples use, and a picture."""
    for layers, name in enumerate(("lstm3_1_layer", "lstm3_2_layers", "lstm3_3_layers"), start=1):
        _deprojector(name, layers, layers)
    _deprojector("lstm3_1_layer_b", 1, 9)
    Image.new("RGB", (64, 64), (200, 80, 40)).save(layout.TESTS_BASE / "input" / "example.png")


def pictures(client, entry):
    return [np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) for data in client.images(entry)]


def test_deprojected_conditioning_samples_and_is_cached(client, example):
    prompt = example("deprojector_conditioning")
    first = client.run(prompt)
    (picture,) = pictures(client, first)
    assert picture.shape == (64, 64, 3) and picture.std() > 1
    assert executed_nodes(client.run(prompt)) == set()


def test_deterministic_and_clip_skip_changes_nothing(client, example):
    prompt = example("deprojector_conditioning")
    (expected,) = pictures(client, client.run(prompt))
    prompt["6"]["inputs"]["rows"] = 76
    (shorter,) = pictures(client, client.run(prompt))
    assert not np.array_equal(shorter, expected)
    skipped = example("deprojector_conditioning")
    skipped["50"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["1", 1], "stop_at_clip_layer": -2}}
    skipped["3"]["inputs"]["clip"] = ["50", 0]
    (again,) = pictures(client, client.run(skipped))
    assert np.array_equal(again, expected), "clip skip or the order of runs changed the result"
    skipped["6"]["inputs"]["deproject_positive"] = False
    (plain,) = pictures(client, client.run(skipped))
    assert not np.array_equal(plain, expected)


def test_side_by_side(client, example):
    entry = client.run(example("deprojector_layers_side_by_side"))
    results = pictures(client, entry)
    assert len(results) == 7
    for number, picture in enumerate(results):
        assert picture.std() > 1
        assert not any(np.array_equal(picture, other) for other in results[:number])


def test_arithmetic(client, example):
    results = pictures(client, client.run(example("deprojector_arithmetic")))
    assert len(results) == 2 and not np.array_equal(*results)


def test_ensemble_report_and_file(client, example):
    saved = MODELS / "deprojector"
    before = set(saved.glob("ensemble_*.safetensors"))
    try:
        entry = client.run(example("deprojector_ensemble"))
        assert "free-running: words and end (rows 1-7)" in client.texts(entry)["6"][0]
        (written,) = set(saved.glob("ensemble_*.safetensors")) - before
        assert files.load(written).config.ensemble_size == 2
    finally:
        for path in set(saved.glob("ensemble_*.safetensors")) - before:
            path.unlink()


def _vision(name, width, layers=1):
    """A small CLIP vision model in the published layout; ``width`` numbers per image."""
    from safetensors.torch import save_file

    path = MODELS / "clip_vision" / name
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(width)
    hidden, inner, patches = 1024, 4096, 257
    vision = "vision_model"
    shapes = {
        f"{vision}.embeddings.class_embedding": (hidden,),
        f"{vision}.embeddings.patch_embedding.weight": (hidden, 3, 14, 14),
        f"{vision}.embeddings.position_embedding.weight": (patches, hidden),
        "visual_projection.weight": (width, hidden),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{vision}.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
    for layer in range(layers):
        prefix = f"{vision}.encoder.layers.{layer}"
        linears = {f"self_attn.{which}_proj": (hidden, hidden) for which in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
        for linear, shape in linears.items():
            shapes |= {f"{prefix}.{linear}.weight": shape, f"{prefix}.{linear}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{prefix}.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
    tensors = {
        key: torch.ones(shape) if "norm" in key and key.endswith("weight") else torch.randn(shape) * 0.02
        for key, shape in shapes.items()
    }
    save_file({key: tensor.half() for key, tensor in tensors.items()}, path)


def test_image(client, example):
    _vision("clip_vit_l14.safetensors", 768, layers=24)
    (picture,) = pictures(client, client.run(example("deprojector_image")))
    assert picture.std() > 1


def test_training(client, example):
    """Two steps on a handful of captions; the second run finds the hidden states and the checkpoint."""
    captions = [f"a {colour} {being}" for colour in ("red", "old") for being in BEINGS]
    (layout.TESTS_BASE / "input" / "captions.txt").write_text("\n".join(captions))
    run = layout.TESTS_BASE / "output" / "deprojector_training" / "server-test"
    saved = MODELS / "deprojector" / "trained"
    shutil.rmtree(run, ignore_errors=True)
    prompt = example("deprojector_training")
    small = {"run": "server-test", "family": "transformer", "steps": 2, "batch": 4}
    prompt["2"]["inputs"] |= {**small, "test_captions": 2, "evaluate_every": 1}
    try:
        entry = client.run(prompt)
        assert "2 steps" in client.texts(entry)["4"][0]
        assert {picture.shape[2] for picture in pictures(client, entry)} == {3}
        (written,) = saved.glob("first_*.safetensors")
        assert files.load(written).config.relative_to_null
        assert (run / "checkpoint.safetensors").is_file()
    finally:
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(saved, ignore_errors=True)


def test_sdxl_is_refused_by_name(client, example, sdxl_checkpoints):
    prompt = example("deprojector_conditioning")
    prompt["1"]["inputs"]["ckpt_name"] = "sdxl_a.safetensors"
    with pytest.raises(
        PromptFailed, match=r"conditioning is of SDXL \(width 2048, pooled 1280\).*SD1 checkpoint"
    ):
        client.run(prompt)
    prompt["3"] = {
        "class_type": "BlockworkEncodeAndMerge",
        "inputs": {"clip": ["1", 1], "deprojector": ["5", 0], "text": "cat"},
    }
    with pytest.raises(PromptFailed, match="This is an SDXL CLIP"):
        client.run(prompt)


def _recognised(name, layers, width):
    """A text encoder file with the tensors that core knows the family by; all other weights stay as they are."""
    from safetensors.torch import save_file

    path = MODELS / "text_encoders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4 * width, width)
    keys = [f"text_model.encoder.layers.{layer}.mlp.fc1.weight" for layer in layers]
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key in keys}, path)


@pytest.mark.parametrize(
    ("layers", "width", "kind", "name", "sizes"),
    [
        ((22,), 1024, "stable_diffusion", "Stable Diffusion 2", "width 1024, pooled 1024"),
        ((0, 1), 768, "sd3", "Stable Diffusion 3", "width 4096, pooled 2048"),
    ],
)
def test_other_text_encoders_are_refused_by_name(client, example, layers, width, kind, name, sizes):
    """Widths count, not numbers. (Flux would need its text encoder of ten gigabytes; the host tier refuses it.)"""
    _recognised(f"{kind}.safetensors", layers, width)
    prompt = example("deprojector_conditioning")
    prompt["50"] = {
        "class_type": "CLIPLoader",
        "inputs": {"clip_name": f"{kind}.safetensors", "type": kind},
    }
    prompt["3"]["inputs"]["clip"] = ["50", 0]
    with pytest.raises(PromptFailed, match=rf"conditioning is of {name} \({sizes}\).*SD1 checkpoint"):
        client.run(prompt)
    prompt["3"] = {
        "class_type": "BlockworkEncodeAndMerge",
        "inputs": {"clip": ["50", 0], "deprojector": ["5", 0], "text": "cat"},
    }
    with pytest.raises(PromptFailed, match=f"This is a {name} CLIP"):
        client.run(prompt)
