"""Re-merging by difference: which tensors are computed again, and that the weights are those of a fresh merge.

Everything goes through core's own load_models_gpu, as samplers do.
"""

import gc
import weakref

import blockwork.demo_models.host as demo_models
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1
from blockwork.merge.live import host
from blockwork.merge.live.host_patch import MergePatch, Own
from blockwork.merge.live.host_quantised import as_numbers
from blockwork.merge.live.host_trace import Switch, trace
from blockwork.tests.support import quantised_kit
from comfy.quant_ops import QuantizedTensor

UNET = "diffusion_model."
LORA_KEY = "diffusion_model.output_blocks.4.1.proj_in.weight"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair(build):
    return build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)


@pytest.fixture(scope="module")
def twins(build):
    """The same two models once more, never loaded: what a fresh merge is computed from."""
    return build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)


@pytest.fixture(autouse=True)
def nothing_left_behind(pair, twins):
    """After every test, unloading gives both models back as they were."""
    yield
    management.unload_all_models()
    for model, twin in zip(pair, twins, strict=True):
        assert_weights(model, twin.model_state_dict(), "unloaded")
        assert not model.backup


@pytest.fixture
def computed(monkeypatch):
    """The keys whose merge was computed, in order; cleared by the test."""
    keys = []
    calculate = MergePatch.calculate_weight

    def counting(self, weight, key, *arguments, **keywords):
        keys.append(key)
        return calculate(self, weight, key, *arguments, **keywords)

    monkeypatch.setattr(MergePatch, "calculate_weight", counting)
    return keys


def load(model):
    management.load_models_gpu([model])
    return model


def merge(models, weights):
    return host.merge_models(*models, weights)[0]


def with_lora(model, strength=1.0):
    """A LoRA on two tensors, as a fresh object over tensors that stay, like core's loader makes it."""
    from comfy.weight_adapter.lora import LoRAAdapter

    model = model.clone()
    model.add_patches(
        {
            LORA_KEY: LoRAAdapter(set(), (UP, DOWN, 1.0, None, None, None)),
            "diffusion_model.middle_block.0.in_layers.2.bias": ("diff", (BIAS,)),
        },
        strength,
    )
    return model


GENERATOR = torch.Generator().manual_seed(5)
UP, DOWN = (torch.randn(shape, generator=GENERATOR) for shape in ((32, 4), (4, 32)))
BIAS = torch.randn(32, generator=GENERATOR)


def fresh(model):
    """Every weight as core would compute it from models that were never loaded."""
    state = model.model_state_dict()
    patched = {
        key: model.patch_weight_to_device(key, device_to=CPU, return_weight=True) for key in model.patches
    }
    return {**state, **patched}


def assert_weights(model, expected, what=""):
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, expected[key]), (what, key)


def keys_of(block, model):
    return {key for key in model.model_state_dict(UNET) if block_of(key, SD1) == block}


def test_one_changed_ratio_recomputes_its_block_and_nothing_else(pair, twins, computed):
    load(merge(pair, "GRAD_V, IN04=0.2"))
    computed.clear()
    changed = load(merge(pair, "GRAD_V, IN04=0.3"))
    assert set(computed) == keys_of("IN04", pair[0]) and len(computed) == len(set(computed))
    assert changed.last_switch == Switch(len(computed), 0, len(changed.patches) - len(computed))
    assert_weights(changed, fresh(merge(twins, "GRAD_V, IN04=0.3")))


@pytest.mark.parametrize("form", ["fp8_scaled", "int8"])
def test_quantised_layers_of_other_blocks_are_not_computed_again(computed, form):
    models = [demo_models.load_model(name) for name in ("base", "ink")]
    keys = [key for key in keys_of("M00", models[0]) if key.endswith("ff.net.2.weight")]
    files = [quantised_kit.quantised(model.model_state_dict(UNET), form, keys) for model in models]
    states = [{key.removeprefix(UNET): value.clone() for key, value in file.items()} for file in files]
    found = [comfy.sd.load_diffusion_model_state_dict(state) for state in states]
    first = load(merge(found, "0.5, IN04=0.2"))
    assert any(
        isinstance(patch[0][1].weights[1][0][0][0], QuantizedTensor) for patch in first.patches.values()
    )
    computed.clear()
    changed = load(merge(found, "0.5, IN04=0.3"))
    assert set(computed) == keys_of("IN04", models[0])
    assert changed.last_switch == Switch(len(computed), 0, len(changed.patches) - len(computed))


def test_a_one_block_sweep_computes_every_tensor_once(pair, twins, computed):
    total = []
    for block in SD1.blocks:
        computed.clear()
        model = load(host.scale_blocks(pair[0], f"{block}=0.75")[0])
        total += computed
        assert_weights(model, fresh(host.scale_blocks(twins[0], f"{block}=0.75")[0]), block)
        del model  # the switch does not need the patcher before it
    assert sorted(total) == sorted(pair[0].model_state_dict(UNET))


