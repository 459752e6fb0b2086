"""Re-merging by difference under dynamic loading: what is merged again, what is moved, and that no weight is stale."""

import random

import comfy.model_management as management
import device
import kit
import pages
import pytest
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1
from blockwork.merge.live import host
from blockwork.merge.live.host_patch import MergePatch
from blockwork.merge.live.host_trace import Switch

UNET = "diffusion_model."
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SOME = "IN01=0.2, IN04=0.3, M00=0.5, OUT05=0.7, OUT11=0.9"
BIG = "diffusion_model.middle_block.0.in_layers.2.weight"
SMALL = "diffusion_model.middle_block.0.in_layers.2.bias"


def pair_of(**kinds):
    return [kit.unet(name, **kinds) for name in ("base", "ink")]


@pytest.fixture(scope="module")
def pair():
    return pair_of()


@pytest.fixture(scope="module")
def twins():
    """The same two models on core's plain path, never loaded."""
    return pair_of(dynamic=False)


@pytest.fixture
def merged_keys(monkeypatch):
    keys = []
    calculate = MergePatch.calculate_weight

    def counting(self, weight, key, *arguments, **keywords):
        keys.append(key)
        return calculate(self, weight, key, *arguments, **keywords)

    monkeypatch.setattr(MergePatch, "calculate_weight", counting)
    return keys


def merge(models, weights):
    return host.merge_models(*models, weights)[0]


def with_lora(model, seed, strength=0.5):
    model = model.clone()
    shapes = {key: model.model_state_dict()[key].shape for key in (BIG, SMALL)}
    generator = torch.Generator().manual_seed(seed)
    patches = {
        key: ("diff", (torch.randn(shape, generator=generator) * 0.1,)) for key, shape in shapes.items()
    }
    model.add_patches(patches, strength)
    return model


def keys_of(model, *blocks):
    return {key for key in model.model_state_dict(UNET) if block_of(key, SD1) in blocks}


def paged(model, keys):
    return {key for key in keys if hasattr(model.model.get_submodule(key.rpartition(".")[0]), "_v")}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_slider_recomputes_its_block_alone_without_dynamic_loading_too(dtype):
    pair, text = pair_of(stored=dtype, dtype=dtype, dynamic=False), "GRAD_V"
    loaded = [kit.load(merge(pair, text))]  # kept: core unloads a model that nothing holds
    for block in ("IN04", "M00", "OUT05"):
        text += f", {block}=0.3"
        loaded.append(kit.load(merge(pair, text)))
        own, model = keys_of(pair[0], block), loaded[-1]
        assert model.last_switch == Switch(len(own), 0, len(model.patches) - len(own))


@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_a_slider_merges_and_transfers_its_block_and_nothing_else(stored, merged_keys):
    """Also where the file is not in float16, in which it is computed."""
    pair = pair_of(stored=stored)

    def weights(model):
        merged_keys.clear()
        device.MOVED.clear()
        found = kit.loaded_weights(kit.load(model))
        return found, device.MOVED["to device"]

    first = merge(pair, "GRAD_V")
    _, everything = weights(first)
    _, fixed = weights(first)  # core's own small modules, at every loading
    assert everything > 2 * fixed
    state, text = first.model_state_dict(UNET), "GRAD_V"
    for block in ("IN04", "M00", "OUT05"):  # in turn
        text += f", {block}=0.3"
        model, own = merge(pair, text), keys_of(first, block)
        small = set(model.patches) - paged(model, model.patches)
        have, moved = weights(model)
        assert set(merged_keys) == small | own
        assert len(merged_keys) == len(set(merged_keys))
        assert model.last_switch == Switch(len(own), 0, len(model.patches) - len(own))
        share = sum(state[key].nbytes for key in own) / sum(value.nbytes for value in state.values())
        assert moved <= 1.5 * share * (everything - fixed) + fixed, block
    assert not kit.unequal(have, kit.loaded_weights(kit.load(merge(pair_of(stored=stored), text))))


