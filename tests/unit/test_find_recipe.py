"""Finding the recipe of a merge: random weights per block are read off files of several kinds, with what cannot be told said."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from blockwork.blocks.keys import VAE_PART, part_of
from blockwork.blocks.weights import parse as parse_weights
from blockwork.merge import find
from blockwork.merge.errors import MergeError
from blockwork.merge.files.checkpoint import FileCheckpoint, TensorCheckpoint
from blockwork.merge.files.run import merge_files
from blockwork.tests.support.merged_models import (
    KINDS,
    OUTSIDE,
    UNET,
    drawn,
    each_step,
    found_in,
    furthest,
    merged,
    parents,
)
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_a_merge(kind: str, dtype: torch.dtype, count: int):
    models, shares = parents(kind, count, dtype), drawn(kind, count)
    found = found_in(merged(kind, models, shares), models)
    assert furthest(found, shares) < 2e-3
    assert all(block.fits and block.fits_free and not block.alike for block in found.blocks.values())
    assert all(abs(sum(block.free) - 1) < 2e-3 for block in found.blocks.values())
    assert "within rounding" in find.report(found)


def test_seven_parents_and_shares_outside_0_to_1():
    models, shares = parents("sd1", 7, torch.float16), drawn("sd1", 7)
    shares = {block: 2 * share - 1 / 7 for block, share in shares.items()}
    assert furthest(found_in(merged("sd1", models, shares), models), shares) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_a_merge_that_rounds_every_step_is_explained(dtype: torch.dtype):
    models, shares = parents("sd1", 2, dtype), drawn("sd1", 2)
    found = found_in(merged("sd1", models, shares, each_step), models)
    assert furthest(found, shares) < 2e-3
    assert all(block.fits for block in found.blocks.values())


def test_parents_in_other_data_types_than_the_merge():
    models, shares = parents("sd1", 2, torch.float32), drawn("sd1", 2)
    merge = {key: x.half() for key, x in merged("sd1", models, shares).items()}
    pruned = [{key: x.to(dtype) for key, x in model.items()} for model, dtype in zip(models, (torch.float16, torch.bfloat16), strict=True)]  # fmt: skip
    for candidates in (models, pruned):
        found = found_in(merge, candidates)
        assert furthest(found, shares) < 2e-3
        assert all(block.fits for block in found.blocks.values())
    assert "dtype" not in find.recipe_text(found) or "fp16" in find.recipe_text(found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_a_missing_parent_is_noticed(dtype: torch.dtype):
    models, shares = parents("sdxl", 3, dtype), drawn("sdxl", 3)
    shares |= {"IN03": np.array([0.4, 0.6, 0.0]), "OUT05": np.array([1.0, 0.0, 0.0])}
    shares |= {block: np.array([0.5, 0.3, 0.2]) for block in shares if block not in ("IN03", "OUT05")}
    found = found_in(merged("sdxl", models, shares), models[:2])
    assert {name for name, block in found.blocks.items() if block.fits} == {"IN03", "OUT05"}
    text = find.report(found)
    assert "A parent is missing" in text and f"in {len(shares) - 2} of {len(shares)} blocks" in text


def test_a_block_that_is_scaled_fits_with_a_free_sum():
    models, shares = parents("sd1", 2, torch.float16), drawn("sd1", 2)
    shares["M00"] = np.array([0.5, 0.9])
    found = found_in(merged("sd1", models, shares), models)
    block = found.blocks["M00"]
    assert not block.fits and block.fits_free
    assert block.free == pytest.approx((0.5, 0.9), abs=2e-3)
    assert "In M00 shares fit whose sum is not 1" in find.report(found)


@pytest.mark.parametrize("near", [0.3, 0.05, 0.02])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_shares_are_no_further_off_than_the_report_says(dtype: torch.dtype, near: float):
    models, shares = parents("sdxl", 2, dtype, near), drawn("sdxl", 2)
    found = found_in(merged("sdxl", models, shares), models)
    for name, block in found.blocks.items():
        assert abs(block.shares[1] - shares[name][1]) < block.error + 1e-6
    coarse = max(block.error for block in found.blocks.values()) > 0.05
    assert coarse == ("differ by little more than rounding" in find.report(found))
    assert coarse == (dtype == torch.bfloat16 and near < 0.3)


@pytest.mark.parametrize("noise", [0.0, 1e-5])
@pytest.mark.parametrize("twin", [0, 1])
def test_a_near_copy_is_noticed(twin: int, noise: float):
    models, shares = parents("sd1", 2, torch.float16), drawn("sd1", 2)
    copy = {key: (x.float() * (1 + noise)).half() for key, x in models[twin].items()}
    found = found_in(merged("sd1", models, shares), [*models, copy])
    for name, block in found.blocks.items():
        assert block.fits and block.alike == ((twin, 2),)
        assert block.shares[twin] + block.shares[2] == pytest.approx(shares[name][twin], abs=2e-3)
    assert f"{'AB'[twin]} and C are too alike to tell apart in 27 of 27 blocks" in find.report(found)


def test_a_part_that_all_candidates_share_is_not_told_apart():
    models, shares = parents("sd1", 2, torch.float16), drawn("sd1", 2)
    models[1] |= {key: models[0][key] for key in OUTSIDE["VAE"]}
    found = found_in(merged("sd1", models, shares), models)
    assert [name for name, block in found.blocks.items() if block.alike] == ["VAE"]
    assert found.blocks["VAE"].fits and found.blocks["VAE"].shares == (1.0, 0.0)


@pytest.mark.parametrize("count", [2, 3])
def test_the_recipe_makes_the_merge_again(tmp_path: Path, count: int):
    """The written merge has the found recipe's weights, VAE and text encoder too."""
    models, shares = parents("sd1", count, torch.float16), drawn("sd1", count)
    merge = merged("sd1", models, shares)
    for name, model in zip("abc", models, strict=False):
        save_file(model, tmp_path / f"{name}.safetensors")
    save_file(merge, tmp_path / "m.safetensors")
    files = [FileCheckpoint(tmp_path / f"{name}.safetensors") for name in ("m", *"abc"[:count])]
    found = find.find_recipe(files[0], files[1:])
    text = find.recipe_text(found)
    again = FileCheckpoint(merge_files(text, tmp_path / "again", folders=[tmp_path]).path)
    for key, wanted in merge.items():
        got, limit = again.read(key).float(), 2**-10 * count * float(wanted.float().abs().max())
        assert float((got - wanted.float()).abs().max()) <= limit, key