def test_any_path_of_changes_ends_in_the_weights_of_a_fresh_merge(pair, twins):
    path = ["GRAD_V", "0.5", "ALL_A", "IN00=1, OUT11=0.3", "ALL_B", "M00=0.5", "M00=0.5, IN03=-0.5", "GRAD_V"]
    for weights in path:
        assert_weights(load(merge(pair, weights)), fresh(merge(twins, weights)), weights)


def test_lora_below_and_on_top(pair, twins, computed):
    load(with_lora(merge(pair, "IN04=0.2, OUT04=0.5")))
    computed.clear()
    on_top = load(with_lora(merge(pair, "IN04=0.3, OUT04=0.5")))
    assert set(computed) == keys_of("IN04", pair[0])
    assert_weights(on_top, fresh(with_lora(merge(twins, "IN04=0.3, OUT04=0.5"))), "on top")

    computed.clear()
    stronger = load(with_lora(merge(pair, "IN04=0.3, OUT04=0.5"), 2.0))
    assert set(computed) == {LORA_KEY}
    assert_weights(stronger, fresh(with_lora(merge(twins, "IN04=0.3, OUT04=0.5"), 2.0)), "stronger")

    below = load(merge((with_lora(pair[0]), pair[1]), "OUT04=0.5"))
    assert_weights(below, fresh(merge((with_lora(twins[0]), twins[1]), "OUT04=0.5")), "below")
    within = load(merge((pair[0], with_lora(pair[1])), "OUT04=0.5"))
    assert_weights(within, fresh(merge((twins[0], with_lora(twins[1])), "OUT04=0.5")), "in B")


def test_two_samplers_take_turns_on_one_model(pair, twins, computed):
    one, two = merge(pair, "GRAD_V"), merge(pair, "GRAD_V, M00=0.7, OUT11=0")
    expected = fresh(merge(twins, "GRAD_V")), fresh(merge(twins, "GRAD_V, M00=0.7, OUT11=0"))
    for turn in range(4):
        computed.clear()
        model = load((one, two)[turn % 2])
        assert_weights(model, expected[turn % 2], turn)
        if turn:
            assert {block_of(key, SD1) for key in computed} <= {"M00", "OUT11"}
    assert load(two).last_switch is None  # already there


def test_the_models_themselves_and_foreign_clones_in_between(pair, twins):
    a, b = pair
    merged = merge(pair, "GRAD_V")
    foreign = a.clone()
    foreign.add_patches({LORA_KEY: ("diff", (torch.ones(32, 32, 1, 1),))})
    expected = fresh(merge(twins, "GRAD_V"))
    assert_weights(load(merged), expected)
    assert_weights(load(a), twins[0].model_state_dict(), "A")
    assert_weights(load(merged), expected, "after A")
    assert merged.last_switch == Switch(len(merged.patches), 0, 0)
    load(foreign)
    assert_weights(load(merged), expected, "after a clone that is not ours")
    assert merged.last_switch is None
    assert_weights(load(b), twins[1].model_state_dict(), "B")
    assert_weights(load(merge((b, a), "M00=0.5")), fresh(merge(twins[::-1], "M00=0.5")), "B as the first")
    assert_weights(load(merged), expected, "after B was patched")


@pytest.mark.parametrize("exception", [RuntimeError, management.InterruptProcessingException])
@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_exception_in_the_middle_leaves_the_model_as_it_was(
    pair, twins, computed, monkeypatch, exception, after
):
    load(merge(pair, "GRAD_V"))
    calculate, left = MergePatch.calculate_weight, [after]

    def failing(self, *arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise exception
        return calculate(self, *arguments, **keywords)

    target = merge(pair, "GRAD_V, IN04=0.3, M00=0")
    with monkeypatch.context() as patch:
        patch.setattr(MergePatch, "calculate_weight", failing)
        with pytest.raises(exception):
            load(target)
    assert_weights(pair[0], twins[0].model_state_dict(), "after the exception")
    assert not pair[0].backup and pair[0].model.current_weight_patches_uuid is None
    assert_weights(load(target), fresh(merge(twins, "GRAD_V, IN04=0.3, M00=0")), "again")
    assert_weights(load(merge(pair, "GRAD_V")), fresh(merge(twins, "GRAD_V")), "and back")


def test_partly_offloaded_models_take_cores_path_and_give_the_same(pair, twins):
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 7, 768)

    def picture(model):
        with torch.no_grad():
            return model.model.diffusion_model(*(value.half() for value in inputs))

    expected = {weights: picture(load(merge(twins, weights))) for weights in ("GRAD_V", "GRAD_V, IN04=0.3")}
    management.unload_all_models()
    half = pair[0].model_size() // 2
    model = merge(pair, "GRAD_V")
    for weights, memory in (("GRAD_V", half), ("GRAD_V, IN04=0.3", half), ("GRAD_V", 1e32)):
        model = merge(pair, weights)
        model.partially_load(CPU, memory)
        assert model.model.model_lowvram == (memory == half)
        assert model.last_switch is None
        assert torch.equal(picture(model), expected[weights]), (weights, memory)
    model = merge(pair, "GRAD_V, IN04=0.3")
    model.partially_load(CPU, 1e32)
    assert model.last_switch is not None and model.last_switch.recomputed == len(keys_of("IN04", pair[0]))
    assert torch.equal(picture(model), expected["GRAD_V, IN04=0.3"])
    model.partially_unload(CPU, half)  # core takes memory back from an incrementally loaded model
    assert torch.equal(picture(model), expected["GRAD_V, IN04=0.3"])
    model.detach()


