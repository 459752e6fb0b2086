"""The header of a safetensors file: the one place that decides whether a file can be read.

Every file is checked here when it is opened, and every file that is written is checked here before it gets its
name. The rules are those of the safetensors format: https://github.com/huggingface/safetensors#format.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..errors import MergeError

if TYPE_CHECKING:
    from .quantised import Quantised

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CODES = ("F4", "F6_E2M3", "F6_E3M2")  # dtypes of packed codes
LARGEST_HEADER = 100_000_000  # the limit of safetensors' own reader
LARGEST_SHAPE = 2**63 - 1
MOST_SIDES = 64  # as torch
METADATA = "__metadata__"
_SIGNS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model. Run `git lfs pull`, or download the file itself."),
    (b"<!doctype", "is a web page, not a model. Download the file itself; the site may ask you to log in."),
    (b"<html", "is a web page, not a model. Download the file itself; the site may ask you to log in."),
    (b"pk\x03\x04", "is a zip archive, or a PyTorch file with another suffix. Extract it, or convert it to safetensors."),
    (b"gguf", "is a GGUF file, which cannot be merged. Use the fp16, bf16 or fp8_scaled safetensors file of this model."),
)  # fmt: skip
Read = Callable[[int, int], bytes]  # offset, count -> bytes


@dataclass(frozen=True)
class Entry:
    """dtype and shape of one tensor, and how it is stored where it is quantised (its dtype is then float32)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    quantised: "Quantised | None" = field(default=None, compare=False, repr=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """Metadata, tensors, where their bytes are, and where the first of them is in the file."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    offsets: dict[str, tuple[int, int]]
    start: int


def read_header(name: str, size: int, read: Read) -> Header:
    """The header of a file of ``size`` bytes; MergeError names what is wrong with the file."""
    head = read(0, min(32, size))
    length = int.from_bytes(head[:8], "little")
    if size < 8 or length > LARGEST_HEADER or length > size - 8:
        for sign, sentence in _SIGNS:
            if head.lstrip().lower().startswith(sign):
                raise MergeError(f"{name} {sentence}")
        if size >= 8 and length > size - 8 and length <= LARGEST_HEADER and read(8, 1) == b"{":
            raise MergeError(f"{name} is cut off inside its header. Download or save it again.")
        raise MergeError(f"{name} is not a safetensors file, or it is cut off inside its header.")
    header = parse_header(name, read(8, length), 8 + length)
    end = max((last for _, last in header.offsets.values()), default=0)
    if missing := header.start + end - size:
        what = f"is cut off: {missing} bytes are missing" if missing > 0 else f"has {-missing} bytes too many"
        raise MergeError(f"{name} {what}. Download or save it again.")
    return header


def parse_header(name: str, text: bytes, start: int) -> Header:
    """The header in these bytes of JSON; MergeError when any part of it does not follow the format."""
    if len(text) > LARGEST_HEADER:
        raise MergeError(
            f"The header of {name} has {len(text) / 1e6:.0f} MB and no program reads more than 100 MB. "
            "Use sources with less metadata, such as a smaller thumbnail."
        )
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with {")
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _wrong(name, "is not valid JSON") from error
    metadata = table.pop(METADATA, None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong(name, "has metadata that are not texts")
    for word in (*table, *metadata, *metadata.values()):
        if not word.isascii() and not _encodes(word):
            raise _wrong(name, "has a name or text that is not valid Unicode")
    entries = {key: _entry(name, key, info) for key, info in table.items()}
    offsets = {key: _offsets(name, key, info) for key, info in table.items()}
    end = 0
    for key, (first, last) in sorted(offsets.items(), key=lambda item: item[1]):
        if first != end or last - first != entries[key].nbytes:
            raise _wrong(name, f"gives the tensor {_short(key)} a wrong place in the file")
        end = last
    return Header(metadata, entries, offsets, start)


def _entry(name: str, key: str, info: object) -> Entry:
    if not isinstance(info, dict):
        raise _wrong(name, f"does not describe the tensor {_short(key)}")
    dtype, shape = info.get("dtype"), info.get("shape")
    if isinstance(dtype, str) and dtype in CODES:
        raise MergeError(
            f"{name} is quantised in a form that cannot be read (its tensor {_short(key)} is {dtype}). "
            "Use the fp16, bf16 or fp8_scaled file of this model."
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _wrong(name, f"gives the tensor {_short(key)} an unknown dtype, {_short(str(dtype))}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise _wrong(name, f"gives the tensor {_short(key)} a shape that is not a list of whole numbers")
    if len(shape) > MOST_SIDES or math.prod(side for side in shape if side) > LARGEST_SHAPE:
        raise _wrong(name, f"gives the tensor {_short(key)} a shape beyond the range of integers")
    return Entry(DTYPES[dtype], tuple(shape))


def _offsets(name: str, key: str, info: dict) -> tuple[int, int]:
    found = info.get("data_offsets")
    if not isinstance(found, list) or len(found) != 2 or not all(type(x) is int and x >= 0 for x in found):
        raise _wrong(name, f"gives the tensor {_short(key)} offsets that are not two whole numbers")
    return found[0], found[1]


def _wrong(name: str, what: str) -> MergeError:
    return MergeError(f"The header of {name} {what}. The file is damaged; download or save it again.")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _encodes(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    shown = text.encode("ascii", "backslashreplace").decode()
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
