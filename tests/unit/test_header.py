"""Headers of safetensors files: every wrong one is a MergeError in one sentence, at once, and so is a fuzzed one."""

import copy
import json
import os
import random
from pathlib import Path

import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.files import header, merge_files
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.files.header import DTYPES, LARGEST_HEADER, parse_header
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def info(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more) -> dict:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}, **more}


def raw(header: object, body: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


WRONG = {
    "a list": raw([1]),
    "a text": raw(b'"x"'),
    "no JSON": raw(b"{nonsense"),
    "nested too deep": raw(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "UTF-16": raw(json.dumps(info()).encode("utf-16")),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "NaN": raw(b'{"x": NaN}'),
    "5000 digits": raw(b'{"x": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}'),
    "a tensor that is a number": raw({"x": 3}),
    "no dtype": raw({"x": {"shape": [2], "data_offsets": [0, 8]}}),
    "a dtype that is a list": raw(info(dtype=["F32"])),
    "an unknown dtype": raw(info(dtype="F128")),
    "a code dtype": raw(info(dtype="F4", shape=[8])),
    "a shape that is null": raw(info(shape=None)),
    "negative sides": raw(info(shape=[-2, -1])),
    "a side that is true": raw(info(shape=[True, 2])),
    "a side that is a fraction": raw(info(shape=[2.0])),
    "a shape beyond integers": raw(info(shape=[0, 2**62, 2**62])),
    "a thousand sides": raw(info(shape=[1] * 1000 + [2])),
    "three offsets": raw(info(offsets=[0, 4, 8])),
    "offsets that are a text": raw(info(offsets="08")),
    "offsets that do not fit": raw(info(offsets=[0, 4])),
    "offsets that begin late": raw(info(offsets=[4, 12]), b"\0" * 12),
    "metadata that are a list": raw(info(__metadata__=[])),
    "metadata that are numbers": raw(info(__metadata__={"a": 1})),
    "a lone surrogate": raw(info(__metadata__={"a": "\ud800"})),
    "a lone surrogate as a name": raw({"\udc00": info()["x"]}),
    "a tensor twice": raw(b'{"x": 1, "x": ' + json.dumps(info()["x"]).encode() + b"}"),
    "one byte too many": raw(info(), b"\0" * 9),
    "a byte missing": raw(info(), b"\0" * 7),
    "longer than the file": raw(info(), length=10_000),
    "length beyond all files": raw(info(), length=2**64 - 1),
    "nothing": b"",
    "seven bytes": b"1234567",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_header_is_a_merge_error(tmp_path: Path, kind: str):
    path = tmp_path / "h.safetensors"
    path.write_bytes(WRONG[kind])
    with pytest.raises(MergeError, match=r"h\.safetensors .*\.$"):
        FileCheckpoint(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2132\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        (b"<html><head></head></html>", "web page"),
        (b"PK\x03\x04\x14\x00\x08\x08" + b"\0" * 40, "zip archive"),
        (b"GGUF\x03\0\0\0" + b"\0" * 40, "GGUF"),
    ],
)
def test_what_is_not_safetensors_is_named(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "h.safetensors").write_bytes(content)
    with pytest.raises(MergeError, match=told):
        FileCheckpoint(tmp_path / "h.safetensors")


def test_null_metadata_and_suffixes_of_any_case_are_read(tmp_path: Path):
    for name in ("a.safetensors", "b.SFT", "c.Safetensors"):
        (tmp_path / name).write_bytes(raw(info(__metadata__=None)))
        assert FileCheckpoint(tmp_path / name).metadata == {}


def test_fuzzed_headers_are_refused_or_readable(tmp_path: Path):
    """Whatever a header becomes: a MergeError, or a file that safetensors itself opens with the same tensors."""
    draw, accepted, path = random.Random(5), 0, tmp_path / "f.safetensors"
    values = [
        None,
        True,
        -1,
        0,
        3,
        2**70,
        0.5,
        "F32",
        "F16",
        "",
        [],
        [2],
        [0, 8],
        {},
        {"dtype": "F32"},
        "\ud800",
    ]
    for _ in range(1500):
        table = info(
            **{"y": {"dtype": "F16", "shape": [2, 1], "data_offsets": [8, 12]}, "__metadata__": {"k": "v"}}
        )
        for _ in range(draw.randint(0, 2)):
            place: dict = table
            key = draw.choice(list(place))
            while isinstance(place[key], dict) and place[key] and draw.random() < 0.8:
                place = place[key]
                key = draw.choice(list(place))
            if draw.random() < 0.2:
                del place[key]
            else:
                place[key] = copy.deepcopy(draw.choice(values))
            if not table:
                break
        text = bytearray(json.dumps(table).encode())
        for _ in range(draw.choice([0, 0, 1, 3])):
            text[draw.randrange(len(text))] = draw.randrange(256)
        path.write_bytes(raw(bytes(text), b"\0" * 12))
        try:
            ours = FileCheckpoint(path)
        except MergeError:
            continue
        accepted += 1
        with safe_open(path, "pt") as theirs:
            assert set(theirs.keys()) == {ours.naming.give_back(ours.entries)[key] for key in ours.entries}
        ours.close()
    assert accepted > 200


def test_our_dtypes_are_those_of_safetensors(tmp_path: Path):
    for name, dtype in DTYPES.items():
        save_file({"x": torch.zeros(3, dtype=dtype)}, tmp_path / "x.safetensors")
        assert f'"{name}"'.encode() in (tmp_path / "x.safetensors").read_bytes()


def test_a_pipe_is_refused_at_once(tmp_path: Path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names on this system")
    os.mkfifo(tmp_path / "p.safetensors")
    for path in (tmp_path / "p.safetensors", Path("/dev/zero"), tmp_path):
        with pytest.raises(MergeError, match="not a regular file"):
            FileCheckpoint(path)
    with pytest.raises(MergeError, match="cannot be opened"):
        FileCheckpoint(tmp_path / "a\0b.safetensors")


def test_nothing_is_written_that_nobody_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MergeError, match="100 MB"):
        parse_header("o", b"{" + b" " * LARGEST_HEADER, 0)
    monkeypatch.setattr(header, "LARGEST_HEADER", 1_000_000)  # a tenth of a second instead of ten
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"modelspec.thumbnail": "x" * 600_000})
    merged = merge_files("o = a, 0.5", tmp_path / "o", folders=[tmp_path])  # carried over once, not twice
    assert load_file(merged.path).keys() == tensors.keys()
    save_file(tensors, tmp_path / "b.safetensors", metadata={"other": "x" * 999_000})
    with pytest.raises(MergeError, match="100 MB"):
        merge_files("o = b, 0.5", tmp_path / "o2", folders=[tmp_path])
    with pytest.raises(MergeError, match="Unicode"):
        merge_files('"\ud800" = a, 0.5', tmp_path / "o3", folders=[tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "o.safetensors",
    ]
