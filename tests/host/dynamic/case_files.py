"""Checkpoint files under dynamic loading: a live merge saved and loaded again, and recipes run live."""

import comfy.sd
import folder_paths
import kit
import pytest
import safetensors.torch
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.files import host as files
from blockwork.merge.live import host

RECIPE = "out = a + b, method=each, m_b=[GRAD_V, BASE=0.25]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints with a text encoder, and what merging the files gives, where ComfyUI finds them."""
    path = tmp_path_factory.mktemp("checkpoints")
    before = folder_paths.folder_names_and_paths["checkpoints"]
    folder_paths.folder_names_and_paths["checkpoints"] = ([str(path)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    with torch.inference_mode(), kit.plain_loading():
        for number, (name, unet) in enumerate({"a": "base", "b": "ink"}.items()):
            clip = demo.load_clip()
            generator = torch.Generator().manual_seed(number)
            for parameter in clip.cond_stage_model.parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.05
                parameter.data = (parameter.float() + noise).to(parameter.dtype)
            comfy.sd.save_checkpoint(str(path / f"{name}.safetensors"), demo.load_model(unet), clip)
    files.merge_files(RECIPE, path / "merged.safetensors", resolve=lambda name: path / f"{name}.safetensors")
    yield path
    folder_paths.folder_names_and_paths["checkpoints"] = before
    folder_paths.filename_list_cache.clear()


def loaded(path):
    """(MODEL, CLIP) by core's own loader, under dynamic loading."""
    model, clip = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False)[:2]
    assert model.is_dynamic() and clip.patcher.is_dynamic()
    return model, clip


def weights(model, clip):
    """Every tensor that a loaded MODEL and CLIP compute with."""
    return [kit.loaded_weights(kit.load(patcher)) for patcher in (model, clip.patcher)]


def test_a_saved_merge_is_the_file_merge(folder):
    """Loaded, sampled, saved by core's function, loaded by core's loader: every tensor."""
    (model_a, clip_a), (model_b, clip_b) = (loaded(folder / f"{name}.safetensors") for name in "ab")
    model = host.merge_models(model_a, model_b, "GRAD_V, BASE=0.25")[0]
    clip = host.merge_clips(clip_a, clip_b, 0.25)[0]
    kit.sample(model, positive=clip.encode_from_tokens_scheduled(clip.tokenize("a red circle")))
    comfy.sd.save_checkpoint(str(folder / "saved.safetensors"), model, clip)
    saved, merged = (
        safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("saved", "merged")
    )
    assert len(saved) > 700 and kit.unequal(saved, merged) == []
    kit.unload()
    again, expected = (weights(*loaded(folder / f"{name}.safetensors")) for name in ("saved", "merged"))
    assert [kit.unequal(*pair) for pair in zip(again, expected, strict=True)] == [[], []]


def test_a_recipe_run_live_is_the_file_merge(folder):
    model, clip, _, report = files.live(RECIPE)
    assert model.is_dynamic() and clip.patcher.is_dynamic() and report
    have, expected = weights(model, clip), weights(*loaded(folder / "merged.safetensors"))
    assert [kit.unequal(*pair) for pair in zip(have, expected, strict=True)] == [[], []]
    kit.unload()
    plain = model.get_non_dynamic_delegate()  # for hooks and TorchCompileModel
    assert torch.equal(kit.sample(plain), kit.sample(model))
