"""The parts of the GPU check, by name; each takes a ``measuring.Part`` and gives it figures."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.sd
import folder_paths
import measuring
import models
import torch
from blockwork.blocks.spec import parse
from blockwork.injection import host as injection
from blockwork.injection import host_train
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection as entry
from blockwork.injection.host_change import Change
from blockwork.injection.train import Recipe
from blockwork.merge.live import host
from blockwork.merge.lora import host as lora_host
from comfy_extras.nodes_model_merging import ModelMergeBlocks
from parts_cascade import compiled, forward, stages
from safetensors.torch import load_file, save_file

SIDES = {"sd15": 64, "sdxl": 128, "z_image": 64, "anima": 64}  # of a latent
RANK = 16


def slider(kind: str, part: measuring.Part, form: str = "") -> None:
    """Seconds of node, load and first step: the whole merge and one slider, beside core's ModelMergeBlocks."""
    if part.tiny and kind == "sdxl":
        return part("left out", "its tiny models are those of slider_sd15")
    a, b = models.pair(part, kind, form)
    sample, prompts = models.sampler(part, a, SIDES[kind]), [models.conditioning(a, seed) for seed in (1, 2)]
    blocks = models.blocks_of(a)
    full = {name: 0.1 + 0.8 * number / (len(blocks) - 1) for number, name in enumerate(blocks)}
    values = itertools.count(1)

    def ours(weights: dict[str, float]) -> None:
        text = ", ".join(f"{name}={value!r}" for name, value in weights.items())
        sample(host.merge_models(a, b, text)[0], *prompts)

    def core(weights: dict[str, float]) -> None:
        sample(ModelMergeBlocks().merge(a, b, **models.core_ratios(a, weights))[0], *prompts)

    contenders = {"ours": ours, "core": core}
    if form:
        del contenders["core"]
        part("core", f"ModelMergeBlocks cannot read models with {form} layers")
    named = f" {form}".rstrip()
    part(f"A alone, first step{named}", measuring.seconds(lambda: sample(a, *prompts)))
    with measuring.memory() as found:
        took = measuring.seconds(lambda: ours(full))
    part(f"first merge of the pair{named} (looks for NaN)", took)
    part(f"memory of it{named}, MiB", found)
    moved = [name for name in ("IN04", "M00", "OUT05") if name in full] or [
        blocks[len(blocks) // 2],
        blocks[-1],
    ]
    whole: dict[str, list[float]] = {name: [] for name in contenders}
    moves = {block: {name: list[float]() for name in contenders} for block in moved}
    for _ in range(1 if part.tiny else 2):
        for name, run in contenders.items():
            measuring.unload()
            whole[name].append(measuring.seconds(functools.partial(run, full)))
            weights = dict(full)
            for block in moved[:1] if part.tiny else moved * 2:
                weights[block] = next(values) / 1000
                moves[block][name].append(measuring.seconds(functools.partial(run, dict(weights))))
    part(f"merge and first step{named}", _compared(whole))
    for block in moved[:1] if part.tiny else moved:
        part(f"one slider, {block}{named}", _compared(moves[block]))


def transformer(part: measuring.Part) -> None:
    """A merge by block of Z-Image's shape, in bfloat16 and with fp8_scaled layers."""
    slider("z_image", part)
    measuring.unload()
    if part.setup.kind == "simulated":
        return part("fp8_scaled", "left out: the simulated GPU cannot copy quantised tensors")
    slider("z_image", part, "fp8_scaled")


def _compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds with the ratio of the fastest runs, ours over core's."""
    if "core" not in times:
        return dict(times)
    return times | {"ratio": round(min(times["ours"]) / min(times["core"]), 3)}


def exact(part: measuring.Part) -> None:
    """Elements of merged weights on the device that differ from the exact sum, rounded once."""
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        a, b = models.pair(part, "sd15", dtype=dtype)
        stored = [host.stored_tensors(model, models.UNET) for model in (a, b)]
        model = host.merge_models(a, b, "0.3")[0]
        models.sampler(part, a, SIDES["sd15"])(model, models.conditioning(a, 1), models.conditioning(a, 2))
        have, wrong, total = measuring.loaded_weights(model), 0, 0
        for key in sorted(model.patches.keys() & have.keys())[::7]:
            if have[key].dtype != dtype:
                continue  # core computes a few layers in float32, where the last bit is the arithmetic's
            x, y = (tensors[key].to("cpu", copy=True).double() for tensors in stored)
            got = have[key].to("cpu", copy=True)
            wrong += int((got.float() != (x * 0.7 + y * 0.3).to(dtype).float()).sum())
            total += got.numel()
        name = str(dtype).removeprefix("torch.")
        part(f"{name}: elements not correctly rounded", f"{wrong} of {total}")
        measuring.unload()


def injecting(kind: str, part: measuring.Part) -> None:
    """Steps per second without and with injection, and waits per step."""
    model = injection.prepare(models.load(part, kind))
    positive, negative = models.conditioning(model, 1), models.conditioning(model, 2)
    blocks = injection.blocks_of(model)
    other = stretches(models.conditioning(model, 3), blocks)
    first, *_, last = [block.name for block in blocks.attending]
    windows = f"{first}@0.2-0.7=0.5, {last}@0.4-1.0/k"
    carried = {
        "none": positive,
        "all blocks": Change((entry(parse("all", blocks), other),)).on(positive),
        "with windows": Change((entry(parse(windows, blocks), other),)).on(positive),
    }
    sample, steps, times = models.sampler(part, model, SIDES[kind]), 2 if part.tiny else 20, {}
    for name, conditioning in carried.items():
        run = functools.partial(sample, model, conditioning, negative, steps)
        run()
        times[name] = min(measuring.seconds(run) for _ in range(1 if part.tiny else 2))
        figures: dict[str, Any] = {"steps per second": round(steps / times[name], 2)}
        with measuring.waits(part.setup) as found:
            run()
        if found is not None:
            figures["waits per step"] = len(found) / steps
        part(name, figures)
    part("time of all blocks over none", round(times["all blocks"] / times["none"], 3))


def lora(part: measuring.Part) -> None:
    """Seconds of node, load and first step after one block of a LoRA moved, beside core's loader with another strength."""
    model = models.load(part, "sd15")
    state, tensors = model.model.state_dict(), {}
    generator = torch.Generator().manual_seed(1)
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if name.startswith("lora_unet_") and "transformer_blocks" in name and state[key].ndim == 2:
            rows, columns = state[key].shape
            tensors[f"{name}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator) * 0.01
            tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, columns, generator=generator) * 0.01
    file = part.setup.work / "lora.safetensors"
    save_file(tensors, file)
    folder_paths.folder_names_and_paths["loras"] = ([str(part.setup.work)], {".safetensors"})
    folder_paths.filename_list_cache.clear()
    held, values = load_file(file), itertools.count(1)
    sample, prompts = (
        models.sampler(part, model, SIDES["sd15"]),
        [models.conditioning(model, n) for n in (1, 2)],
    )

    def ours() -> None:
        text = f"IN04={next(values) / 1000}"
        sample(lora_host.load_by_block(model, None, file.name, 1.0, 1.0, text).model, *prompts)

    def core() -> None:
        sample(comfy.sd.load_lora_for_models(model, None, held, 1 - next(values) / 1000, 0)[0], *prompts)

    times: dict[str, list[float]] = {"ours": [], "core": []}
    for name, run in (("ours", ours), ("core", core)):
        run()
        times[name] = [measuring.seconds(run) for _ in range(1 if part.tiny else 3)]
    part("one block of a LoRA, IN04", _compared(times))


def xti(part: measuring.Part) -> None:
    """Training steps per second of XTI on SD1.5's shape, at 512 pixels with batches of one image."""
    if part.setup.kind == "simulated":
        return part("left out", "the simulated GPU has no autograd")
    model, clip = models.load(part, "sd15"), models.text_encoder(part)
    side, times = 8 if part.tiny else SIDES["sd15"], {}
    images = [torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))]
    what = host_train.task(model, clip, "gem: stone", [], None, images, (), "object", "", "XTI", 1)
    how = host_train.Options("fp32" if part.tiny else "bf16", resumable=False)
    few, many = (1, 2) if part.tiny else (3, 13)
    for steps in (few, many):
        recipe = Recipe(steps=steps, density=0.0)
        with measuring.memory() as found:
            times[steps] = measuring.seconds(
                functools.partial(host_train.train, model, clip, what, recipe, how)
            )
    part("steps per second", round((many - few) / max(times[many] - times[few], 1e-9), 3))
    part(
        "seconds before the first step",
        round(times[few] - few * (times[many] - times[few]) / (many - few), 2),
    )
    part("memory, MiB", found)


PARTS: dict[str, Callable[[measuring.Part], None]] = {
    "slider_sd15": functools.partial(slider, "sd15"),
    "slider_sdxl": functools.partial(slider, "sdxl"),
    "exact": exact,
    "injection": functools.partial(injecting, "sd15"),
    "stages": stages,
    "unet": functools.partial(forward, compiled=False),
    "transformer": transformer,
    "lora": lora,
    "anima": functools.partial(injecting, "anima"),
    "xti": xti,
    "compiled": compiled,
}
