"""The Block Weights node, and the user's own presets wherever weights are read."""

import folder_paths
import pytest
import torch
from blockwork.blocks import host
from blockwork.blocks.names import BlockError
from blockwork.blocks.presets import preset
from blockwork.blocks.weights import parse
from blockwork.nodes.blocks import BlockWeightsNode


def shaped(layout="sd1", **inputs):
    """The numbers that the node puts out."""
    return parse(BlockWeightsNode.execute(layout, **inputs).result[0], layout)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """``own(text)`` writes a preset file of the user's."""
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    folder = tmp_path / "blockwork" / "presets"
    folder.mkdir(parents=True)

    def write(text, name="mine.tsv"):
        (folder / name).write_text(text, encoding="utf-8")

    return write


def test_shaping_in_its_order():
    assert shaped(weights="GRAD_V").values == tuple(preset("GRAD_V"))
    assert shaped(weights="GRAD_V", blend_with="GRAD_A", blend=0.5).values == (0.5,) * 25
    assert shaped(weights="OUT12", mirror=True).values == (1.0,) * 12 + (0.0,) * 13
    assert shaped(weights="0.25", invert=True, scale=2.0, offset=0.5).values == (2.0,) * 25
    assert shaped("sdxl", weights="GRAD_V").values == tuple(preset("GRAD_V", "sdxl"))


def test_what_stands_apart_is_shaped_too_but_not_mirrored():
    weights = shaped(weights="OUT12, BASE=0.25", mirror=True, invert=True, scale=2.0)
    assert weights.of("BASE", 9) == 1.5
    assert weights.of("OUT11", 9) == 2.0


def test_numbers_that_overflow_are_refused():
    with pytest.raises(BlockError, match="The weight of IN00 becomes inf"):
        shaped(weights="1e308", scale=10.0)


def test_the_picture_is_an_image():
    picture = BlockWeightsNode.execute("sd1", weights="GRAD_V, IN03=1.5, BASE=-1").result[1]
    assert picture.dtype == torch.float32 and picture.ndim == 4 and picture.shape[-1] == 3
    assert picture.min() >= 0 and picture.max() <= 1


def test_own_presets_win_over_built_in_ones(own):
    own(f"MINE\t{','.join(['0.25'] * 25)}\nGRAD_V\t{','.join(['0.75'] * 26)}\n")
    assert shaped(weights="MINE").values == (0.25,) * 25
    assert shaped(weights="GRAD_V").of("BASE", 9) == 0.75
    assert host.own_presets().keys() == {"MINE", "GRAD_V"}


def test_merges_read_own_presets(own, build):
    from blockwork.merge.live import host as merging

    own(f"MINE\t{','.join(['0.25'] * 25)}\n")
    _, plan = merging.merge_models(build("SD15", 1), build("SD15", 2), "MINE")
    assert "IN05       0.75 A + 0.25 B" in plan.report()


def test_a_bad_line_matters_only_where_its_name_is_asked_for(own):
    own(f"ALL_R\tR,R,R\nFLUX\t{','.join(['x'] * 61)}\nMINE\t{','.join(['0.5'] * 25)}\n")
    assert shaped(weights="0.5").values == shaped(weights="MINE").values
    with pytest.raises(BlockError, match=r"mine\.tsv, line 2, preset 'FLUX': 'x' is not a number"):
        shaped(weights="FLUX")


def test_the_fingerprint_follows_the_presets_that_are_named(own):
    own(f"MINE\t{','.join(['0.5'] * 25)}\nOTHER\t{','.join(['0.1'] * 25)}\n")
    before = BlockWeightsNode.fingerprint_inputs(weights="MINE")
    own(f"NEW\t{','.join(['0.5'] * 25)}\n", "new.txt")
    assert BlockWeightsNode.fingerprint_inputs(weights="MINE") == before
    own(f"MINE\t{','.join(['0.6'] * 25)}\n")
    assert BlockWeightsNode.fingerprint_inputs(weights="MINE") != before
    assert BlockWeightsNode.fingerprint_inputs(weights=None) == {}


@pytest.mark.parametrize("layout", ["flux", "qwen_image", "z_image", "klein_4b"])
def test_layouts_of_transformers(layout):
    text, image = BlockWeightsNode.execute(layout, weights="GRAD_V", scale=0.5).result
    assert text.startswith(f"{layout}: 0.5, ")
    assert parse(text, layout).values == tuple(0.5 * value for value in preset("GRAD_V", layout))
    assert image.ndim == 4 and image.shape[2] > image.shape[1] / 4


def test_what_is_not_named_stays_not_named():
    assert (
        BlockWeightsNode.execute("sd1", weights="IN03=0.5, OUT02-OUT03=1").result[0]
        == "IN03=0.5, OUT02=1, OUT03=1"
    )
    assert BlockWeightsNode.execute("sd1", weights="0.5, VAE=1").result[0] == "0.5, VAE=1"
    assert BlockWeightsNode.execute("sd1", weights="0.5", invert=True, scale=0.5).result[0] == "0.25"
