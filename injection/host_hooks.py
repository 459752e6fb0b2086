"""Changes what single modules of a model are given, for one call of the model: torch's own hooks on modules.

They act whatever other nodes put around a block, and are gone when the call returns.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


def before(
    stack: ExitStack, module: nn.Module, change: Callable[[Arguments, Keywords], tuple[Arguments, Keywords]]
) -> None:
    """Until ``stack`` closes, the module gets what ``change`` makes of its arguments."""

    def hook(_: nn.Module, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        return change(args, kwargs)

    stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def with_argument(
    args: Arguments, kwargs: Keywords, place: int, name: str, value: Any
) -> tuple[Arguments, Keywords]:
    """Arguments with one of them replaced, wherever it was given: by place or by name."""
    if name in kwargs:
        return args, {**kwargs, name: value}
    return (*args[:place], value, *args[place + 1 :]), kwargs


@dataclass(frozen=True)
class Pair:
    """An attention with one layer for its keys and one for its values, which get its text as it is."""

    keys: nn.Module
    values: nn.Module

    def text(self, stack: ExitStack, keys: Tensor, values: Tensor) -> Tensor:
        """The text to give the attention so that its keys and values come of these two, of one length."""
        if keys is not values:
            before(stack, self.values, lambda args, kwargs: ((values, *args[1:]), kwargs))
        return keys


@dataclass(frozen=True)
class Halves(Pair):
    """The same where the text is changed token by token on its way, or follows other tokens."""

    def text(self, stack: ExitStack, keys: Tensor, values: Tensor) -> Tensor:
        if keys is values:
            return keys
        length = keys.shape[1]

        def half(number: int) -> Callable[[Arguments, Keywords], tuple[Arguments, Keywords]]:
            def cut(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
                pieces = args[0].split([args[0].shape[1] - 2 * length, length, length], 1)
                return (torch.cat([pieces[0], pieces[number]], 1), *args[1:]), kwargs

            return cut

        before(stack, self.keys, half(1))
        before(stack, self.values, half(2))
        return torch.cat([keys, values], 1)


@dataclass(frozen=True)
class Fused:
    """An attention with one layer for both: the last part of what it returns are the values."""

    both: nn.Module
    parts: int = 2

    def text(self, stack: ExitStack, keys: Tensor, values: Tensor) -> Tensor:
        """The text to give the attention so that its keys and values come of these two, of one length."""
        if keys is values:
            return keys

        def joined(module: nn.Module, _: Any, out: Tensor) -> Tensor:
            start = out.shape[-1] // self.parts * (self.parts - 1)
            return torch.cat([out[..., :start], module.forward(values)[..., start:]], -1)

        stack.callback(self.both.register_forward_hook(joined).remove)
        return keys


_lock = threading.Lock()
_running = 0
_before: Any = None  # what holds the stance of before the first of them


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run modules as they are: what torch.compile made of them earlier does not know these hooks."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    global _running, _before
    with _lock:
        _running += 1
        if _running == 1:
            _before = torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _before.__exit__(None, None, None)
