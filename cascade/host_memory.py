"""One model at a time: load it with nothing else resident, use it, free it, and report the memory it took."""

import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.model_management
import psutil
import torch

LOG = logging.getLogger("blockwork")
MIB = 1024 * 1024
POLL_SECONDS = 0.02

Result = TypeVar("Result")


@dataclass
class Entry:
    """What one model took: weights, RAM before, at most and after (bytes), VRAM added at most, and seconds."""

    label: str
    weights: int = 0
    ram_before: int = 0
    ram_peak: int = 0
    ram_after: int = 0
    vram_peak: int = 0
    loading: float = 0.0
    running: float = 0.0
    freeing: float = 0.0
    skipped: str = ""

    def line(self) -> str:
        """The entry as one line of the report."""
        if self.skipped:
            return f"{self.label}: {self.skipped}"
        vram = f", VRAM peak {self.vram_peak / MIB:.0f} MiB" if self.vram_peak else ""
        return (
            f"{self.label}: weights {self.weights / MIB:.1f} MiB, RAM {self.ram_before / MIB:.0f} -> "
            f"peak {self.ram_peak / MIB:.0f} -> {self.ram_after / MIB:.0f} MiB{vram}, "
            f"load {self.loading:.1f} s, run {self.running:.1f} s, free {self.freeing:.1f} s"
        )


class Ledger:
    """The entries of one cascade, in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def skip(self, label: str, reason: str) -> None:
        """Note a model that did not have to be loaded."""
        self.entries.append(Entry(label, skipped=reason))

    def text(self) -> str:
        """The report: one line per model, then the largest."""
        if not self.entries:
            return ""
        largest = max(self.entries, key=lambda entry: entry.weights)
        summed = sum(entry.weights for entry in self.entries)
        return "\n".join(
            [
                *(entry.line() for entry in self.entries),
                f"largest model {largest.label} with {largest.weights / MIB:.1f} MiB; together they would be "
                f"{summed / MIB:.1f} MiB",
            ]
        )


def alone(ledger: Ledger, label: str, load: Callable[[], Any], use: Callable[[Any], Result]) -> Result:
    """``use(load())`` with no other model resident before, and none of this one after, error or not.

    ``load`` returns an object with a ModelPatcher as ``patcher``, or a ModelPatcher itself.
    """
    release()
    entry = Entry(label)
    ledger.entries.append(entry)
    started = time.perf_counter()
    model = None
    with _Watch(entry):
        try:
            model = load()
            entry.weights = getattr(model, "patcher", model).model_size()
            entry.loading = time.perf_counter() - started
            result = use(model)
            entry.running = time.perf_counter() - started - entry.loading
        except BaseException as error:
            # The traceback's frames would hold the model for as long as the error is kept.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            del model
            freeing = time.perf_counter()
            release()
            entry.freeing = time.perf_counter() - freeing
    LOG.info("cascade: %s", entry.line())
    return result


def release() -> None:
    """Unload every model ComfyUI holds in VRAM and give unreferenced memory back."""
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.cleanup_models()
    comfy.model_management.soft_empty_cache()


class _Watch:
    """Measures a model's memory in its own thread and writes the peaks into the entry."""

    def __init__(self, entry: Entry):
        self.entry = entry
        self.process = psutil.Process()
        self.vram_before = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self.entry.ram_before = self.entry.ram_peak = self.process.memory_info().rss
        if _on_cuda():
            torch.cuda.reset_peak_memory_stats()
            self.vram_before = vram_in_use()
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if _on_cuda():
            self.entry.vram_peak = max(self.entry.vram_peak, torch.cuda.max_memory_allocated())
        self.entry.ram_after = self.process.memory_info().rss

    def _follow(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            self.entry.ram_peak = max(self.entry.ram_peak, self.process.memory_info().rss)
            if _on_cuda():
                self.entry.vram_peak = max(self.entry.vram_peak, vram_in_use() - self.vram_before)


def _on_cuda() -> bool:
    return torch.cuda.is_available() and not comfy.model_management.cpu_mode()


def vram_in_use() -> int:
    """Bytes of VRAM in use by the driver's count.

    Torch's own counters leave out the pages of weights that ComfyUI loads dynamically.
    """
    free, total = torch.cuda.mem_get_info(comfy.model_management.get_torch_device())
    return total - free
