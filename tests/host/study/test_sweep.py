"""Sweeps on models of ComfyUI's own classes: what a cell changes, what 25 of them cost, embeddings, the nodes."""

import gc
import json

import comfy.clip_vision
import folder_paths
import numpy as np
import pytest
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1, SDXL, BlockError
from blockwork.merge.live import host
from blockwork.nodes import sweep as nodes
from blockwork.study import host as host_sweep
from blockwork.study.sweep import parse_sweep
from blockwork.tests.support.loading import loaded_weight
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from PIL import Image

UNET = "diffusion_model."
CPU = torch.device("cpu")
TINY_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3,
    "image_size": 28, "patch_size": 14, "projection_dim": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
}  # fmt: skip


def cell_model(sweep, cell, model, model_b=None):
    """The MODEL of a cell, by the node that its graph names."""
    if model_b is None:
        return host.scale_blocks(model, cell.label)[0]
    return host.merge_models(model, model_b, cell.label)[0]


@pytest.mark.parametrize("family, layout", [("SD15", SD1), ("SDXL", SDXL)])
def test_a_cell_differs_from_the_model_in_its_block_alone(build, family, layout):
    model = build(family, 1, torch.float16)
    stored = model.model_state_dict(UNET)
    sweep = parse_sweep(layout, "ALL", "0.75", "1")
    for cell in sweep.cells[1:]:
        scaled = cell_model(sweep, cell, model)
        own = {key for key in stored if block_of(key, layout) == cell.block}
        assert set(scaled.patches) == own
        for key in own:
            assert torch.equal(loaded_weight(scaled, key), (stored[key].float() * 0.75).half()), key
        for key in stored.keys() - own:
            assert loaded_weight(scaled, key) is not None and key not in scaled.patches


def test_a_cell_of_two_models_takes_its_block_from_b(build):
    a, b = build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)
    sweep = parse_sweep("sd1", "IN04, M00", "1", "1")
    for cell in sweep.cells[1:]:
        swapped = cell_model(sweep, cell, a, b)
        for key, other in b.model_state_dict(UNET).items():
            expected = other if block_of(key, SD1) == cell.block else a.model_state_dict(UNET)[key]
            assert torch.equal(loaded_weight(swapped, key), expected), (cell, key)
    free, _ = host.merge_models(a, b, "IN04 = 0.5", "IN04=0.75")
    for key, x in a.model_state_dict(UNET).items():
        y = b.model_state_dict(UNET)[key]
        expected = (x.float() * 0.75 + y.float() * 0.5).half() if block_of(key, SD1) == "IN04" else x
        assert torch.equal(loaded_weight(free, key), expected), key


def test_25_models_hold_no_tensor_of_their_own(build):
    model = build("SD15", 1)
    model.model_state_dict()
    gc.collect()

    def storages():
        tensors = (o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))
        return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}

    before = storages()
    sweep = parse_sweep("sd1", "ALL", "0.75", "1")
    models = [cell_model(sweep, cell, model) for cell in sweep.cells[1:]]
    gc.collect()
    extra = {pointer: size for pointer, size in storages().items() if pointer not in before}
    assert len(models) == 25 and sum(extra.values()) < 64 * 1024  # nothing like a weight


@pytest.fixture
def clip_vision():
    torch.manual_seed(0)
    vision = comfy.clip_vision.ClipVisionModel(TINY_VISION)
    with torch.no_grad():
        for parameter in vision.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return vision


@pytest.fixture(autouse=True)
def temp_folder(monkeypatch, tmp_path):
    """ComfyUI's folder of temporary files."""
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    return tmp_path


def run_grid(images, **settings):
    inputs = {"layout": ["sd1"], "blocks": ["IN04, M00"], "ratios": ["0.75"], "seeds": ["1, 2"]}
    return nodes.SweepGrid.execute(images=images, **inputs, **settings)


def grid(images, **settings):
    return run_grid(images, **settings).result


