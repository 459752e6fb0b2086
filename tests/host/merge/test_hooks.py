"""Merges and hooks, by the weights of the loaded module: what the plain path gives, with the hook's LoRA on top of A's."""

import comfy.hooks
import comfy.model_management
import pytest
import torch
from blockwork.merge.live import host
from blockwork.merge.methods import METHODS
from blockwork.tests.support import networks

UNET = "diffusion_model."
KEY = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
OTHER = "diffusion_model.middle_block.0.in_layers.2.weight"
TINY = {
    "channel_mult": (1, 2), "num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 64,
}  # fmt: skip


@pytest.fixture
def pair():
    yield [networks.shrunk("SD1", seed, torch.float32, **TINY) for seed in (1, 2)]
    comfy.model_management.unload_all_models()


def hooked(model, strength: float = 1.0):
    """A clone that applies a LoRA of two tensors as a hook when it is loaded, as a CLIP with hooks does."""
    clone, group, hook = model.clone(), comfy.hooks.HookGroup(), comfy.hooks.WeightHook()
    group.add(hook)
    state = model.model_state_dict()
    clone.add_hook_patches(
        hook, {key: ("diff", (torch.ones_like(state[key]),)) for key in (KEY, OTHER)}, strength
    )
    clone.forced_hooks = group
    return clone


def stored(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.model_state_dict(UNET).items()}


def loaded(model) -> dict[str, torch.Tensor]:
    """The weights that the module holds after ComfyUI has loaded the model."""
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return stored(model)


def baked(weights_a, weights_b, ratio: float = 0.5) -> dict[str, torch.Tensor]:
    """Merged weights as a model without patches would hold them."""
    numbers = {"m_a": 1 - ratio, "m_b": ratio}
    return {key: METHODS["each"].blend([x, weights_b[key]], numbers) for key, x in weights_a.items()}


def plus_hook(weights, strength: float = 1.0) -> dict[str, torch.Tensor]:
    return {key: value + strength if key in (KEY, OTHER) else value for key, value in weights.items()}


def assert_equal(have, want) -> None:
    assert have.keys() == want.keys()
    assert [key for key in want if not torch.equal(have[key], want[key])] == []


@pytest.mark.parametrize("applied", [False, True], ids=["hooks off", "hooks on"])
@pytest.mark.parametrize("carrier", ["A", "B", "both"])
def test_a_merge_of_models_with_hooks(pair, carrier, applied):
    """A's hooks stay hooks of the merge, and B's are no part of B's weights, also while they are applied."""
    a, b = pair
    want = baked(stored(a), stored(b))
    first = hooked(a) if carrier in ("A", "both") else a
    second = hooked(b, 0.25) if carrier in ("B", "both") else b
    if applied:
        for model in {first, second} - {a, b}:
            loaded(model)
    merged = host.merge_models(first, second, "0.5")[0]
    assert_equal(loaded(merged), plus_hook(want) if first is not a else want)
    assert_equal(loaded(host.merge_models(a, b, "0.5")[0]), want)


def test_a_merge_of_a_merge_whose_hook_is_applied(pair):
    """The inner merge is loaded, and a hook changes weights that are patched."""
    a, b = pair
    plain_a, plain_b = stored(a), stored(b)
    inner = hooked(host.merge_models(a, b, "0.5")[0])
    middle = baked(plain_a, plain_b)
    assert_equal(loaded(inner), plus_hook(middle))
    outer = host.merge_models(b, inner, "0.25")[0]
    assert_equal(loaded(outer), baked(plain_b, middle, 0.25))


def test_a_hook_on_a_merge_is_removed_again(pair):
    a, b = pair
    want = baked(stored(a), stored(b))
    merged = host.merge_models(a, b, "0.5")[0]
    clone = hooked(merged, 0.5)
    assert_equal(loaded(clone), plus_hook(want, 0.5))
    assert_equal(loaded(merged), want)
    assert_equal(loaded(clone), plus_hook(want, 0.5))
    moved = host.merge_models(hooked(a), b, "0.25")[0]
    assert_equal(loaded(moved), plus_hook(baked(stored_before(a), stored(b), 0.25)))


def stored_before(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in host.stored_tensors(model, UNET).items()}
