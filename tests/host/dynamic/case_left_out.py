"""Tensors that core's loaders do not patch: read from the loaded module, on the plain and on the dynamic path."""

import comfy.model_base
import comfy.model_patcher
import comfy.ops
import device
import kit
import pytest
import torch
from blockwork.merge.live import host
from blockwork.merge.live.host_incremental import incremental, unpatched
from blockwork.merge.live.host_patch import How, merge_patch, own_patches


class Norm(torch.nn.Module):
    """A leaf module outside comfy.ops, as T5LayerNorm is."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(64))

    def forward(self, x):
        return x * comfy.ops.cast_to_input(self.weight, x)


class Network(torch.nn.Module):
    """Every kind of tensor that core's loaders treat on their own."""

    def __init__(self):
        super().__init__()
        ops = comfy.ops.manual_cast
        self.linear = ops.Linear(64, 256)  # paged
        self.small = ops.Linear(64, 64, bias=False)
        self.small.inner = torch.nn.Module()
        self.small.inner.scale = torch.nn.Parameter(torch.empty(3))  # a child makes its parent no leaf
        self.norm = Norm()
        self.positions = ops.Embedding(128, 64)
        self.modulation = torch.nn.Parameter(torch.empty(1, 6, 64))
        self.register_buffer("pos_embed", torch.empty(1, 16, 64))
        self.register_buffer("made", torch.zeros(3), persistent=False)


class Model(torch.nn.Module):
    def __init__(self, seed: int, dtype: torch.dtype):
        super().__init__()
        self.diffusion_model = Network()
        generator = torch.Generator().manual_seed(seed)
        for key, tensor in self.state_dict().items():
            values = torch.randn(tensor.shape, generator=generator).to(dtype)
            module, name = comfy.utils.resolve_attr(self, key)
            if name in module._buffers:
                module._buffers[name] = values
            else:
                setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
        kit.management.archive_model_dtypes(self)

    def memory_required(self, input_shape):
        return 0


KEYS = sorted(Model(0, torch.float16).state_dict())


def patcher(seed, dynamic, dtype=torch.float16):
    kind = comfy.model_patcher.ModelPatcherDynamic if dynamic else comfy.model_patcher.ModelPatcher
    return kind(Model(seed, dtype), device.GPU, torch.device("cpu"))


def merged(a, b, ratio):
    model = incremental(a)
    stored, sources = host.stored_tensors(a), host.key_patches(b)
    how = How("each", (("m_a", 1 - ratio), ("m_b", ratio)))
    own = own_patches(model, stored)
    model.add_patches({key: merge_patch(how, (sources[key],), own.get(key)) for key in KEYS})
    return model


def states(*models):
    return [{key: value.clone() for key, value in host.stored_tensors(model).items()} for model in models]


def expected(a, b, ratio):
    return {key: (a[key].float() * (1 - ratio) + b[key].float() * ratio).to(a[key].dtype) for key in a}


@pytest.mark.parametrize("dynamic", [False, True], ids=["plain", "dynamic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_tensor_is_merged_restored_and_merged_again(dynamic, dtype):
    a, b = patcher(1, dynamic, dtype), patcher(2, dynamic, dtype)
    state_a, state_b = states(a, b)
    for ratio in (0.25, 0.75, 0.5):
        model = merged(a, b, ratio)
        assert not unpatched(model)
        assert not kit.unequal(kit.loaded_weights(kit.load(model)), expected(state_a, state_b, ratio))
        backwards = merged(b, a, ratio)  # A as the other model while its own merge is loaded
        assert not kit.unequal(kit.loaded_weights(kit.load(backwards)), expected(state_b, state_a, ratio))
    assert model.last_switch is not None
    assert model.last_switch.recomputed == len(KEYS)
    foreign = a.clone()
    foreign.__class__ = type(patcher(1, dynamic))
    assert not kit.unequal(kit.loaded_weights(kit.load(foreign)), state_a)
    assert isinstance(a.model.diffusion_model._buffers["pos_embed"], torch.Tensor)
    kit.unload()
    assert not kit.unequal(kit.loaded_weights(kit.load(merged(a, b, 0.5))), expected(state_a, state_b, 0.5))
    kit.unload()
    left = {key: device.on_host(value) for key, value in a.model.state_dict().items()}
    if not dynamic:
        assert not kit.unequal(left, state_a)


@pytest.mark.parametrize("dynamic", [False, True], ids=["plain", "dynamic"])
def test_saving_merges_every_tensor_once(dynamic):
    a, b = patcher(1, dynamic), patcher(2, dynamic)
    want = expected(*states(a, b), 0.25)
    model = merged(a, b, 0.25)
    kit.loaded_weights(kit.load(model))
    assert not kit.unequal(kit.saved(model), want)


@pytest.mark.parametrize("dynamic", [False, True], ids=["plain", "dynamic"])
def test_patchers_that_are_not_cores_name_what_they_leave(dynamic):
    """What ``unpatched`` names is what core's own loader leaves as it is."""
    a, b = patcher(1, dynamic), patcher(2, dynamic)
    state_a, state_b = states(a, b)
    other = a.clone()
    other.__class__ = type("Other", (type(other),), {})
    model = incremental(other)
    assert type(model) is type(other)
    sources = host.key_patches(b)
    model.add_patches(
        {key: merge_patch(How("each", (("m_a", 0.5), ("m_b", 0.5))), (sources[key],)) for key in KEYS}
    )
    have, want = kit.loaded_weights(kit.load(model)), expected(state_a, state_b, 0.5)
    named = {key for key in unpatched(model) if "positions" not in key}  # a page nothing reads directly here
    assert set(kit.unequal(have, want)) == named
    assert not [key for key in named if not torch.equal(have[key], state_a[key])]
