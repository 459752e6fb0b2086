"""Parts of the GPU check: a stage of IF, sampled, and its U-Net beside diffusers'."""

from typing import Any

import comfy.samplers
import measuring
import torch
from blockwork.cascade import host_cascade, host_load, host_memory, host_model, host_sampler
from blockwork.cascade.unet import from_state_dict
from blockwork.tests.support import cascade_files, cascade_oracles
from safetensors.torch import save_file


def stages(part: measuring.Part) -> None:
    """A stage I of IF-I-M's shape sampled alone: memory beside the size of its weights, steps per second."""
    host_model.register()
    state = oracle(part).state_dict()
    file = part.setup.work / "stage.safetensors"
    save_file({key: value.half().contiguous() for key, value in state.items()}, file)
    side = 16 if part.tiny else 64
    ledger = host_memory.Ledger()

    def use(model: Any) -> float:
        width = model.model.config.text_dim
        texts = [[[torch.randn(1, 77, width) * 0.3, {}]] for _ in range(2)]
        sigmas = host_sampler.stage_sigmas(model, "3" if part.tiny else "14")
        sampler = comfy.samplers.sampler_object("ddpm")
        latent = torch.zeros(1, 3, side, side)
        took = measuring.seconds(lambda: host_cascade.sampled(model, *texts, 7.0, sampler, sigmas, latent, 1))
        measuring.end_of_node()
        return round((len(sigmas) - 1) / took, 2)

    with measuring.memory() as found:
        rate = host_memory.alone(ledger, "stage I", lambda: host_load.prepared_stage(str(file)), use)
    part("steps per second, load included", rate)
    part("memory, MiB", found)
    part("the pack's own report", ledger.text())


def oracle(part: measuring.Part) -> Any:
    """diffusers' U-Net of IF-I-M's shape, or a tiny one."""
    import cascade_unet

    small = cascade_oracles.stage_one_arguments(64, 64) | {"encoder_hid_dim": cascade_files.TEXT_DIM}
    return cascade_oracles.diffusers_unet(small if part.tiny else cascade_unet.arguments_of("I-M"))


def forward(part: measuring.Part, compiled: bool) -> None:
    """Milliseconds of a guided step of IF-I-M's shape, ours and diffusers'."""
    device = measuring.management.get_torch_device()
    dtype = torch.float32 if part.tiny else torch.float16
    theirs = oracle(part).to(device=device, dtype=dtype)
    ours = from_state_dict(theirs.state_dict())
    side, width = (16, cascade_files.TEXT_DIM) if part.tiny else (64, 4096)
    x, text = (torch.randn(shape).to(device, dtype) for shape in ((2, 3, side, side), (2, 77, width)))
    t = torch.full((2,), 500, device=device)
    states = ours.encode_text(text)
    a, b = ours(x, t, text=states), theirs(x, t, encoder_hidden_states=text).sample
    part("largest difference, relative", float((a - b).abs().max() / b.abs().max()))
    if compiled:
        backend = "eager" if part.tiny else "inductor"
        ours, theirs = torch.compile(ours, backend=backend), torch.compile(theirs, backend=backend)
    rounds = 2 if part.tiny else 20
    mine = measuring.milliseconds(lambda: ours(x, t, text=states), rounds)
    peer = measuring.milliseconds(lambda: theirs(x, t, encoder_hidden_states=text).sample, rounds)
    part("ms per guided step", {"ours": mine, "diffusers": peer, "speed": round(peer / mine, 3)})


def compiled(part: measuring.Part) -> None:
    if part.setup.kind == "simulated":
        return part("left out", "nothing compiles for the simulated GPU")
    forward(part, compiled=True)
