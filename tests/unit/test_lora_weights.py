"""LoRA block weights as text, the size of small factors, and files scaled per module: torch only."""

import pytest
import torch
from blockwork.blocks.names import SD1, SDXL, BlockError, as_layout
from blockwork.merge.errors import MergeError
from blockwork.merge.lora import measure, weights
from blockwork.merge.lora.scale import scaled
from blockwork.merge.lora.weights import PRESETS
from blockwork.tests.support.checked import checked

read = checked(weights.read, weights.check, BlockError)


def test_names_keep_the_rest_at_one_and_lists_at_zero():
    named = read("IN04-IN05=0.5", SD1)
    assert named.of("IN04") == 0.5 and named.of("OUT03") == 1 and named.text == 1
    listed = read("1," * 16 + "0.25", SD1)
    assert listed.of("OUT11") == 0.25 and listed.of("IN01") == 1
    assert listed.of("IN00") == 0 and listed.of("IN03") == 0  # not among the 17


@pytest.mark.parametrize(
    ("layout", "count", "first", "last"),
    [(SD1, 17, "IN01", "OUT11"), (SD1, 26, "IN00", "OUT11"), (SD1, 27, "IN01", "OUT11"), (SDXL, 12, "IN04", "OUT05"),
     (SDXL, 20, "IN00", "OUT08"), (SDXL, 21, "IN01", "OUT08"), (as_layout("flux"), 58, "D00", "S37")],
)  # fmt: skip
def test_lists_of_lora_block_weight(layout, count, first, last):
    numbers = [0.01 * (i + 1) for i in range(count)]
    found = read(",".join(map(str, numbers)), layout)
    assert found.text == pytest.approx(numbers[0])
    assert found.of(first) == pytest.approx(numbers[1])
    assert found.of(last) == pytest.approx(numbers[-1])
    if count in (27, 21):
        start = 12 if count == 27 else 9
        keys = [f"diffusion_model.middle_block.{i}.x" for i in range(3)]
        assert [found.of("M00", key) for key in keys] == pytest.approx(numbers[start : start + 3])


def test_flux_61():
    numbers = [0.1, 0.2, 0.3, *([1.0] * 19), *([0.5] * 38), 0.4]
    found = read(",".join(map(str, numbers)), as_layout("flux"))
    assert found.of("D18") == 1 and found.of("S00") == 0.5 and found.of("IN") == pytest.approx(0.3)


def test_presets_letters_and_labels():
    assert read("MIDD", SD1).of("OUT05") == 1 and read("MIDD", SD1).of("OUT11") == 0
    assert read("SD-OUTALL", SD1).of("OUT03") == 1
    assert read("INALL", SDXL).of("IN08") == 1 and read("INALL", SDXL).of("OUT00") == 0
    assert read("NONE", SDXL).of("IN04") == 0 and read("ALL0.5", SDXL).of("IN04") == 0.5
    assert read("MINE:" + PRESETS["OUTS"], SD1).of("OUT11") == 1
    drawn = read("ROUT", SD1, seed=3)
    assert drawn == read("ROUT", SD1, seed=3) != read("ROUT", SD1, seed=4)
    assert all(0 <= drawn.of(f"OUT{i:02}") <= 1 for i in range(3, 12)) and drawn.of("IN01") == 1
    both = read("AB", SD1, a=0.8, b=0.2)
    assert both.text == 0.8 and both.of("IN01") == 0.2 and both.of("OUT11") == 0.8
    wide = read("1," * 16 + "U", SD1, seed=1)
    assert -1.5 <= wide.of("OUT11") <= 1.5


def test_what_follows_a_list_or_preset_changes_it():
    plain, changed = read("MIDD", SD1), read("MIDD, IN04=0.5, OUT03-OUT05=0.25, BASE=0.75", SD1)
    named = {"IN04": 0.5, "OUT03": 0.25, "OUT04": 0.25, "OUT05": 0.25}
    assert [changed.of(block) for block in SD1.blocks] == [named.get(b, plain.of(b)) for b in SD1.blocks]
    assert changed.text == 0.75 and plain.text == 1 and changed.note == plain.note
    listed = read("1," * 16 + "0.25, OUT11=0.5, IN00=2", SD1)
    assert (listed.of("OUT11"), listed.of("IN00"), listed.of("IN03"), listed.of("IN01")) == (0.5, 2, 0, 1)
    assert read("IN04=0.5, MIDD", SD1) == plain, "a preset gives every block a number"
    assert read("IN04=0.5, INS", SD1).of("IN04") == 1
    mixed = read("A, IN04=B, IN05=a, OUT03=R", SD1, seed=3, a=0.8, b=0.2)
    assert (mixed.of("IN04"), mixed.of("IN05"), mixed.of("M00"), mixed.text) == (0.2, 0.4, 0.8, 0.8)
    assert 0 <= mixed.of("OUT03") <= 1 and mixed == read(
        "A, IN04=B, IN05=a, OUT03=R", SD1, seed=3, a=0.8, b=0.2
    )
    own = {"MIDD": [0.5] * 25}
    assert read("MIDD, IN04=1", SD1, own_presets=own).of("IN05") == 0.5, "the user's presets come first"
    assert read("R", SD1, seed=1).of("IN04") == read("R", SD1, seed=1).of("OUT11")


