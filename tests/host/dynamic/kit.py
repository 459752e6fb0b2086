"""Core's dynamic loading on the simulated GPU, set up as main.py does, and what its tests share."""

import contextlib
import gc
import sys
from pathlib import Path

import device
import pages

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

pages.install()
device.install(pages.used)

from refhost import layout
from refhost.pack import load_pack

sys.path.insert(0, str(layout.comfyui_path()))

import comfy.cli_args
import comfy.memory_management
import comfy.model_management as management
import comfy.model_patcher
import comfy.model_prefetch
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_kitchen
import safetensors.torch
import torch
from safetensors import safe_open

for backend in ("cuda", "triton"):
    comfy_kitchen.registry.disable(backend)
comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
comfy.memory_management.aimdo_enabled = True


def _load_safetensors(path):
    """Core reads weights from the file straight into a page; here they are read at once."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return safetensors.torch.load_file(path), metadata


def _save_safetensors(tensors, path, metadata=None):
    """Safetensors copies what is not on the CPU there, after a look at its address; here it is copied before."""
    state = {key: device.on_host(tensor.to("cpu")) for key, tensor in tensors.items()}
    safetensors.torch.save_file(state, path, metadata=metadata)


def _new_lazy_parameter(cls, model, key, tensor):
    """Core makes a subclass of Parameter over a weight, whose values it does not read."""
    return torch.nn.Parameter.__new__(cls, device.on_host(tensor), tensor.is_floating_point())


_load_list = comfy.model_patcher.ModelPatcher._load_list


def _moving_load_list(self, for_dynamic=False, default_device=None):
    """Core moves parameters beside children through ``.data``, which cannot change the kind of a tensor."""
    for module in self.model.modules() if default_device is not None else ():
        if any(True for child in module.children() for _ in child.parameters()):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    dtype = getattr(module, f"{name}_comfy_model_dtype", None)
                    moved = parameter.to(device=default_device, dtype=dtype)
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
    return _load_list(self, for_dynamic, None)


comfy.model_patcher.ModelPatcher._load_list = _moving_load_list
comfy.utils.load_safetensors = _load_safetensors
comfy.utils.save_torch_file = _save_safetensors
comfy.model_patcher.LazyCastingParam.__new__ = _new_lazy_parameter
load_pack()


def end_of_node() -> None:
    """What core's executor does after every node."""
    management.reset_cast_buffers()
    comfy.model_prefetch.cleanup_prefetch_queues()


def load(model):
    """Load through core's memory management; returns the model."""
    management.load_models_gpu([model])
    return model


def prompts(model, seed: int = 0):
    """A positive and a negative conditioning of the model's width."""
    generator = torch.Generator().manual_seed(seed)
    width = model.model.model_config.unet_config["context_dim"]
    return [[[torch.randn(1, 7, width, generator=generator), {}]] for _ in range(2)]


def sample(
    model, steps: int = 1, positive=None, negative=None, side: int = 8, seed: int = 3, callback=None
) -> torch.Tensor:
    """A latent sampled as KSampler does."""
    usual = prompts(model)
    latent = torch.zeros(1, model.model.latent_format.latent_channels, side, side)
    noise = comfy.sample.prepare_noise(latent, seed)
    result = comfy.sample.sample(
        model, noise, steps, 4.0, "euler", "normal", positive or usual[0], negative or usual[1], latent,
        disable_pbar=True, seed=seed, callback=callback,
    )  # fmt: skip
    end_of_node()
    return device.on_host(result).clone()


def use_all_weights(patcher) -> None:
    """Bring every paged weight into its page, merged, as a forward pass does."""
    for module in patcher.model.modules():
        if hasattr(module, "_v"):
            dtype = getattr(module, "weight_comfy_model_dtype", None) or module.weight.dtype
            dtype = torch.float16 if dtype.itemsize == 1 else dtype  # float8 is stored, never computed in
            weight, bias, stream = comfy.ops.cast_bias_weight(
                module, device=device.GPU, dtype=dtype, bias_dtype=dtype, offloadable=True
            )
            comfy.ops.uncast_bias_weight(module, weight, bias, stream)
    end_of_node()


