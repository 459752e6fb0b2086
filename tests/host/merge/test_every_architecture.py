"""Every diffusion model class of core merged live and as a file: each tensor by the number of the block its key says."""

from collections.abc import Sequence

import pytest
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import BlockError, layout_of
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files
from blockwork.merge.live import host
from blockwork.nodes.merge import MergeCLIP
from blockwork.tests.support import networks, tiny
from blockwork.tests.support.named_stacks import STACKS, by_name, stacks_of
from safetensors.torch import load_file, save_file

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MODEL = "diffusion_model."


def loaded(model) -> dict[str, torch.Tensor]:
    """The weights ComfyUI would load, by key."""
    cpu = torch.device("cpu")
    return {
        key: model.patch_weight_to_device(key, device_to=cpu, return_weight=True)
        for key in model.model_state_dict()
    }


def loaded_module(model) -> dict[str, torch.Tensor]:
    """What the module holds after ComfyUI has loaded the model, buffers and all."""
    cpu = torch.device("cpu")
    model.patch_model(device_to=cpu, force_patch_weights=True)
    state = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    model.unpatch_model(cpu)
    return state


def as_file(model, path) -> dict[str, torch.Tensor]:
    """Save a MODEL's own weights under a checkpoint's keys."""
    state = {f"model.{key}": tensor.clone() for key, tensor in model.model_state_dict().items()}
    save_file(state, path)
    return state


def both(name: str, dtypes: Sequence[torch.dtype], text: str, tmp_path):
    """A, B, and what a merge of them holds live and in a file."""
    a, b = (networks.shrunk(name, seed, *dtypes, layers=2) for seed in (1, 2))
    as_file(a, tmp_path / "a.safetensors")
    as_file(b, tmp_path / "b.safetensors")
    live, plan = host.merge_models(a, b, text)
    merge_files(
        f"out = a + b, m_b=[{text}], method=each", tmp_path / "out", folders=[tmp_path], overwrite=True
    )
    written = {
        key.removeprefix("model."): tensor for key, tensor in load_file(tmp_path / "out.safetensors").items()
    }
    return a.model_state_dict(), b.model_state_dict(), loaded_module(live), written, plan


SLOW = ("SDXL", "SDXL refiner")  # the class of SD1, with many more tensors