@pytest.mark.parametrize(
    "text", ["MIDD, IN99=1", "MIDD, IN04=Q", "MIDD, IN04", "MIDD, 0.5", "IN04=R, WRONG", "MIDD,, IN04=1"]
)
def test_bad_items_after_a_preset_are_refused(text):
    with pytest.raises(BlockError):
        read(text, SD1)


@pytest.mark.parametrize("text", ["1,2,3", "IN99=1", "nan,1", "1," * 5000, "QQ", "IN04=1e999"])
def test_bad_texts_are_refused(text):
    with pytest.raises(BlockError):
        read(text, SD1)


def test_every_preset_has_a_length_that_some_layout_reads():
    lengths = {len(text.split(",")) for text in PRESETS.values()}
    assert lengths == {17, 27, 12, 21, 61}


def test_norms_and_ranks_equal_the_dense_product():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    up, down = draw(40, 4), draw(4, 30)
    dense = torch.linalg.svdvals(0.5 * up @ down)
    found = measure.low_rank(up, down, 0.5)
    assert found.norm == pytest.approx(float(dense.square().sum().sqrt()), rel=1e-12)
    assert found.rank == pytest.approx(measure.effective_rank(dense), rel=1e-9) and found.rank <= 4
    conv = measure.low_rank(draw(16, 4, 1, 1), draw(4, 8, 3, 3), 1.0)
    assert conv.norm > 0
    a1, b1, a2, b2 = draw(20, 3), draw(3, 12), draw(20, 3), draw(3, 12)
    hada = measure.hadamard([(a1, b1), (a2, b2)], 0.25)
    assert hada.norm == pytest.approx(float((0.25 * (a1 @ b1) * (a2 @ b2)).norm()), rel=1e-12)
    w1, w2 = draw(3, 4), draw(5, 6)
    kron = measure.kronecker(w1, w2, 2.0)
    assert kron.norm == pytest.approx(float((2 * torch.kron(w1, w2)).norm()), rel=1e-12)
    assert measure.low_rank(torch.zeros(4, 2), draw(2, 4), 1.0).rank == 0


def test_a_file_is_scaled_where_its_type_allows():
    tensors = {
        "a.lora_up.weight": torch.ones(4, 2), "a.lora_down.weight": torch.ones(2, 4), "a.alpha": torch.tensor(2.0),
        "b.lora_B.weight": torch.ones(4, 2), "b.lora_A.weight": torch.ones(2, 4),
        "c.lokr_w1": torch.ones(2, 2), "c.lokr_w2": torch.ones(2, 2), "c.alpha": torch.tensor(2.0),
        "d.diff": torch.ones(4), "e.dora_scale": torch.ones(4), "strange": torch.ones(1),
    }  # fmt: skip
    module = lambda name: name.partition(".")[0] if "." in name else None  # noqa: E731
    half, strange = scaled(
        {k: v for k, v in tensors.items() if not k.startswith("e")}, module, lambda name: 0.5
    )
    assert strange == ["strange"] and list(half) == [k for k in tensors if not k.startswith("e")]
    assert half["a.alpha"] == 1 and torch.equal(half["a.lora_up.weight"], tensors["a.lora_up.weight"])
    assert torch.equal(half["b.lora_B.weight"], torch.full((4, 2), 0.5))
    assert torch.equal(half["c.lokr_w1"], torch.full((2, 2), 0.5)) and half["c.alpha"] == 2
    assert torch.equal(half["d.diff"], torch.full((4,), 0.5))
    kept, _ = scaled(tensors, module, lambda name: 0.0 if name == "a" else 1.0)
    assert (
        not [name for name in kept if name.startswith("a.")]
        and kept["e.dora_scale"] is tensors["e.dora_scale"]
    )
    with pytest.raises(MergeError, match="e is DoRA"):
        scaled(tensors, module, lambda name: 0.5)