def loaded_weights(patcher, use: bool = True) -> dict[str, torch.Tensor]:
    """Every tensor that the loaded model computes with, by key, read from the module and its pages."""
    if use and patcher.is_dynamic():
        use_all_weights(patcher)
    found = {key: device.on_host(value) for key, value in patcher.model.state_dict().items()}
    for name, module in patcher.model.named_modules():
        if getattr(module, "_v_signature", None) is not None and hasattr(module, "_v"):
            for part in ("weight", "bias"):
                if getattr(module, f"_v_{part}", None) is not None:
                    found[f"{name}.{part}"] = device.on_host(getattr(module, f"_v_{part}"))
    return {key: value.clone() for key, value in found.items()}


def unload() -> None:
    management.unload_all_models()
    gc.collect()


def saved(patcher, prefix: str = "diffusion_model.") -> dict[str, torch.Tensor]:
    """What core's save nodes write, by key, with the model loaded as they load it."""
    load(patcher)
    module = patcher.model.diffusion_model if prefix else patcher.model
    state = patcher.model_state_dict_for_saving(module, prefix)
    return {prefix + key: device.on_host(value.to("cpu")).clone() for key, value in state.items()}


STEPS = 3  # of a loop whose waits are counted
_STATES: dict[str, dict[str, torch.Tensor]] = {}


def unet(
    name: str = "base",
    dynamic: bool = True,
    dtype: torch.dtype | None = None,
    stored: torch.dtype | None = None,
):
    """A U-Net of the demo family; ``dtype`` to compute in, ``stored`` the dtype of its file."""
    from blockwork.demo_models import host as demo

    if name not in _STATES:
        model = demo.load_model(name)
        _STATES[name] = {
            key: value.clone() for key, value in model.model_state_dict("diffusion_model.").items()
        }
    state = {
        key.removeprefix("diffusion_model."): value.to(stored or value.dtype, copy=True)
        for key, value in _STATES[name].items()
    }
    options = {} if dtype is None else {"dtype": dtype}
    return comfy.sd.load_diffusion_model_state_dict(state, model_options=options, disable_dynamic=not dynamic)


def fresh(patcher) -> dict[str, torch.Tensor]:
    """Every tensor as core's plain loader computes it, from a model that is not loaded."""
    found = {key: device.on_host(value) for key, value in patcher.model_state_dict().items()}
    for key in patcher.patches:
        value = patcher.patch_weight_to_device(key, device_to=device.GPU, return_weight=True)
        found[key] = device.on_host(value)
    return {key: value.clone() for key, value in found.items()}


def unequal(have: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> list[str]:
    """The keys under which two sets of tensors differ."""
    assert have.keys() == want.keys()
    return [key for key in want if not torch.equal(have[key], want[key])]


@contextlib.contextmanager
def plain_loading():
    """Core as with --disable-dynamic-vram, for models that are loaded within."""
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcher
    comfy.memory_management.aimdo_enabled = False
    try:
        yield
    finally:
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
        unload()


def both(run):
    """What ``run()`` gives on the plain and on the dynamic path; torch.equal of both is the point of these tests."""
    with plain_loading():
        plain = run()
    dynamic = run()
    unload()
    return plain, dynamic


def waits_per_step(run) -> dict[str, float]:
    """The waits for the device in a sampling loop, by place; ``run(steps, callback)`` samples.

    From the end of the first step on: that one loads, merges and remembers what later steps reuse.
    """
    marks: list[dict[str, int]] = []
    device.WAITS.clear()
    run(STEPS, lambda *_: marks.append(dict(device.WAITS)))
    assert len(marks) == STEPS
    more = {place: count - marks[0].get(place, 0) for place, count in marks[-1].items()}
    return {place: count / (STEPS - 1) for place, count in more.items() if count}