def test_no_weight_is_stale_after_random_changes(pair, twins, monkeypatch):
    """Sliders, LoRAs on top and below, core's clones and A itself in any order; some are interrupted."""
    choose = random.Random(0)
    calculate = MergePatch.calculate_weight
    left = [None]

    def interrupted(self, *arguments, **keywords):
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise management.InterruptProcessingException
        return calculate(self, *arguments, **keywords)

    monkeypatch.setattr(MergePatch, "calculate_weight", interrupted)
    interrupts, kinds = 0, set()
    for turn in range(20):
        weights = f"{SOME}, {choose.choice(SD1.blocks)}={choose.choice((0.1, 0.4, 1.5))}"
        kind = choose.choice(("slider", "slider", "lora on top", "lora below", "core's clone", "A"))
        kinds.add(kind)
        seed = choose.randrange(3)

        def make(models, kind=kind, weights=weights, seed=seed):
            if kind == "A":
                return models[0]
            if kind == "core's clone":
                return with_lora(models[0], seed)
            if kind == "lora below":
                return merge((with_lora(models[0], seed), models[1]), weights)
            model = merge(models, weights)
            return with_lora(model, seed) if kind == "lora on top" else model

        model = make(pair)
        if turn % 4 == 3:
            left[0] = choose.choice((0, 3, 20, 60, 90))
            try:
                kit.use_all_weights(kit.load(model))
            except management.InterruptProcessingException:
                interrupts += 1
                kit.end_of_node()
            left[0] = None
            if turn % 8 == 7:
                model = make(pair)  # another patch identifier
        have = kit.loaded_weights(kit.load(model))
        assert not kit.unequal(have, kit.fresh(make(twins))), (turn, kind, weights)
        if turn == 10:
            model.partially_unload(None, 1 << 20)
    assert interrupts >= 2 and len(kinds) == 5


def test_with_too_little_memory_every_pass_merges_again(pair, twins, monkeypatch):
    want = kit.sample(merge(twins, "GRAD_V, IN04=0.3"))
    kit.unload()
    for limit in (4 << 20, 0):
        monkeypatch.setattr(pages, "LIMIT", [limit])
        kit.sample(merge(pair, "GRAD_V"))
        assert torch.equal(kit.sample(merge(pair, "GRAD_V, IN04=0.3")), want)
        kit.unload()


def test_unusual_states_are_left_to_core(pair, twins):
    kit.loaded_weights(kit.load(merge(pair, "GRAD_V")))
    hidden = merge(pair, "GRAD_V, M00=0.1")
    name = "diffusion_model.middle_block.0.in_layers.2"
    hidden.add_object_patch(name, kit.unet("ink").model.get_submodule(name))
    kit.loaded_weights(kit.load(hidden))
    assert hidden.last_switch is None
    shown = merge(pair, "GRAD_V, M00=0.1")
    assert not kit.unequal(kit.loaded_weights(kit.load(shown)), kit.fresh(merge(twins, "GRAD_V, M00=0.1")))
    assert shown.last_switch is None
    sampling = merge(pair, "GRAD_V, M00=0.2")
    sampling.add_object_patch("model_sampling", torch.nn.Identity())
    kit.load(sampling)
    assert sampling.last_switch is not None  # an object without weights hides none
    wrapped = merge(pair, "GRAD_V, M00=0.3")
    wrapped.add_weight_wrapper(BIG, lambda weight: weight * 2)
    kit.load(wrapped)
    assert wrapped.last_switch is None
    doubled = merge(pair, "GRAD_V, M00=0.4")
    doubled.set_model_compute_dtype(torch.float32)
    kit.load(doubled)
    assert doubled.last_switch is None
    last = merge(pair, "GRAD_V, M00=0.5")
    assert not kit.unequal(kit.loaded_weights(kit.load(last)), kit.fresh(merge(twins, "GRAD_V, M00=0.5")))
