"""Merges of tiny transformers of core's own classes: every tensor of the loaded model, on both loading paths."""

import comfy.model_patcher
import comfy.utils
import device
import kit
import pytest
import torch
from blockwork.merge.live.host_incremental import incremental
from blockwork.merge.live.host_left_out import key_patches, left_out, stored_tensors
from blockwork.merge.live.host_patch import How, merge_patch, own_patches
from blockwork.tests.support import tiny

# What core's loaders leave out, tried on each family: plainly, and under dynamic loading.
LEFT_OUT = {
    "SD3": set(),  # its pos_embed, a buffer, is a sine table that tiny networks do not have
    "AuraFlow": {"register_tokens", "positional_encoding"},
    "LTXV": {"scale_shift_table"},
    "Z-Image": {"x_pad_token", "cap_pad_token"},
    "Wan 2.1": {"blocks.0.modulation", "head.modulation"},
    "Flux.1 dev": set(),
    "Qwen-Image": set(),
    "Krea 2": set(),
}


class Model(torch.nn.Module):
    def __init__(self, name: str, seed: int):
        super().__init__()
        with kit.plain_loading():  # under dynamic loading core leaves weights out until a file is loaded
            self.diffusion_model = tiny.build(name, seed, torch.float16)
        generator = torch.Generator().manual_seed(seed)
        saved = self.state_dict()
        for key, buffer in self.named_buffers():
            if key in saved and buffer.is_floating_point():
                values = torch.randn(buffer.shape, generator=generator).to(buffer.dtype)
                comfy.utils.set_attr_buffer(self, key, values)
        self.requires_grad_(False)
        kit.management.archive_model_dtypes(self)

    def memory_required(self, input_shape):
        return 0


@pytest.mark.parametrize("dynamic", [False, True], ids=["plain", "dynamic"])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_every_tensor_of_a_merge_is_merged(name, dynamic):
    kind = comfy.model_patcher.ModelPatcherDynamic if dynamic else comfy.model_patcher.ModelPatcher
    a, b = (kind(Model(name, seed), device.GPU, torch.device("cpu")) for seed in (1, 2))
    assert {f"diffusion_model.{key}" for key in LEFT_OUT[name]} <= left_out(a, dynamic)
    stored, others = ({k: v.clone() for k, v in stored_tensors(model).items()} for model in (a, b))
    keys = [key for key, value in stored.items() if value.is_floating_point()]
    sources = key_patches(b)
    model, how = incremental(a), How("each", (("m_a", 0.75), ("m_b", 0.25)))
    own = own_patches(model, stored)
    model.add_patches({k: merge_patch(how, (sources[k],), own.get(k)) for k in keys})
    have = kit.loaded_weights(kit.load(model))
    expected = {
        key: (stored[key].float() * 0.75 + others[key].float() * 0.25).to(have[key].dtype) for key in keys
    }
    assert [key for key in keys if not torch.equal(have[key], expected[key])] == []
    assert not kit.unequal(
        kit.loaded_weights(kit.load(a)), {k: v.to(have[k].dtype) for k, v in stored.items()}
    )
