"""What the parts share: figures, clocks, memory and waits."""

import contextlib
import gc
import json
import os
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
import comfyui_version
import torch

inference = torch.inference_mode


@dataclass
class Setup:
    """How this process runs, and what its parts found."""

    kind: str
    mode: str
    work: Path
    file: Path
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.kind != "gpu"

    def part(self, name: str) -> "Part":
        found = self.found[name] = {"ended": "", "seconds": 0.0, "figures": {}}
        return Part(self, found, time.monotonic())

    def write(self) -> None:
        about = {
            "card": torch.cuda.get_device_name() if self.kind != "cpu" else "none, CPU",
            "torch": torch.__version__,
            "ComfyUI": comfyui_version.__version__,
            "patcher": comfy.model_patcher.CoreModelPatcher.__name__,
        }
        text = json.dumps({"about": about, "parts": self.found}, default=str)
        half = self.file.with_suffix(".part")
        half.write_text(text, encoding="utf-8")
        half.replace(self.file)


@dataclass
class Part:
    """Called with a name and a value, it keeps a figure and writes the file."""

    setup: Setup
    found: dict[str, Any]
    began: float

    def __call__(self, name: str, value: Any) -> None:
        self.found["figures"][name] = value
        self.setup.write()
        print(f"   {name}: {json.dumps(value, default=str)[:300]}", flush=True)

    def end(self, how: str) -> None:
        self.found |= {"ended": how, "seconds": round(time.monotonic() - self.began, 1)}
        self.setup.write()

    def stop(self) -> None:
        """End the process: the part has reached its limit."""
        self.end("stopped at its limit")
        os._exit(1)

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


@contextlib.contextmanager
def whole_layers() -> Iterator[None]:
    """Layers that are made within have weights; under dynamic loading core leaves them out until a file is loaded."""
    before, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    try:
        yield
    finally:
        comfy.memory_management.aimdo_enabled = before


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
def waits(setup: Setup) -> Iterator[list[str] | None]:
    """The operations within that make the CPU wait for the GPU, by torch's own detector; None without a GPU."""
    if setup.kind != "gpu":
        yield None
        return
    found: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield found
        torch.cuda.set_sync_debug_mode("default")
    found.extend(f"{one.filename}:{one.lineno}" for one in seen if "synchroniz" in str(one.message))


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
