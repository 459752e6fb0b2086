"""Extract LoRA and Merge LoRAs: errors against the best approximation, core reading the files back."""

import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.lora import factor, host_extract
from blockwork.merge.lora.host import Settings, load_by_block
from blockwork.tests.host.merge.test_lora import folder, tensors_for, two_dimensional, weights_of, with_core  # noqa: F401
from safetensors.torch import load_file, save_file


def changed(build, rank: int, dtype=torch.float32):
    """A model and a copy whose matrices and kernels differ by exactly ``rank`` (before the dtype rounds)."""
    base, tuned = build("SD15", 1, dtype), build("SD15", 1, dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in tuned.model.diffusion_model.named_parameters():
            if (parameter.ndim >= 2 and "input_blocks.1." in key) or (
                "output_blocks.5." in key and parameter.ndim >= 2
            ):
                rows, columns = parameter.shape[0], parameter[0].numel()
                change = torch.randn(rows, rank, generator=generator) @ torch.randn(
                    rank, columns, generator=generator
                )
                parameter += (0.01 * change).view(parameter.shape).to(dtype)
    return tuned, base


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 1e-3), ("fp32", 1e-5)])
def test_an_exact_difference_of_rank_r_comes_back(folder, build, dtype, bound):  # noqa: F811
    tuned, base = changed(build, 4)
    path, report = host_extract.extract(tuned, base, "loras/x", 4, 1.0, dtype)
    read_back = with_core(base, load_file(path), 1.0)
    wanted, plain = weights_of(tuned), weights_of(base)
    kernels = 0
    for key in wanted:
        difference = wanted[key] - plain[key]
        if difference.any():
            error = (read_back[key] - wanted[key]).norm() / difference.norm()
            # The float32 sum of the weight rounds once more than the difference itself.
            assert error <= bound + 2e-7 * wanted[key].norm() / difference.norm(), (key, float(error))
            kernels += difference.ndim == 4
    assert kernels and "all" in report


def test_a_stored_half_precision_difference_is_near_the_best_of_its_rank(build):
    tuned, base = changed(build, 4, torch.float16)
    wanted, plain = tuned.model.state_dict(), base.model.state_dict()
    seen = 0
    for key, value in wanted.items():
        difference = (value.float() - plain[key].float()).flatten(1) if value.ndim > 1 else value
        if value.ndim < 2 or not difference.any():
            continue
        up, down = factor.factors(difference, 4)
        best = torch.linalg.svdvals(difference.double())[4:].square().sum()
        assert factor.error(difference, up, down)[0] <= 1.05**2 * float(best) + 1e-10
        seen += 1
    assert seen > 5


def test_large_layers_and_energy():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    noise = draw(1200, 2600) * 1e-3
    large = draw(1200, 8) @ draw(8, 2600) + noise  # above the full SVD
    up, down = factor.factors(large, 8)
    best = torch.linalg.svdvals(large)[8:].double().square().sum()
    assert factor.error(large, up, down)[0] <= 1.05**2 * float(best)
    wide = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    assert factor.factors(wide, 4, energy=0.9)[0].shape[1] == 2
    assert factor.factors(torch.zeros(4, 4), 4)[0].shape == (4, 1)


def test_a_layer_of_4096_by_16384_is_extracted():
    generator = torch.Generator().manual_seed(5)
    large = torch.randn(4096, 4, generator=generator) @ torch.randn(4, 16384, generator=generator)
    up, down = (part.half() for part in factor.factors(large, 4))
    assert up.shape == (4096, 4) and factor.relative(factor.error(large, up, down)) <= 1e-3


def test_equal_models_are_refused(folder, build):  # noqa: F811
    with pytest.raises(MergeError, match="equal"):
        host_extract.extract(build("SD15", 1), build("SD15", 1), "loras/x", 4, 1.0, "fp16")


def test_the_sum_of_two_loras_is_both_in_a_row(folder, build):  # noqa: F811
    model = build("SD15", 1)
    save_file(
        tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lora", 1), folder / "a.safetensors"
    )
    save_file(
        tensors_for(two_dimensional(model, "diffusion_model.", "", 20), model, "diffusers", 2),
        folder / "b.safetensors",
    )
    once = load_by_block(model, None, "a.safetensors", 1.0, 1.0, "IN04=0.5").model
    both = load_by_block(once, None, "b.safetensors", 1.0, 1.0, "OUT05=0").model
    path, _ = host_extract.merge_loras(
        model,
        None,
        ("a.safetensors", "b.safetensors"),
        ("IN04=0.5", "OUT05=0"),
        "loras/m",
        0,
        "fp32",
        Settings(),
    )
    base, wanted, found = weights_of(model), weights_of(both), with_core(model, load_file(path), 1.0)
    for key in wanted:
        room = 1e-5 * (wanted[key] - base[key]).norm() + 1e-6 * base[key].norm()
        assert (found[key] - wanted[key]).norm() <= room, key
    path, report = host_extract.merge_loras(
        model, None, ("a.safetensors", "b.safetensors"), ("1", "1"), "loras/m", 4, "fp32", Settings()
    )
    assert "rank 4 to 4" in report and all(
        tensor.shape[0] <= 4 for name, tensor in load_file(path).items() if name.endswith("lora_down.weight")
    )
    save_file(
        tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lokr", 1), folder / "c.safetensors"
    )
    with pytest.raises(MergeError, match="type lokr"):
        host_extract.merge_loras(
            model, None, ("a.safetensors", "c.safetensors"), ("1", "1"), "loras/m", 0, "fp16", Settings()
        )
