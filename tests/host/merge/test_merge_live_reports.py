"""What live merges refuse, leave out, or report: NaN, missing tensors, other architectures, mistakes in texts."""

import pytest
import torch
from blockwork.blocks.names import BlockError
from blockwork.merge.errors import MergeError
from blockwork.merge.live import host, host_finite
from blockwork.tests.support.loading import loaded_weight


def test_nan_is_an_error_or_kept_and_reported(build):
    a, b = build("SD15", 1), build("SD15", 2)
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    with torch.no_grad():
        b.model.diffusion_model.middle_block[0].in_layers[2].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(MergeError, match=f"{key} of model B holds NaN"):
        host.merge_models(a, b, "0.5")
    kept, plan = host.merge_models(a, b, "0.5", non_finite="keep A")
    x, y = a.model_state_dict()[key], b.model_state_dict()[key]
    assert torch.equal(loaded_weight(kept, key), torch.where(y.isfinite(), x * 0.5 + y * 0.5, x))
    assert f"NaN or infinity in B, A's values kept: 1 elements in 1 tensors ({key}: 1)" in plan.report()
    host.merge_models(a, b, "M00=0")  # a block that takes nothing of B does not mind B's NaN


def test_only_merged_tensors_are_looked_at_for_nan_and_each_one_once(build, monkeypatch):
    """The scan reads a stored tensor whole, of a large model a file: a slider's next move must not."""
    a, b = build("SD15", 1), build("SD15", 2)
    looked, all_finite = [], host_finite.all_finite
    monkeypatch.setattr(host_finite, "all_finite", lambda tensor: looked.append(tensor) or all_finite(tensor))
    _, plan = host.merge_models(a, b, "IN04=0.3")
    assert 0 < len(looked) == 2 * len(plan.merged) < len(a.model_state_dict())
    host.merge_models(a, b, "IN04=0.7")
    assert len(looked) == 2 * len(plan.merged)


def test_missing_and_extra_tensors_are_reported(build):
    a, b = build("SD15", 1), build("SD15", 2)
    del b.model.diffusion_model.middle_block[1].proj_out.bias
    b.model.diffusion_model.middle_block[1].proj_out.register_parameter("bias", None)
    b.model.diffusion_model.extra = torch.nn.Linear(2, 2)
    _, plan = host.merge_models(a, b, "0.5")
    text = plan.report()
    assert "kept from A, missing in B: 1 (diffusion_model.middle_block.1.proj_out.bias)" in text
    assert "left out, only B has them: 2 (diffusion_model.extra.weight" in text


def test_different_architectures_are_refused(build):
    sd15, sdxl = build("SD15", 1), build("SDXL", 2)
    with pytest.raises(MergeError, match=r"A is sd1 .*B is sdxl"):
        host.merge_models(sd15, sdxl, "0.5")
    for weights in ("0.5", "IN01=0.5", "ALL_A"):  # whatever is asked of them
        with pytest.raises(MergeError, match="different architectures"):
            host.merge_models(sd15, build("SD15", 2, context_dim=1024), weights)
    with pytest.raises(MergeError, match="different architectures"):
        host.merge_models(sd15, build("SD15", 2, model_channels=64), "IN03=0.5")
    shallow = build("SDXL", 3, transformer_depth_middle=-2)
    with pytest.raises(MergeError, match=r"B is unet-9-0-9 \(IN00-IN08, OUT00-OUT08\)"):
        host.merge_models(sdxl, shallow, "0.5")
    with pytest.raises(BlockError, match="Unknown block 'M00'"):
        host.scale_blocks(shallow, "M00=0.5")


@pytest.mark.parametrize(
    "text, message",
    [
        ("1, 2, 3", "3 weights are given. Expected for sd1: 25"),
        (", ".join(["nan"] * 25), "finite"),
        ("GRAD_VV", "Did you mean GRAD_V"),
        ("IN12=0.5", "Unknown block 'IN12' for sd1"),
        ("", "No weights are given"),
    ],
)
def test_bad_weights_say_what_was_expected(build, text, message):
    with pytest.raises(BlockError, match=message):
        host.merge_models(build("SD15", 1), build("SD15", 2), text)


def test_names_that_address_nothing_are_reported(build):
    _, plan = host.merge_models(build("SD15", 1), build("SD15", 2), "GRAD_V, TIME_EMBED=0.5")
    assert "TIME_EMBED has a weight, but under key_map mbw no tensor" in plan.report()
    _, plan = host.merge_models(build("SD15", 1), build("SD15", 2), "GRAD_V, TIME_EMBED=0.5", key_map="comfy")
    assert "has a weight, but" not in plan.report()


def test_bad_shares_of_a_are_named(build):
    a, b = build("SD15", 1), build("SD15", 2)
    with pytest.raises(BlockError, match=r"Shares of A \(M_A\): 2 weights are given"):
        host.merge_models(a, b, "0.5", weights_a="1, 2")
    for text in ("0.5", "0.5 |", "1 | 2 | 3"):
        with pytest.raises(BlockError, match=r"not two lists of weights. Write M_A \| M_B"):
            host.merge_two_ratios(a, b, text)


def test_prediction_types_are_compared(build):
    import comfy.model_base

    a, b = build("SD15", 1), build("SD15", 2)
    b.model.model_type = comfy.model_base.ModelType.V_PREDICTION
    _, plan = host.merge_models(a, b, "0.5")
    assert "A predicts eps and B v_prediction" in plan.report()