@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name not in SLOW])
def test_each_tensor_is_merged_by_the_number_of_its_block(name, tmp_path):
    """The tensors of each model are float32, float16 and bfloat16 in turn."""
    layout = layout_of(networks.shrunk(name, 1, layers=2).model_state_dict())
    weights = {block: (place * 7 % 61 + 1) / 64 for place, block in enumerate(layout.blocks)}
    weights |= (
        {"IN": 0.625, "TXT": 0.375, "OUT": 0.125, "BASE": 0.875} if not layout.is_unet else {"BASE": 0.875}
    )
    if not layout.is_unet:
        weights = {
            name_: share for name_, share in weights.items() if name_ in (*layout.blocks, *layout.apart)
        }
    text = ", ".join(f"{block}={share}" for block, share in weights.items())
    a, b, live, written, plan = both(name, DTYPES, text, tmp_path)
    assert {tensor.dtype for tensor in a.values()} >= {*DTYPES}
    assert live.keys() == written.keys() == a.keys()
    stacks = stacks_of(STACKS.get(name, ""))
    for key, tensor in a.items():
        assert live[key].dtype == written[key].dtype and torch.equal(live[key], written[key]), key
        if not tensor.is_floating_point():
            assert torch.equal(live[key], tensor)
            continue
        block = by_name(key, stacks) or block_of(key, layout)
        share = weights.get(str(block), weights["BASE"])
        exact = (1 - share) * tensor.double() + share * b[key].double()
        step = 2 * torch.finfo(tensor.dtype).eps * (tensor.double().abs() + b[key].double().abs())
        assert ((live[key].double() - exact).abs() <= step).all(), key
    assert set(plan.merged) == {key for key, tensor in a.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Flux.1 dev", "Qwen-Image", "SD3.5 Medium"])
def test_what_the_text_does_not_name_stays_as_it_is(name, dtype, tmp_path):
    block = {"Flux.1 dev": "S01", "Qwen-Image": "B01", "SD3.5 Medium": "J01"}[name]
    a, _, live, written, _ = both(name, [dtype], f"{block}=0.5", tmp_path)
    changed = {key for key in a if not torch.equal(a[key], live[key])}
    assert changed == {key for key in a if by_name(key, stacks_of(STACKS[name])) == block}
    assert all(torch.equal(live[key], written[key]) for key in a)


class Quux(torch.nn.Module):
    """A model that nobody has seen yet."""

    def __init__(self, count: int):
        super().__init__()
        block = torch.nn.ModuleDict({"mixer": torch.nn.Linear(3, 3), "ffwd": torch.nn.Linear(3, 3)})
        self.quux_blocks = torch.nn.ModuleList([torch.nn.ModuleDict(block) for _ in range(count)])
        self.pix_in = torch.nn.Linear(3, 3)
        self.quux_head = torch.nn.Linear(3, 3)


def quux(count: int, seed: int):
    torch.manual_seed(seed)
    network = networks.Holder(Quux(count)).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter))
    cpu = torch.device("cpu")
    return networks.comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def test_an_unknown_model_merges_by_block():
    a, b = quux(7, 1), quux(7, 2)
    merged, plan = host.merge_models(a, b, "QUUX03-QUUX04=1, quux_blocks.6=1, OUT=1")
    weights, of_a, of_b = loaded(merged), a.model_state_dict(), b.model_state_dict()
    for key in of_a:
        taken = any(f"quux_blocks.{i}." in key for i in (3, 4, 6)) or "quux_head" in key
        assert torch.equal(weights[key], (of_b if taken else of_a)[key]), key
    assert "QUUX03" in plan.report()


def test_models_with_different_counts_of_blocks_are_refused():
    with pytest.raises(MergeError, match=r"A is QUUX7 \(QUUX00-QUUX06\).*B is QUUX8 \(QUUX00-QUUX07\)"):
        host.merge_models(quux(7, 1), quux(8, 2), "0.5")


def test_bookkeeping_of_qwen_image_is_fast():
    import time

    a, b = networks.shrunk("Qwen-Image", 1, layers=0), networks.shrunk("Qwen-Image", 2, layers=0)
    started = time.process_time()
    host.merge_models(a, b, "GRAD_V")
    assert time.process_time() - started < 5  # 0.3 s on an idle core; core's own node: minutes for 1933 keys


@pytest.mark.parametrize("name", ["Flux.1 dev", "Z-Image", "Qwen-Image", "Wan 2.1", "SD3", "Krea 2"])
def test_a_bypassed_block_does_nothing_in_the_loaded_model(name, tmp_path):
    """Bypassing block 1 live and in a file gives what the model without that block gives."""
    network = tiny.build(name, 1)
    cpu = torch.device("cpu")
    model = networks.comfy.model_patcher.ModelPatcher(
        networks.Holder(network.requires_grad_(False)), cpu, cpu
    )
    stack = layout_of(model.model_state_dict()).stacks[-1]
    block = stack.blocks[1]
    as_file(model, tmp_path / "a.safetensors")
    merge_files(f"out = a, alpha=[{block}=off], method=scale", tmp_path / "out", folders=[tmp_path])
    written = load_file(tmp_path / "out.safetensors")
    scaled, plan = host.scale_blocks(model, f"{block}=off")
    weights = loaded(scaled)
    assert all(torch.equal(weights[key], written[f"model.{key}"]) for key in weights)
    assert f"{block} is bypassed" in plan.report()
    values = tiny.inputs(name)
    before = model.model_state_dict()
    changed = [key for key in weights if not torch.equal(weights[key], before[key])]
    assert changed and all(f"{stack.title}.1." in key for key in changed)
    other = tiny.build(name, 1)
    other.load_state_dict({key.removeprefix(MODEL): tensor for key, tensor in weights.items()})
    bypassed = first(other(**values))
    del other.get_submodule(stack.title)[1]
    assert torch.equal(bypassed, first(other(**values)))


