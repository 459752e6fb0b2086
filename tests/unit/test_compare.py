"""Comparing models: against float64 by hand, on files and tensors."""

from pathlib import Path

import pytest
import torch
from blockwork.merge.compare.comparison import compare
from blockwork.merge.compare.image import draw
from blockwork.merge.errors import MergeError
from blockwork.merge.files.checkpoint import FileCheckpoint, TensorCheckpoint
from safetensors.torch import save_file

UNET = "model.diffusion_model."


def model(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    found = {UNET + f"input_blocks.{i}.0.weight": torch.randn(20, 30, generator=g) for i in range(12)}
    found |= {UNET + f"output_blocks.{i}.0.weight": torch.randn(20, 30, generator=g) for i in range(12)}
    found |= {UNET + f"output_blocks.{i}.0.bias": torch.randn(20, generator=g) for i in range(12)}
    found[UNET + "middle_block.0.weight"] = torch.randn(7, generator=g)
    found["cond_stage_model.x"] = torch.randn(5, generator=g)
    found["first_stage_model.y"] = torch.randn(5, generator=g)
    found["model_ema.z"] = torch.randn(5, generator=g)
    return {key: tensor * scale for key, tensor in found.items()}


def test_numbers_per_block(tmp_path: Path):
    a, b = model(1), model(2)
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    files = FileCheckpoint(tmp_path / "a.safetensors"), FileCheckpoint(tmp_path / "b.safetensors")
    found = compare(*files)
    keys = [UNET + "output_blocks.3.0.weight", UNET + "output_blocks.3.0.bias"]
    x, y = (torch.cat([tensors[key].double().flatten() for key in keys]) for tensors in (a, b))
    block = found.blocks["OUT03"]
    assert block.cosine == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), abs=1e-12)
    assert block.relative == pytest.approx(float((y - x).norm() / x.norm()), abs=1e-12)
    assert block.largest == pytest.approx(float((y - x).abs().max())) and block.changed == block.numel == 620
    assert list(found.blocks)[:2] == ["BASE", "IN00"] and list(found.blocks)[-1] == "VAE"
    assert len(found.blocks) == 27 and found.total().numel == sum(
        t.numel() for k, t in a.items() if "ema" not in k
    )


def test_equal_and_scaled_models():
    a = TensorCheckpoint.of("a", model(1))
    same = compare(a, TensorCheckpoint.of("b", model(1)))
    assert all(
        block.cosine == 1 and block.relative == 0 and block.changed == 0 for block in same.blocks.values()
    )
    scaled = compare(a, TensorCheckpoint.of("b", model(1, 0.75)))
    assert all(block.relative == pytest.approx(0.25, abs=1e-6) for block in scaled.blocks.values())


def test_what_cannot_be_compared_is_told():
    a, b = model(1), model(2)
    b[UNET + "extra.weight"] = torch.ones(2)
    b[UNET + "middle_block.0.weight"] = torch.ones(3)
    del b["cond_stage_model.x"]
    found = compare(TensorCheckpoint.of("a", a), TensorCheckpoint.of("b", b))
    assert (found.only_a, found.only_b) == (["cond_stage_model.x"], [UNET + "extra.weight"])
    assert "other shape: 1 (model.diffusion_model.middle_block.0.weight)" in found.table()
    with pytest.raises(MergeError, match="no tensors in common"):
        compare(TensorCheckpoint.of("a", a), TensorCheckpoint.of("c", {"q": torch.ones(2)}))
    small = {
        key: tensor
        for key, tensor in a.items()
        if ".11." not in key and ".10." not in key and ".9." not in key
    }
    with pytest.raises(MergeError, match="no blocks in common"):
        compare(TensorCheckpoint.of("a", a), TensorCheckpoint.of("xl", small))


def test_the_picture_has_the_longest_bar_where_models_differ_most():
    b = model(1)
    key = UNET + "input_blocks.4.0.weight"
    b[key] = b[key] * 3
    found = compare(TensorCheckpoint.of("a", model(1)), TensorCheckpoint.of("b", b))
    for measure in ("distance", "cosine"):
        assert draw(found, measure).size[0] > 600
    pixels = torch.frombuffer(bytearray(draw(found).tobytes()), dtype=torch.uint8).view(
        -1, draw(found).width, 3
    )
    red = (pixels == torch.tensor([200, 70, 50], dtype=torch.uint8)).all(-1)
    rows = red.any(1).nonzero().flatten()
    assert (
        red.any() and rows.min() >= 84 + 4 * 26 and rows.max() < 84 + 5 * 26
    )  # the fifth row on the left: IN04
    assert red[:, : pixels.shape[1] // 2].any() and not red[:, pixels.shape[1] // 2 :].any()
    with pytest.raises(ValueError, match=r"The measure is 'warmth'\. Available"):
        draw(found, "warmth")


@pytest.mark.parametrize("measure", ["distance", "cosine"])
def test_nan_infinity_and_zero_blocks_have_numbers_and_an_image(measure):
    """NaN and infinity are left out and counted; a block that is zero in A is infinitely far in share of A."""
    a, b = model(1), model(2)
    a[UNET + "input_blocks.3.0.weight"] = torch.zeros(20, 30)
    b[UNET + "input_blocks.4.0.weight"] = b[UNET + "input_blocks.4.0.weight"].clone()
    b[UNET + "input_blocks.4.0.weight"][0, :2] = torch.tensor([float("nan"), float("inf")])
    a[UNET + "input_blocks.5.0.weight"] = torch.full((20, 30), float("nan"))
    a[UNET + "input_blocks.6.0.weight"] = b[UNET + "input_blocks.6.0.weight"] = torch.zeros(20, 30)
    found = compare(TensorCheckpoint.of("a", a), TensorCheckpoint.of("b", b))
    x, y = (tensors[UNET + "input_blocks.4.0.weight"].double().flatten()[2:] for tensors in (a, b))
    assert found.blocks["IN04"].relative == pytest.approx(float((y - x).norm() / x.norm()), abs=1e-12)
    assert (found.blocks["IN04"].odd, found.blocks["IN05"].odd, found.total().odd) == (2, 600, 602)
    assert found.blocks["IN03"].relative == float("inf") and found.blocks["IN06"].relative == 0
    table = found.table()
    assert (
        "NaN or infinity, left out of these numbers: 2 in IN04, 600 in IN05" in table and "nan" not in table
    )
    assert draw(found, measure).size[0] > 600


def test_a_transformer_has_an_image_of_all_its_blocks():
    def tensors(seed: int) -> dict[str, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        names = [f"double_blocks.{n}.img_attn.qkv.weight" for n in range(5)]
        return {UNET + name: torch.randn(4, 4, generator=g) for name in [*names, "img_in.weight"]}

    found = compare(TensorCheckpoint.of("a", tensors(1)), TensorCheckpoint.of("b", tensors(2)))
    assert list(found.blocks) == ["D00", "D01", "D02", "D03", "D04", "IN"]
    assert draw(found).size == (draw(found).width, 84 + (3 + 1 + 1) * 26)
