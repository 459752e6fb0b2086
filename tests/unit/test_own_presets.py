"""The user's own presets: names checked, size limits, one file written, other files left alone."""

from pathlib import Path

import pytest
from blockwork.blocks import own_presets, presets
from blockwork.blocks.names import BlockError

CURVE = [n / 24 for n in range(25)]


def test_what_is_saved_is_read_by_both_readers(tmp_path: Path):
    preset = own_presets.checked("My curve", CURVE, "softer\nfaces")
    own_presets.save(tmp_path, [preset])
    assert own_presets.read_folder(tmp_path) == {"My curve": preset}
    assert preset.about == "softer faces"
    assert presets.load_file(tmp_path / own_presets.SAVED) == {"My curve": CURVE}
    own_presets.save(tmp_path, [own_presets.checked("My curve", [0.5] * 25)])
    assert own_presets.read_folder(tmp_path)["My curve"].values == (0.5,) * 25
    own_presets.remove(tmp_path, "My curve")
    assert own_presets.read_folder(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    ["", " ", "IN05", "BASE", "0.5", "a,b", "a=b", "a|b", "a\tb", "a:b", "../../x\x00", "#a", "x" * 65],
)
def test_names_that_a_weight_text_cannot_hold_are_refused(name: str, tmp_path: Path):
    with pytest.raises(BlockError, match="name"):
        own_presets.checked(name, CURVE)


@pytest.mark.parametrize("values", [[], [1.0], [float("nan")] * 25, [float("inf")] * 25, [0.0] * 201])
def test_numbers_that_are_not_weights_are_refused(values: list[float]):
    with pytest.raises(BlockError, match="finite numbers"):
        own_presets.checked("X curve", values)


def test_other_files_are_read_and_not_written(tmp_path: Path):
    friends = tmp_path / "friends.tsv"
    friends.write_text(
        "preset_name\tpreset_weights\n# from a friend\nFRIEND\t" + ",".join(["0.25"] * 25) + "\nbad line\n",
        encoding="utf-8",
    )
    found = own_presets.read_folder(tmp_path)
    assert [(preset.name, preset.about, preset.file) for preset in found.values()] == [
        ("FRIEND", "from a friend", "friends.tsv")
    ]
    with pytest.raises(BlockError, match=r"friends\.tsv"):
        own_presets.remove(tmp_path, "FRIEND")
    with pytest.raises(BlockError, match="does not exist"):
        own_presets.remove(tmp_path, "NOBODY")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["friends.tsv"]


def test_the_store_has_a_limit(tmp_path: Path):
    many = [own_presets.checked(f"P {n}", [0.0, 1.0]) for n in range(own_presets.MOST_PRESETS + 1)]
    with pytest.raises(BlockError, match="At most"):
        own_presets.save(tmp_path, many)
    assert list(tmp_path.iterdir()) == []