def first(out) -> torch.Tensor:
    return out[0] if isinstance(out, (tuple, list)) else out


def test_bypass_is_refused_by_name_and_in_other_merges():
    a, b = networks.shrunk("SD1", 1), networks.shrunk("SD1", 2)
    with pytest.raises(BlockError, match="IN03 cannot be bypassed"):
        host.scale_blocks(a, "IN03=off")
    with pytest.raises(BlockError, match="Use it in Scale Blocks"):
        host.merge_models(a, b, "IN02=off")
    _, plan = host.scale_blocks(a, "0.5, IN02=off, M00=off")
    assert "M00 is bypassed: 6 tensors" in plan.report()


def test_selectors_work_live_as_in_files(tmp_path):
    a, b = (networks.shrunk("Flux.1 dev", seed, torch.float16, layers=2) for seed in (1, 2))
    as_file(a, tmp_path / "a.safetensors")
    as_file(b, tmp_path / "b.safetensors")
    selectors = "D00-D01:img:0.25, S02:linear2:1, S01:linear2:0.75, S01:no_such:1"
    live, plan = host.merge_models(a, b, "0", elemental=selectors)
    recipe = f"out = a + b, alpha=[0], elemental=[{selectors}]"
    file = merge_files(recipe, tmp_path / "out", folders=[tmp_path])
    assert all(
        "No tensor matches these entries of elemental: 2, 4." in text for text in (plan.report(), file.report)
    )
    written = load_file(tmp_path / "out.safetensors")
    weights, before = loaded(live), a.model_state_dict()
    assert all(torch.equal(weights[key], written[f"model.{key}"]) for key in weights)
    changed = {key for key in weights if not torch.equal(weights[key], before[key])}
    assert changed == {
        key for key in weights if (".img_" in key and "double" in key) or "single_blocks.1.linear2" in key
    }


class Encoders(torch.nn.Module):
    """A CLIP of two text encoders, as far as merging looks."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.clip_l = torch.nn.ModuleDict({"transformer": torch.nn.Linear(3, 3)})
        self.t5xxl = torch.nn.ModuleDict({"transformer": torch.nn.Linear(3, 3)})
        self.requires_grad_(False)


class Clip:
    """What Merge CLIP uses of core's CLIP."""

    def __init__(self, patcher):
        self.patcher = patcher

    def clone(self):
        return Clip(self.patcher)


def test_each_text_encoder_of_a_clip_can_have_its_ratio():
    cpu = torch.device("cpu")
    a, b = (Clip(networks.comfy.model_patcher.ModelPatcher(Encoders(seed), cpu, cpu)) for seed in (1, 2))
    merged, plan = host.merge_clips(a, b, 0.5, encoders="t5xxl=1")
    weights, of_a, of_b = (loaded(clip.patcher) for clip in (merged, a, b))
    for key in of_a:
        share = 1.0 if key.startswith("t5xxl") else 0.5
        assert torch.allclose(weights[key], (1 - share) * of_a[key] + share * of_b[key]), key
    assert "T5XXL" in plan.report() and "CLIP_L" in plan.report()
    with pytest.raises(BlockError, match=r"'clip_g'.*CLIP_L, T5XXL"):
        host.merge_clips(a, b, 0.5, encoders="clip_g=1")
    for text in ("0.3", "0.3, 0.2", "clip_l", "t5xxl: 1", "clip_l=0.1, GRAD_V", ",clip_l=1"):
        with pytest.raises(MergeError, match="in encoders is not a ratio of a text encoder"):
            host.merge_clips(a, b, 0.5, encoders=text)
        assert "not a ratio of a text encoder" in str(MergeCLIP.validate_inputs(encoders=text))
    same_ratio, _ = host.merge_clips(a, b, 0.25)
    assert torch.allclose(
        loaded(same_ratio.patcher)["t5xxl.transformer.bias"],
        0.75 * of_a["t5xxl.transformer.bias"] + 0.25 * of_b["t5xxl.transformer.bias"],
    )
