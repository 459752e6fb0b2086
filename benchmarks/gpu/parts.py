"""The parts of the GPU check, by name; each takes a ``measuring.Part`` and gives it figures."""

import functools
from collections.abc import Callable
from typing import Any

import comfy.samplers
import measuring
import torch
from blockwork.blocks.names import SD1, SDXL
from blockwork.blocks.spec import parse
from blockwork.cascade import host_cascade, host_load, host_memory, host_model, host_sampler
from blockwork.cascade.unet import from_state_dict
from blockwork.injection import host as injection
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection as entry
from blockwork.injection.host_change import Change
from blockwork.merge.live import host
from blockwork.tests.support import cascade_files, cascade_oracles
from comfy_extras.nodes_model_merging import ModelMergeBlocks
from refhost import checkpoints
from safetensors.torch import save_file

LAYOUTS = {"sd15": SD1, "sdxl": SDXL}
FAMILIES = {"sd15": ("SD15", (1, 2, 4, 4)), "sdxl": ("SDXL", (1, 2, 4))}


def random_tensors(shapes: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """float16 weights of these shapes, drawn on the device: norms near 1, matrices scaled by their inputs."""
    device = measuring.management.get_torch_device()
    generator = torch.Generator(device).manual_seed(seed)
    made = {}
    for key, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator, device=device)
        if like.ndim < 2:
            noise = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
        else:
            noise = noise * like[0].numel() ** -0.5
        made[key] = noise.half().cpu()
    return made


def unet_files(kind: str, part: measuring.Part) -> None:
    """Two random U-Nets of full size as files."""
    if part.tiny:
        return part("files", "not made, the demo models are used")
    family, channels = FAMILIES[kind]
    shapes = checkpoints._shapes(checkpoints.Kind(family, channels, text=False))
    unet = {key: value for key, value in shapes.items() if key.startswith("model.diffusion_model.")}
    took = measuring.seconds(
        lambda: [
            save_file(random_tensors(unet, n), path)
            for n, path in enumerate(measuring.files(part.setup, kind))
        ]
    )
    part("files", {path.name: path.stat().st_size >> 20 for path in measuring.files(part.setup, kind)})
    part("seconds to make them", took)


def core_ratios(layout: Any, weights: dict[str, float]) -> dict[str, float]:
    """Our share of B by block as the arguments of core's ModelMergeBlocks (shares of A)."""
    share = {name: 1 - value for name, value in weights.items()}
    inputs = [name for name in layout.blocks if name.startswith("IN")]
    ratios = {"time_embed.": share["IN00"], "label_emb.": 1.0, "out.": share[f"OUT{len(inputs) - 1:02}"]}
    ratios |= {f"middle_block.{number}.": share["M00"] for number in range(3)}
    for number, name in enumerate(inputs):
        ratios |= {
            f"input_blocks.{number}.": share[name],
            f"output_blocks.{number}.": share[f"OUT{number:02}"],
        }
    return ratios


def slider(kind: str, part: measuring.Part) -> None:
    """Seconds of node, load and first step: the whole merge and one slider, beside core's ModelMergeBlocks."""
    a, b = measuring.pair(part, kind)
    layout = SD1 if part.tiny else LAYOUTS[kind]
    prompts = measuring.conditioning(a, 1), measuring.conditioning(a, 2)
    full = {name: 0.1 + 0.8 * number / (len(layout.blocks) - 1) for number, name in enumerate(layout.blocks)}
    values = iter(range(1, 10000))

    def ours(weights: dict[str, float]) -> Any:
        text = ", ".join(f"{name}={value!r}" for name, value in weights.items())
        model = host.merge_models(a, b, text)[0]
        measuring.sample(part, kind, model, *prompts)
        return model

    def core(weights: dict[str, float]) -> Any:
        model = ModelMergeBlocks().merge(a, b, **core_ratios(layout, weights))[0]
        measuring.sample(part, kind, model, *prompts)
        return model

    contenders = {"ours": ours, "core": core}
    part("A alone, first step", measuring.seconds(lambda: measuring.sample(part, kind, a, *prompts)))
    with measuring.memory() as found:
        took = measuring.seconds(lambda: ours(full))
    part("first merge of the pair (looks for NaN)", took)
    part("memory of it, MiB", found)
    whole: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 if part.tiny else 2):
        for name, run in contenders.items():
            measuring.unload()
            whole[name].append(measuring.seconds(functools.partial(run, full)))
    part("merge and first step", whole | {"ratio": ratio(whole)})
    last = layout.blocks[-1]
    for block in ("IN04", "M00", "OUT05" if "OUT05" in full else last):
        moves: dict[str, list[float]] = {name: [] for name in contenders}
        for name, run in contenders.items():
            run(full)
            for _ in range(1 if part.tiny else 3):
                changed = full | {block: next(values) / 1000}
                moves[name].append(measuring.seconds(functools.partial(run, changed)))
        part(f"one slider, {block}", moves | {"ratio": ratio(moves)})


