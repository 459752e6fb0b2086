"""A simulated GPU for tests: tensors that report ``cuda:0`` and keep their values in host memory.

Every operation is intercepted below autograd (a dispatch mode) and run by the CPU kernel. Operands on two devices
raise as CUDA does, and every operation that makes the CPU wait for a GPU is counted. Inference mode only: outside of
it composite operations reach CUDA kernels.
"""

import contextlib
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
VRAM = 8 << 30

WAITS: Counter[str] = Counter()  # operations that wait for the device, by kind and line
MOVED: Counter[str] = Counter()  # bytes copied between the memories: "to device", "to host"

_WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default,
    aten.masked_select.default, aten._unique2.default, aten.bincount.default,
}  # fmt: skip
_TO = {aten._to_copy.default, aten.to.device, aten.to.dtype_layout, aten.to.other}
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_DATA = torch.Tensor.data
_READING = tuple(
    getattr(torch.Tensor, name)
    for name in (
        "__float__",
        "__int__",
        "__bool__",
        "__index__",
        "__complex__",
        "item",
        "tolist",
        "__contains__",
    )
)
_TWO_DEVICES = {aten.copy_.default, aten.index.Tensor, aten.index_put_.default, *_INDEXING} | _TO


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device around its values in host memory."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor):
        wrapper = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype, device=GPU
        )  # fmt: skip
        wrapper.host = host
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, **_):  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"DeviceTensor({self.host!r})"


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor of either memory, as a tensor of the CPU over the same bytes."""
    return tensor.host if isinstance(tensor, DeviceTensor) else tensor.detach()


def _line() -> str:
    """The innermost line of ComfyUI or the pack that led here."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/" not in name and not name.endswith("dynamic/device.py"):
            return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _copied(source: torch.Tensor, to_device: bool, non_blocking: bool) -> None:
    MOVED["to device" if to_device else "to host"] += source.nbytes
    if not non_blocking:
        WAITS[f"{'to device' if to_device else 'to host'} @ {_line()}"] += 1


def _mapped(value: Any, change: Any) -> Any:
    """``value`` with every leaf changed; arguments of operations are tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        return type(value)([_mapped(entry, change) for entry in value])
    if isinstance(value, dict):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    return change(value)


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    wrapped: dict[int, DeviceTensor] = {}
    mixed = False
    placed = None

    def inside(value: Any) -> Any:
        nonlocal mixed, placed
        if isinstance(value, DeviceTensor):
            wrapped[id(value.host)] = value
            return value.host
        if isinstance(value, torch.device):
            placed = value.type == "cuda"
            return CPU
        mixed = mixed or (isinstance(value, torch.Tensor) and value.ndim > 0)
        return value

    inner_args, inner_kwargs = _mapped(args, inside), _mapped(kwargs, inside)
    on_device = bool(wrapped) if placed is None else placed
    if func is aten.to.other:
        on_device = isinstance(args[1], DeviceTensor)
    if wrapped and mixed and func not in _TWO_DEVICES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two ({func})")
    if wrapped and (func in _WAITING or func in _READING or _masked(func, args)):
        WAITS[f"{getattr(func, '__name__', func)} @ {_line()}"] += 1
    moves = func in _TO and isinstance(args[0], DeviceTensor) != on_device
    if moves:
        _copied(args[0], on_device, kwargs.get("non_blocking", func is aten.to.device and True in args[3:4]))
    if func is aten.copy_.default:
        on_device = isinstance(args[0], DeviceTensor)
        if isinstance(args[1], DeviceTensor) != on_device:
            _copied(args[1], on_device, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    result = func(*inner_args, **inner_kwargs)
    if moves and result is inner_args[0]:
        result = result.clone()
    if not on_device:
        return result
    usual = all(
        value.is_inference() for value in wrapped.values()
    )  # a view of a normal tensor is a normal one

    def outside(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        known = wrapped.get(id(value))
        assert known is None or known.shape == value.shape, f"{func} changes its operand's shape"
        return DeviceTensor(value) if known is None else known

    with contextlib.nullcontext() if usual else torch.inference_mode(False):
        return _mapped(result, outside)


def _masked(func: Any, args: tuple) -> bool:
    """Whether an index is a mask, or a number that lies on the device."""
    if func not in (aten.index.Tensor, aten.index_put_.default, *_INDEXING):
        return False
    found = [index for index in pytree.tree_leaves(args[1]) if isinstance(index, torch.Tensor)]
    return any(
        index.dtype == torch.bool or (index.ndim == 0 and isinstance(index, DeviceTensor)) for index in found
    )


class _Everything(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Bindings(torch.overrides.TorchFunctionMode):
    """Methods whose Python bindings do more than the operation: they ask for a real device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            made = func(*args, **(kwargs | {"device": CPU}))
            return made.to(kwargs["device"])
        if func is torch._has_compatible_shallow_copy_type:
            return isinstance(args[0], DeviceTensor) == isinstance(args[1], DeviceTensor)
        if func is torch.Tensor.copy_:
            return aten.copy_.default(*args, **kwargs)
        if func == _DATA.__get__ and isinstance(args[0], DeviceTensor):
            return DeviceTensor(args[0].host)
        if func in (
            *_INDEXING,
            *_READING,
            torch.Tensor.contiguous,
            torch.Tensor.nonzero,
            torch.Tensor.__invert__,
        ) and isinstance(args[0], DeviceTensor):
            return _run(func, args, {})
        return func(*args, **kwargs)


class _Stream:
    cuda_stream = 0

    def __init__(self, *_, **__): ...
    def wait_stream(self, other): ...
    def wait_event(self, event): ...
    def synchronize(self): ...
    def record_event(self, event=None):
        return event


class _Generator(torch.Generator):
    """Draws on the CPU, for either device."""

    def __new__(cls, device=None):
        return super().__new__(cls, CPU)


def install(used) -> None:
    """Make torch.cuda report one GPU of which ``used()`` bytes are taken, and send its operations to the CPU."""
    registration = SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0)
    stream = _Stream()
    properties = SimpleNamespace(
        name="NVIDIA simulated",
        major=9,
        minor=0,
        total_memory=VRAM,
        multi_processor_count=100,
        gcnArchName="",
    )
    empty = {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0}
    for name, value in {
        "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1,
        "current_device": lambda: 0, "set_device": lambda _: None, "synchronize": lambda _=None: None,
        "memory_stats": lambda _=None: empty, "mem_get_info": lambda _=None: (VRAM - used(), VRAM),
        "get_device_properties": lambda _=None: properties, "get_device_name": lambda _=None: properties.name,
        "get_device_capability": lambda _=None: (9, 0), "get_allocator_backend": lambda: "cudaMallocAsync",
        "is_bf16_supported": lambda *_, **__: True, "empty_cache": lambda: None, "ipc_collect": lambda: None,
        "current_stream": lambda _=None: stream, "Stream": _Stream, "stream": lambda _: contextlib.nullcontext(),
        "cudart": lambda: registration, "reset_peak_memory_stats": lambda _=None: None,
        "max_memory_allocated": lambda _=None: 0, "memory_allocated": lambda _=None: 0, "init": lambda: None,
        "manual_seed_all": lambda _: None, "_exchange_device": lambda _: 0, "_maybe_exchange_device": lambda _: 0,
    }.items():  # fmt: skip
        setattr(torch.cuda, name, value)
    torch.Generator = _Generator
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _Bindings().__enter__()
    _Everything().__enter__()