def test_weights_text_is_that_of_the_deck():
    models, shares = parents("klein_4b", 3, torch.float16), drawn("klein_4b", 3)
    found = found_in(merged("klein_4b", models, shares), models)
    lines = find.weights_text(found).splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        read = parse_weights(line, found.layout)
        assert all(read.of(block, -9) == pytest.approx(shares[block][number], abs=2e-3) for block in shares)
    assert find.images(found).shape[0] == 2 and find.images(found).shape[3] == 3


def test_a_model_without_blocks_has_one_share(tmp_path: Path):
    g = torch.Generator().manual_seed(1)
    a, b = ({f"text_model.encoder.layers.{i}.fc.weight": torch.randn(40, 50, generator=g) for i in range(3)} for _ in "ab")  # fmt: skip
    for name, x in {"a": a, "b": b, "m": {key: torch.lerp(a[key], b[key], 0.3) for key in a}}.items():
        save_file(x, tmp_path / f"{name}.safetensors")
    merge, *both = [FileCheckpoint(tmp_path / f"{name}.safetensors") for name in "mab"]
    found = find.find_recipe(merge, both)
    assert find.weights_text(found) == "0.3" and find.images(found).ndim == 4
    assert "found = a + b" in find.recipe_text(found).replace(".safetensors", "")


def test_nan_and_tensors_of_one_file_only_are_left_out_and_named():
    models, shares = parents("sd1", 2, torch.float16), drawn("sd1", 2)
    merge = merged("sd1", models, shares)
    key = KINDS["sd1"]()["IN02"][0]
    merge[key][3] = float("nan")
    merge[UNET + "input_blocks.1.9.weight"] = torch.ones(3)
    models[1][KINDS["sd1"]()["IN04"][0]] = torch.ones(5).half()
    found = found_in(merge, models)
    assert furthest(found, shares) < 6e-3  # IN04 has only its bias of 64 numbers left
    text = find.report(found)
    assert "NaN or infinity, left out: 1 in IN02" in text
    assert (
        "not in A: 1 tensors (model.diffusion_model.input_blocks.1.9.weight)" in text
        and "other shape in B: 1" in text
    )


def test_refusals():
    a, b = parents("sd1", 2, torch.float16)
    with pytest.raises(MergeError, match=r"1 candidates are given\. Give 2 to 7"):
        found_in(a, [b])
    with pytest.raises(MergeError, match="8 candidates are given"):
        find.find_recipe(TensorCheckpoint.of("M", a), [TensorCheckpoint.of("x", b)] * 8)
    with pytest.raises(MergeError, match="no blocks in common"):
        found_in(a, [b, parents("sdxl", 2, torch.float16)[0]])
    with pytest.raises(MergeError, match="no tensors in common"):
        found_in({key: x for key, x in a.items() if part_of(key) == VAE_PART}, [b, {key: x for key, x in a.items() if part_of(key) != VAE_PART}])  # fmt: skip


def test_stop_ends_the_reading():
    a, b = parents("sd1", 2, torch.float16)
    read: list[str] = []

    class Counted(TensorCheckpoint):
        def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
            read.append(key)
            return super().read(key, start, stop)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:  # its traceback keeps the frames alive
        find.find_recipe(
            Counted.of("M", a), [TensorCheckpoint.of("A", a), TensorCheckpoint.of("B", b)], tick=stop
        )
    assert stopped and 0 < len(read) < len(a) / 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("find_recipe")]


def test_command_line(tmp_path: Path):
    models, shares = parents("sdxl", 2, torch.float16), drawn("sdxl", 2)
    for name, x in {"a": models[0], "b": models[1], "m": merged("sdxl", models, shares)}.items():
        save_file(x, tmp_path / f"{name}.safetensors")
    command = [sys.executable, str(ROOT / "tools" / "find_recipe.py"), *(str(tmp_path / f"{name}.safetensors") for name in "mab")]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "within rounding" in ran.stdout and "found = a" in ran.stdout
    ran = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and ran.stderr.startswith("1 candidates are given")