def ratio(times: dict[str, list[float]]) -> float:
    """Ours over core's, fastest runs."""
    return round(min(times["ours"]) / min(times["core"]), 3)


def exact(part: measuring.Part) -> None:
    """Elements of merged weights on the device that differ from the exact sum, rounded once."""
    for name, dtype in (("float16", None), ("bfloat16", torch.bfloat16), ("float8", torch.float8_e4m3fn)):
        a, b = measuring.pair(part, "sd15", **({} if dtype is None else {"dtype": dtype}))
        stored = [host.stored_tensors(model, "diffusion_model.") for model in (a, b)]
        model = host.merge_models(a, b, "0.3")[0]
        measuring.sample(part, "sd15", model, measuring.conditioning(a, 1), measuring.conditioning(a, 2))
        have, wrong, total = measuring.loaded_weights(model), 0, 0
        for key in sorted(model.patches.keys() & have.keys())[::7]:
            if have[key].dtype == torch.float32:
                continue  # computed in it, so that the last bit is the arithmetic's
            x, y = (tensors[key].to("cpu", copy=True).double() for tensors in stored)
            got = have[key].to("cpu", copy=True)
            wrong += int((got.float() != (x * 0.7 + y * 0.3).to(got.dtype).float()).sum())
            total += got.numel()
        part(f"{name}: elements not correctly rounded", f"{wrong} of {total}")
        measuring.unload()


def injecting(part: measuring.Part) -> None:
    """Steps per second without and with injection, and waits per step."""
    model = injection.prepare(measuring.pair(part, "sd15")[0])
    positive, negative = measuring.conditioning(model, 1), measuring.conditioning(model, 2)
    blocks = injection.blocks_of(model)
    other = stretches(measuring.conditioning(model, 3), blocks)
    carried = {
        "none": positive,
        "all blocks": Change((entry(parse("all", blocks), other),)).on(positive),
        "with windows": Change((entry(parse("IN04@0.2-0.7=0.5, M00, OUT05@0.4-1.0/k", blocks), other),)).on(
            positive
        ),
    }
    steps, times = 2 if part.tiny else 20, {}
    for name, conditioning in carried.items():
        run = functools.partial(measuring.sample, part, "sd15", model, conditioning, negative, steps)
        run()
        times[name] = min(measuring.seconds(run) for _ in range(1 if part.tiny else 2))
        with measuring.waits(part.setup) as found:
            run()
        part(name, {"steps per second": round(steps / times[name], 2), "waits per step": len(found) / steps})
    part("time of all blocks over none", round(times["all blocks"] / times["none"], 3))


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


PARTS: dict[str, Callable[[measuring.Part], None]] = {
    "files_sd15": functools.partial(unet_files, "sd15"),
    "slider_sd15": functools.partial(slider, "sd15"),
    "exact": exact,
    "injection": injecting,
    "stages": stages,
    "unet": functools.partial(forward, compiled=False),
    "files_sdxl": functools.partial(unet_files, "sdxl"),
    "slider_sdxl": functools.partial(slider, "sdxl"),
    "compiled": compiled,
}
