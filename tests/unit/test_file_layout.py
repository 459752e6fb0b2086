"""The layout of a file from its header: prefixes as people's files have them, bad files refused, nothing else read."""

import json
from pathlib import Path

import pytest
from blockwork.blocks.header import layout_of_file
from blockwork.blocks.names import BlockError


def _write(path: Path, keys: dict[str, list[int]]) -> Path:
    header = json.dumps(
        {key: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for key, shape in keys.items()}
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    return path


def _flux(prefix: str) -> dict[str, list[int]]:
    keys = {f"{prefix}{name}.{n}.linear.{part}": [4, 4] if part == "weight" else [4]
            for name, count in (("double_blocks", 19), ("single_blocks", 38)) for n in range(count) for part in ("weight", "bias")}  # fmt: skip
    return keys | {f"{prefix}img_in.weight": [4, 4], f"{prefix}final_layer.linear.weight": [4, 4]}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "net."])
def test_a_file_s_layout_with_every_prefix(tmp_path: Path, prefix: str):
    found = layout_of_file(_write(tmp_path / "flux.safetensors", _flux(prefix)))
    assert found["name"] == "flux"
    assert [(stack["letter"], len(stack["blocks"])) for stack in found["stacks"]] == [("D", 19), ("S", 38)]
    assert found["facts"]["D03"]["tensors"] == 2
    assert sum(fact["share"] for fact in found["facts"].values()) == pytest.approx(1)


def test_a_model_nobody_knows_has_blocks(tmp_path: Path):
    keys = {f"quux_blocks.{n}.attn.weight": [4, 4] for n in range(7)} | {"inn.weight": [4]}
    found = layout_of_file(_write(tmp_path / "new.safetensors", keys))
    assert len(found["stacks"][0]["blocks"]) == 7


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = _write(tmp_path / "a.safetensors", _flux(""))
    assert layout_of_file(path)["name"] == "flux"
    _write(path, {f"blocks.{n}.attn.weight": [4, 4] for n in range(28)})
    assert layout_of_file(path)["stacks"][0]["letter"] == "B"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x04\0\0\0\0\0\0\0null",
        b"\x09\0\0\0\0\0\0\0" + b'{"a": 5}}',
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(BlockError):
        layout_of_file(path)
    with pytest.raises(BlockError, match="menu"):
        layout_of_file(_write(tmp_path / "model.gguf", _flux("")))