def test_what_dynamic_loading_merges_when_a_weight_is_used_is_the_same(pair, twins):
    """Core's dynamic loader gathers a patch's tensors in a buffer and applies it to each weight as it is used."""
    for weights in ("GRAD_V", "GRAD_V, IN04=0.3"):
        model, expected = merge(pair, weights), fresh(merge(twins, weights))
        state = model.model_state_dict()
        for key in sorted(model.patches.keys() & (keys_of("IN04", model) | keys_of("M00", model))):
            patch = comfy.model_patcher.LowVramPatch(key, model.patches)
            buffer = torch.empty(patch.memory_required(), dtype=torch.uint8)
            patch.prepare(buffer, None, copy=True, commit=True)
            assert torch.equal(patch(state[key].clone()), expected[key]), (weights, key)


def test_what_something_else_wrapped_or_hid_is_left_to_core(pair, twins):
    wrapped = pair[0].clone()
    wrapped.add_weight_wrapper(LORA_KEY, lambda weight: weight * 2)
    load(wrapped)
    merged = load(merge(pair, "OUT04=0.5"))
    assert merged.last_switch is None
    assert not merged.model.diffusion_model.output_blocks[4][1].proj_in.weight_function
    assert_weights(merged, fresh(merge(twins, "OUT04=0.5")))

    hidden = merge(pair, "OUT04=0.25")
    projection = pair[0].model.diffusion_model.output_blocks[4][1].proj_in
    hidden.add_object_patch(LORA_KEY.removesuffix(".weight"), projection)
    assert load(hidden).last_switch is None
    assert_weights(hidden, fresh(merge(twins, "OUT04=0.25")))

    load(merge(pair, "OUT04=0.5"))
    sampling = merge(pair, "OUT04=0.3")
    sampling.add_object_patch("model_sampling", torch.nn.Identity())
    assert load(sampling).last_switch is not None  # an object that holds no weights is in nobody's way
    assert sampling.model.model_sampling is sampling.object_patches["model_sampling"]


def test_hooks_are_left_to_core(pair, twins):
    import comfy.hooks

    load(merge(pair, "OUT04=0.5"))
    hooked = merge(pair, "OUT04=0.25")
    group = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook()
    group.add(hook)
    hooked.add_hook_patches(hook, {LORA_KEY: ("diff", (torch.ones(32, 32, 1, 1),))})
    assert load(hooked).last_switch is None
    hooked.apply_hooks(group)
    expected = fresh(merge(twins, "OUT04=0.25"))
    assert torch.equal(hooked.model.state_dict()[LORA_KEY], (expected[LORA_KEY].float() + 1).half())
    assert_weights(load(merge(pair, "OUT04=0.75")), fresh(merge(twins, "OUT04=0.75")), "with hooks on")


def test_the_loaded_merge_keeps_no_other_model_alive(build, pair, twins):
    a, b = pair[0], build("SD15", 3, torch.float16)
    merged = load(merge((a, b), "GRAD_V"))
    tensor = weakref.ref(b.model.diffusion_model.out[2].weight)
    del merged, b
    gc.collect()
    assert tensor() is None
    assert_weights(
        load(merge(pair, "GRAD_V")), fresh(merge(twins, "GRAD_V")), "and a third model in its place"
    )


def test_patchers_that_are_not_cores_own_stay_what_they_are(pair):
    class Other(comfy.model_patcher.ModelPatcher):
        pass

    other = pair[0].clone()
    other.__class__ = Other
    assert type(host.scale_blocks(other, "IN04=0.5")[0]) is Other


def test_traces_compare_what_a_patch_computes_from():
    tensor, twin = torch.ones(2), torch.ones(2)

    def patch(operand=tensor, strength=1.0, offset=None, function=None):
        return [(strength, ("diff", (operand,)), 1.0, offset, function)]

    assert trace(patch()) == trace(patch())
    assert trace(patch()) != trace(patch(operand=twin))
    assert trace(patch()) != trace(patch(strength=0.5))
    assert trace(patch()) != trace(patch(offset=(0, 1, 2)))
    assert trace([lambda a: a][0]) != trace([lambda a: a + 1][0])
    assert trace(patch(function=object())) != trace(patch(function=object()))
    trained = torch.ones(2, requires_grad=True)
    assert trace(trained) != trace(trained)
    own, same = (Own([(one, as_numbers), *patch()]) for one in (tensor, tensor.detach()))
    assert trace(own) == trace(same) != trace(Own([(tensor, as_numbers), *patch(strength=0.5)]))
    layers = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert trace(layers[0].extra_repr) == trace(layers[0].extra_repr) != trace(layers[1].extra_repr)
    gone = trace(torch.ones(2))
    assert gone != gone
