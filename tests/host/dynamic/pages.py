"""Host memory behind comfy_aimdo's Python API: pages of weights, pinned buffers, cast buffers.

Pages that are evicted are overwritten with NaN and come back under another number, so that a stale weight shows.
"""

import ctypes
import itertools
import weakref
from types import SimpleNamespace

import torch
from device import VRAM, DeviceTensor

PAGE = 64 << 10  # 32 MiB on a GPU; small here, so that tiny models have many
LIMIT = [VRAM]  # bytes that all pages together may take
_numbers = itertools.count(1)
_models: list[weakref.ref] = []  # newest first


def models() -> list["ModelVBAR"]:
    return [model for found in _models if (model := found()) is not None]


def used() -> int:
    return sum(model.loaded_size() for model in models())


class ModelVBAR:
    """One model's address range; a page is resident while its number is not 0."""

    def __init__(self, size, device):
        self.max_size, self.offset, self.device = int(size), 0, device
        self.memory = torch.empty(self.max_size + PAGE, dtype=torch.uint8)
        self.base_addr = self.memory.data_ptr()
        self.numbers = [0] * (self.max_size // PAGE + 2)
        self.pins = [0] * len(self.numbers)
        self.prioritize()

    def prioritize(self, malloc_async_clamp=None):
        _models[:] = [weakref.ref(self), *(found for found in _models if found() not in (None, self))]

    def deprioritize(self): ...

    def alloc(self, num_bytes):
        self.offset = (self.offset + 511) & ~511
        if self.offset + num_bytes > self.max_size:
            raise MemoryError("VBAR OOM")
        address = self.base_addr + self.offset
        self.offset += num_bytes
        return (self, address, num_bytes)

    def _pages(self, address, size):
        start = address - self.base_addr
        return range(start // PAGE, (start + max(size, 1) - 1) // PAGE + 1)

    def fault(self, alloc, size):
        pages = self._pages(alloc, size)
        for page in pages:
            if not self.numbers[page]:
                if used() + PAGE > LIMIT[0] and not _evict(self):
                    return None
                self.numbers[page] = next(_numbers)
        for page in pages:
            self.pins[page] += 1
        signature = (ctypes.c_uint32 * (size // PAGE + 2))()
        signature[: len(pages)] = [self.numbers[page] for page in pages]
        return signature

    def unpin(self, alloc, size):
        for page in self._pages(alloc, size):
            self.pins[page] -= 1
            assert self.pins[page] >= 0, "unpinned more often than faulted in"

    def loaded_size(self):
        return PAGE * sum(number > 0 for number in self.numbers)

    def free_memory(self, size_bytes):
        freed = 0
        for page in reversed(range(len(self.numbers))):
            if freed >= size_bytes:
                break
            if self.numbers[page] and self.pins[page] <= 0:
                self.numbers[page] = 0
                ctypes.memset(self.base_addr + page * PAGE, 0xFF, PAGE)
                freed += PAGE
        return freed

    def set_watermark_limit(self, size_bytes): ...
    def set_watermark(self, size_bytes): ...
    def get_watermark(self):
        return 0

    def get_nr_pages(self):
        return len(self.numbers)

    def get_residency(self):
        return [bool(n) | bool(p) << 1 for n, p in zip(self.numbers, self.pins, strict=True)]


def _evict(keep: ModelVBAR) -> bool:
    return any(model.free_memory(PAGE) for model in reversed(models()) if model is not keep)


class HostBuffer:
    def __init__(self, size, prewarm=0, max_grow_size=0, mark_cold=True):
        self.most = max(int(size), int(max_grow_size))
        self.memory = torch.empty(max(self.most, 1), dtype=torch.uint8)
        self.size = int(size)

    def get_raw_address(self):
        return self.memory.data_ptr()

    def extend(self, size, reallocate=False, register=True):
        if self.size + int(size) > self.most:
            raise RuntimeError("HostBuffer.extend failed")
        self.size += int(size)
        return self.get_raw_address()

    def truncate(self, size, do_unregister=True):
        self.size = int(size)


class VRAMBuffer:
    def __init__(self, max_size, device):
        self.memory = torch.empty(64 << 20, dtype=torch.uint8)
        self.most = 0

    def size(self):
        return self.most

    def get(self, size, offset=0):
        assert size + offset <= self.memory.numel(), "cast buffer too small"
        self.most = max(self.most, int(size + offset))
        return (self, self.memory.data_ptr() + int(offset), int(size))


def aimdo_to_tensor(alloc, device):
    _, address, size = alloc
    return DeviceTensor(_bytes(address, size))


def hostbuf_to_tensor(hostbuf):
    return _bytes(hostbuf.get_raw_address(), hostbuf.size)


def _bytes(address, size):
    # torch.frombuffer refuses what core asks for when a patch holds no tensor: 0 bytes
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)


def install() -> None:
    """Before ComfyUI is imported."""
    import comfy_aimdo.control as control
    import comfy_aimdo.host_buffer as host_buffer
    import comfy_aimdo.model_vbar as model_vbar
    import comfy_aimdo.torch as aimdo_torch
    import comfy_aimdo.vram_buffer as vram_buffer

    control.lib, control.devctxs = SimpleNamespace(_name="simulated"), [0]
    control.get_total_vram_usage = used
    host_buffer.HostBuffer = HostBuffer
    host_buffer.cleanup_file_reader = lambda: None
    model_vbar.ModelVBAR = ModelVBAR
    model_vbar.vbars_reset_watermark_limits = lambda: None
    model_vbar.vbars_analyze = lambda device=None: used()
    aimdo_torch.aimdo_to_tensor, aimdo_torch.hostbuf_to_tensor = aimdo_to_tensor, hostbuf_to_tensor
    vram_buffer.VRAMBuffer = VRAMBuffer
