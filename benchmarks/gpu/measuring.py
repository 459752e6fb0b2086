"""What the parts share: figures, clocks, memory, waits, and pairs of models."""

import contextlib
import gc
import json
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.memory_management
import comfy.model_management as management
import comfy.model_patcher
import comfy.model_prefetch
import comfy.sample
import comfy.sd
import comfyui_version
import torch

SIDES = {"sd15": 64, "sdxl": 128}  # latent sides of the usual image
inference = torch.inference_mode


@dataclass
class Setup:
    """How this process runs, and the figures of its parts."""

    kind: str
    mode: str
    work: Path
    file: Path
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.kind != "gpu"

    def part(self, name: str) -> "Part":
        return Part(self, self.figures.setdefault(name, {}))

    def write(self) -> None:
        about = {
            "card": torch.cuda.get_device_name() if self.kind != "cpu" else "none, CPU",
            "torch": torch.__version__,
            "ComfyUI": comfyui_version.__version__,
            "patcher": comfy.model_patcher.CoreModelPatcher.__name__,
        }
        text = json.dumps({"about": about, "parts": self.figures}, default=str)
        self.file.write_text(text, encoding="utf-8")


@dataclass
class Part:
    """Called with a name and a value, it keeps a figure and writes the file."""

    setup: Setup
    figures: dict[str, Any]

    def __call__(self, name: str, value: Any) -> None:
        self.figures[name] = value
        self.setup.write()
        print(f"   {name}: {json.dumps(value, default=str)[:300]}", flush=True)

    @property
    def tiny(self) -> bool:
        return self.setup.tiny


def synchronize() -> None:
    if not management.cpu_mode():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of a call, until the device has finished."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return round(time.perf_counter() - began, 4)


def milliseconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of ``rounds`` calls after two that are not counted."""
    for _ in range(2):
        work()
    return round(statistics.median(seconds(work) for _ in range(rounds)) * 1e3, 3)


def end_of_node() -> None:
    """What core's executor does after every node."""
    if comfy.memory_management.aimdo_enabled:
        management.reset_cast_buffers()
        comfy.model_prefetch.cleanup_prefetch_queues()


def unload() -> None:
    with inference():
        management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()


@contextlib.contextmanager
def memory() -> Iterator[dict[str, int]]:
    """Peak of the card's memory in use within, in MiB, polled: torch does not count the pages of dynamic loading."""
    found: dict[str, int] = {}
    if management.cpu_mode():
        yield found
        return
    over, peak, before = threading.Event(), [0], _in_use()

    def follow() -> None:
        while not over.wait(0.004):
            peak[0] = max(peak[0], _in_use())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    yield found
    over.set()
    thread.join()
    found.update(before=before >> 20, peak=peak[0] >> 20, after=_in_use() >> 20)


def _in_use() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


@contextlib.contextmanager
def waits(setup: Setup) -> Iterator[list[str]]:
    """The operations within that make the CPU wait for the GPU, by torch's own detector."""
    found: list[str] = []
    if setup.kind != "gpu":
        yield found
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield found
        torch.cuda.set_sync_debug_mode("default")
    found.extend(f"{one.filename}:{one.lineno}" for one in seen if "synchroniz" in str(one.message))


def files(setup: Setup, kind: str) -> list[Path]:
    return [setup.work / f"{kind}_{letter}.safetensors" for letter in "ab"]


def pair(part: Part, kind: str, **options: Any) -> list[Any]:
    """Two U-Nets of a kind, loaded as core's loader loads files; the demo models without a GPU."""
    if part.tiny:
        from blockwork.demo_models import host as demo

        return [demo.load_model(name) for name in ("base", "ink")]
    return [
        comfy.sd.load_diffusion_model(str(path), model_options=options) for path in files(part.setup, kind)
    ]


def conditioning(model: Any, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    config = model.model.model_config.unet_config
    pooled = torch.randn(
        1, 1280 if config.get("adm_in_channels") else config["context_dim"], generator=generator
    )
    return [[torch.randn(1, 77, config["context_dim"], generator=generator), {"pooled_output": pooled}]]


def sample(part: Part, kind: str, model: Any, positive: list, negative: list, steps: int = 1) -> torch.Tensor:
    side = 8 if part.tiny else SIDES[kind]
    latent = torch.zeros(1, 4, side, side)
    noise = comfy.sample.prepare_noise(latent, 3)
    result = comfy.sample.sample(
        model, noise, steps, 5.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=3
    )
    end_of_node()
    return result


def loaded_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights that the model computes with now, by key, pages included."""
    found = {}
    for name, module in model.model.named_modules():
        for part in ("weight", "bias"):
            page = getattr(module, f"_v_{part}", None)
            if hasattr(module, "_v"):
                if module._v_signature is not None and page is not None:
                    found[f"{name}.{part}"] = page
            elif isinstance(getattr(module, part, None), torch.Tensor):
                found[f"{name}.{part}"] = getattr(module, part).detach()
    return found