def test_the_browser_gets_every_cell_with_its_pictures_place_and_figures(temp_folder):
    levels = [10, 20, 13, 24, 10, 20]  # the unmodified, IN04, M00, two seeds each
    output = run_grid([torch.full((1, 8, 16, 3), level / 255) for level in levels], cell_size=[32])
    shown = json.loads(json.dumps(output.ui))["blockwork_sweep"]
    assert len(shown) == 1 and shown[0]["units"]["rms"].startswith("pixel RMS")
    cells = shown[0]["cells"]
    assert [cell["label"] for cell in cells] == ["unmodified", "IN04 = 0.75", "M00 = 0.75"]
    assert [cell["place"] for cell in cells] == [[1, 0], [0, 1], [1, 2]]
    assert [cell["rms"] for cell in cells] == [[], pytest.approx([3, 4]), pytest.approx([0, 0])]
    for cell, shades in zip(cells, ((10, 20), (13, 24), (10, 20)), strict=True):
        assert cell["file"]["type"] == "temp"
        sheet = np.asarray(Image.open(temp_folder / cell["file"]["subfolder"] / cell["file"]["filename"]))
        assert sheet.shape == (8, 32, 3)
        assert abs(sheet[:, 2:14].mean() - shades[0]) < 1.5 and abs(sheet[:, 18:30].mean() - shades[1]) < 1.5
    assert cells[0]["file"] == cells[2]["file"], "the same pictures are one file"
    assert not list(temp_folder.rglob("*.jpg.*")) and len(list(temp_folder.rglob("*.*"))) == 2


def test_the_grid_measures_content_with_a_clip_vision_model(clip_vision):
    generator = torch.Generator().manual_seed(3)
    base, other = torch.rand(2, 32, 32, 3, generator=generator), torch.rand(2, 32, 32, 3, generator=generator)
    images = [*base.split(1), *base.split(1), *other.split(1)]  # IN04 moves nothing, M00 everything
    picture, plot, report = grid(images, clip_vision=[clip_vision], cell_size=[32], title=["a title"])
    rows = {line.split()[0]: line.split()[3:] for line in report.splitlines()[2:]}
    assert [abs(float(value)) for value in rows["IN04"]] == [0, 0]
    assert float(rows["M00"][0]) > 50 and float(rows["M00"][1]) > 0
    stored = (other.clamp(0, 1) * 255).to(torch.uint8).float() / 255
    kept = (base.clamp(0, 1) * 255).to(torch.uint8).float() / 255
    vectors = [clip_vision.encode_image(image)["image_embeds"] for image in (stored, kept)]
    expected = (1 - torch.nn.functional.cosine_similarity(*vectors)).mean().item()
    assert abs(float(rows["M00"][1]) - expected) < 1e-4
    assert picture.shape[0] == plot.shape[0] == 1 and plot.shape[2] == 140 + 2 * 480
    without = grid(images, cell_size=[32])
    assert without[1].shape[2] == 140 + 480 and "cosine" not in without[2]


def test_embedding_can_be_interrupted(clip_vision):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        host_sweep.embed(clip_vision, [np.zeros((1, 32, 32, 3), np.uint8)])


def test_the_sweep_links_to_what_it_is_linked_to():
    """Objects in the expanded graph would be new cache keys each time; the node's id must not be in the key either."""
    links = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
        "vae": ["1", 2],
    }
    prompt = DynamicPrompt(
        {"5": {"class_type": "BlockworkBlockSweep", "inputs": {**links, "steps": ["7", 0]}}}
    )
    with CurrentNodeContext("a prompt", "5"):
        found = host_sweep.own_links(prompt)
    assert found == {**links, "steps": ["7", 0]}
    with pytest.raises(RuntimeError, match="only runs as a node of a ComfyUI prompt"):
        host_sweep.own_links(prompt)
    hidden = nodes.BlockSweep.INPUT_TYPES()["hidden"]
    assert [value[0] for value in hidden.values()] == ["DYNPROMPT"]


def test_models_without_blocks_are_refused(build):
    class Transformer:
        def model_state_dict(self, prefix):
            return {"diffusion_model.img_in.weight": torch.zeros(1)}

    with pytest.raises(BlockError, match="no numbered blocks"):
        host_sweep.layout_of_model(Transformer())
    assert host_sweep.layout_of_model(build("SDXL", 1)) == SDXL


def test_blocks_that_cannot_be_bypassed_are_named_before_sampling(build):
    from blockwork.study.sweep import parse_sweep

    model = build("SD15", 1)
    host_sweep.check_bypass(model, parse_sweep("sd1", "ALL", "0.5", "1"))
    host_sweep.check_bypass(model, parse_sweep("sd1", "IN01, M00, OUT00-OUT11", "off", "1"))
    with pytest.raises(BlockError, match=r"^IN00, IN03 cannot be bypassed: .* Use IN01, IN02\.$"):
        host_sweep.check_bypass(model, parse_sweep("sd1", "IN00-IN03", "off, 0.5", "1"))
