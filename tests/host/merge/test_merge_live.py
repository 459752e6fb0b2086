"""Live merging on models of ComfyUI's own classes: parity with core, identities, odd inputs, limits."""

import gc
import weakref

import comfy.lora
import comfy.weight_adapter
import pytest
import torch
from blockwork.blocks import presets
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1, SDXL, BlockError
from blockwork.merge.errors import MergeError
from blockwork.merge.live import host, host_finite
from blockwork.nodes.merge import MergeModels, MergeTwoRatios, ScaleBlocks

UNET = "diffusion_model."


def merged_weight(model, key):
    """The weight ComfyUI would load for ``key``."""
    return model.patch_weight_to_device(key, device_to=torch.device("cpu"), return_weight=True)


def unet_keys(model):
    return [key for key in model.model_state_dict() if key.startswith(UNET)]


def stored(*models):
    """The models' own U-Net tensors, key by key: (key, a[, b, c])."""
    states = [model.model_state_dict(UNET) for model in models]
    return [(key, *(state[key] for state in states)) for key in states[0]]


def snapshot(model):
    return {key: value.clone() for key, value in model.model_state_dict().items()}


def core_ratios(weights, layout):
    """Our weights as the keyword arguments of core's ModelMergeSD1/SDXL (shares of model 1)."""
    ratios = dict(zip(layout.blocks, (1 - weight for weight in weights), strict=True))
    out = {"time_embed.": ratios["IN00"], "label_emb.": 1.0, "out.": ratios[layout.last_output]}
    out |= {f"middle_block.{i}.": ratios["M00"] for i in range(3)}
    out |= {f"input_blocks.{i}.": ratios[f"IN{i:02}"] for i in range(layout.inputs)}
    return out | {f"output_blocks.{i}.": ratios[f"OUT{i:02}"] for i in range(layout.outputs)}


def core_merge(a, b, ratios):
    from comfy_extras.nodes_model_merging import ModelMergeBlocks

    return ModelMergeBlocks().merge(a, b, **ratios)[0]


@pytest.mark.parametrize("family, layout", [("SD15", SD1), ("SDXL", SDXL)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_to_core_bit_for_bit(build, family, layout, dtype):
    a, b = build(family, 1, dtype), build(family, 2, dtype)
    weights = [0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1, -0.5, 1.5, 0.1234567891] * 3
    weights = weights[: len(layout.blocks)]
    ours, _ = host.merge_models(a, b, ",".join(map(repr, weights)))
    theirs = core_merge(a, b, core_ratios(weights, layout))
    for key in unet_keys(a):
        assert torch.equal(merged_weight(ours, key), merged_weight(theirs, key)), key


def test_converted_nodes_of_core_give_the_same_bits(build):
    """The texts that web/convert writes for ModelMergeBlocks, ModelMergeAdd and ModelMergeSubtract."""
    from comfy_extras.nodes_model_merging import ModelAdd, ModelSubtract

    a, b = build("SD15", 1), build("SD15", 2)
    lines = ":diffusion_model.middle:0.25\n:diffusion_model.out:0.5"
    pairs = [
        (
            host.merge_models(a, b, "0.75", elemental=lines)[0],
            core_merge(a, b, {"input": 0.25, "middle": 0.75, "out": 0.5}),
        ),
        (host.merge_two_ratios(a, b, "1 | 1")[0], ModelAdd().merge(a, b)[0]),
        (host.merge_two_ratios(a, b, "0.5 | -0.5")[0], ModelSubtract().merge(a, b, 0.5)[0]),
    ]
    for ours, theirs in pairs:
        for key in unet_keys(a):
            assert torch.equal(merged_weight(ours, key), merged_weight(theirs, key)), key


def test_result_does_not_depend_on_the_order_of_keys(build):
    a, b = build("SD15", 1), build("SD15", 2)
    weights = "GRAD_V"
    pairs = ", ".join(
        f"{n}={v!r}" for n, v in reversed(list(zip(SD1.blocks, presets.preset(weights), strict=True)))
    )
    first, second = host.merge_models(a, b, weights)[0], host.merge_models(a, b, pairs)[0]
    for key in unet_keys(a):
        assert torch.equal(merged_weight(first, key), merged_weight(second, key)), key


def test_extremes_are_the_models_themselves(build):
    a, b = build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)
    all_a, plan = host.merge_models(a, b, "ALL_A")
    assert not plan.merged and not all_a.patches
    all_b, _ = host.merge_models(a, b, "ALL_B")
    for key, y in stored(b):
        assert torch.equal(merged_weight(all_b, key), y), key


def test_half_and_half_is_symmetric_and_a_with_itself_is_a(build):
    a, b = build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)
    forward, backward = host.merge_models(a, b, "0.5")[0], host.merge_models(b, a, "0.5")[0]
    same = host.merge_models(a, a, "0.3")[0]
    for key, x in stored(a):
        assert torch.equal(merged_weight(forward, key), merged_weight(backward, key)), key
        assert torch.equal(merged_weight(same, key), x), key


def test_free_ratios_need_not_sum_to_one(build):
    a, b = build("SD15", 1), build("SD15", 2)
    model, plan = host.merge_models(a, b, "0.5", weights_a="IN00=0.75, M00=-1")
    for key, x, y in stored(a, b):
        m_a = {"IN00": 0.75, "M00": -1.0}.get(block_of(key, SD1), 1.0)
        assert torch.equal(merged_weight(model, key), x * m_a + y * 0.5), key
    assert "0.75 A + 0.5 B" in plan.report()


def test_two_ratios_in_one_text(build):
    a, b = build("SD15", 1), build("SD15", 2)
    result = MergeTwoRatios.execute(a, b, weights="IN00=0.75, M00=-1 | GRAD_V, M00=2").result
    assert result is not None
    model, report = result
    m_b = dict(zip(SD1.blocks, presets.preset("GRAD_V"), strict=True)) | {"M00": 2.0}
    for key, x, y in stored(a, b):
        block = block_of(key, SD1) or ""
        m_a = {"IN00": 0.75, "M00": -1.0}.get(block, 1.0)
        assert torch.equal(merged_weight(model, key), x * m_a + y * m_b.get(block, 0.0)), key
    assert "-1 A + 2 B" in report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounds_once_even_where_core_would_compute_in_half(build, monkeypatch, dtype):
    import comfy.model_management

    a, b = build("SD15", 1, dtype), build("SD15", 2, dtype)
    ours, _ = host.merge_models(a, b, "0.3")
    theirs = core_merge(a, b, dict.fromkeys(core_ratios(presets.preset("ALL_A"), SD1), 0.7))
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: dtype)
    wrong = {"ours": 0, "core": 0}
    total = 0
    for key, x, y in stored(a, b):
        exact = (x.double() * 0.7 + y.double() * 0.3).to(dtype)
        wrong["ours"] += (merged_weight(ours, key) != exact).sum().item()
        wrong["core"] += (merged_weight(theirs, key) != exact).sum().item()
        total += exact.numel()
    assert wrong["ours"] < 0.02 * total
    assert wrong["core"] > 0.2 * total  # what this pack is here to mend


def test_add_difference_and_scaling(build):
    a, b, c = (build("SD15", seed) for seed in (1, 2, 3))
    added, _ = host.add_model_difference(a, b, c, "GRAD_A")
    unmoved, _ = host.add_model_difference(a, b, b, "1")
    scaled, plan = host.scale_blocks(a, "IN04=0.75")
    ratios = dict(zip(SD1.blocks, presets.preset("GRAD_A"), strict=True))
    for key, x, y, z in stored(a, b, c):
        expected = x.double() + ratios[block_of(key, SD1)] * (y.double() - z.double())
        assert torch.allclose(merged_weight(added, key).double(), expected, rtol=0, atol=1e-6), key
        assert torch.equal(merged_weight(unmoved, key), x), key
        factor = 0.75 if block_of(key, SD1) == "IN04" else 1.0
        assert torch.equal(merged_weight(scaled, key), x * factor), key
    assert set(plan.merged) == {key for key in unet_keys(a) if block_of(key, SD1) == "IN04"}


def test_a_node_tells_its_deck_the_blocks_of_the_model(build):
    a = build("SDXL", 1)
    for output in (ScaleBlocks.execute(a, weights="1"), MergeModels.execute(a, a, weights="0")):
        (layout,) = output.ui["blockwork_layout"]
        assert layout["name"] == "sdxl" and sum(len(stack["blocks"]) for stack in layout["stacks"]) == 19


def test_no_input_is_changed_and_nothing_is_kept_alive(build):
    a, b = build("SD15", 1), build("SD15", 2)
    before = snapshot(a), snapshot(b)
    model, _ = host.merge_models(a, b, "GRAD_V")
    model.patch_model(torch.device("cpu"))
    model.unpatch_model(torch.device("cpu"))
    assert not a.patches and not b.patches
    for now, kept in zip((a.model_state_dict(), b.model_state_dict()), before, strict=True):
        assert all(torch.equal(value, now[key]) for key, value in kept.items())
    dead = weakref.ref(b)
    del b
    gc.collect()
    assert dead() is None, "a merge must hold B's tensors, not B's patcher"


def test_merge_of_merges_and_lora_on_top(build):
    a, b, c = (build("SD15", seed) for seed in (1, 2, 3))
    inner, _ = host.merge_models(b, c, "0.25")
    outer, _ = host.merge_models(a, inner, "0.5")
    key = "diffusion_model.middle_block.1.proj_in.weight"
    x, y, z = (model.model_state_dict()[key] for model in (a, b, c))
    assert torch.equal(merged_weight(outer, key), x * 0.5 + (y * 0.75 + z * 0.25) * 0.5)
    diff = torch.ones_like(x)
    outer.add_patches({key: ("diff", (diff,))}, 2.0)
    assert torch.equal(merged_weight(outer, key), x * 0.5 + (y * 0.75 + z * 0.25) * 0.5 + 2 * diff)


def test_low_vram_gives_the_same_pictures(build):
    """Offloaded modules merge their weights at each forward, through core's prefetching."""
    a, b = build("SD15", 1), build("SD15", 2)
    model, _ = host.merge_models(a, b, "GRAD_V")
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 77, 768)
    outputs = []
    for budget in (0, 1):  # 0 loads everything, 1 byte offloads everything
        model.patch_model(torch.device("cpu"), lowvram_model_memory=budget)
        with torch.no_grad():
            outputs.append(model.model.diffusion_model(*inputs))
        if budget:
            assert model.model.model_lowvram and model.model.lowvram_patch_counter > 100
        model.unpatch_model(torch.device("cpu"))
    assert torch.equal(*outputs)


def test_core_rebuilds_the_patch_when_it_prefetches(build):
    a, b = build("SD15", 1), build("SD15", 2)
    model, _ = host.merge_models(a, b, "0.25")
    key = "diffusion_model.out.2.weight"
    patches = model.patches[key]
    counter = [0]
    again = [
        (p[0], comfy.lora.prefetch_prepared_value(p[1], counter, None, None, False), *p[2:]) for p in patches
    ]
    assert counter[0] >= b.model_state_dict()[key].numel() * 4
    weight = a.model_state_dict()[key]
    assert torch.equal(comfy.lora.calculate_weight(again, weight.clone(), key), merged_weight(model, key))
    for dtype in (torch.float16, torch.float32):
        out = comfy.lora.calculate_weight(again, weight.to(dtype, copy=True), key, intermediate_dtype=dtype)
        assert out.dtype == dtype


def test_inpainting_model_keeps_its_extra_channels(build):
    a, b, c = build("SD15", 1, in_channels=9), build("SD15", 2), build("SD15", 3)
    key = "diffusion_model.input_blocks.0.0.weight"
    x, y, z = (model.model_state_dict()[key] for model in (a, b, c))
    merged, plan = host.merge_models(a, b, "0.25")
    assert torch.equal(merged_weight(merged, key)[:, :4], x[:, :4] * 0.75 + y * 0.25)
    assert torch.equal(merged_weight(merged, key)[:, 4:], x[:, 4:])
    assert "merged in the first 4 channels, the others kept from A: 1" in plan.report()
    added, _ = host.add_model_difference(a, b, c, "1")
    assert torch.equal(merged_weight(added, key)[:, :4], x[:, :4] + (y - z))
    assert torch.equal(merged_weight(added, key)[:, 4:], x[:, 4:])
    with pytest.raises(MergeError, match=r"B has 9 input channels, A has 4\. Make the inpainting"):
        host.merge_models(b, a, "0.25")
    ip2p = build("SD15", 4, in_channels=8)
    assert torch.equal(merged_weight(host.merge_models(ip2p, b, "1")[0], key)[:, :4], y)
    both = merged_weight(host.merge_models(a, ip2p, "1")[0], key)
    assert torch.equal(both[:, 4:], x[:, 4:]), "a mask and an image are different channels"


def test_nan_is_an_error_or_kept_and_reported(build):
    a, b = build("SD15", 1), build("SD15", 2)
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    with torch.no_grad():
        b.model.diffusion_model.middle_block[0].in_layers[2].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(MergeError, match=f"{key} of model B holds NaN"):
        host.merge_models(a, b, "0.5")
    kept, plan = host.merge_models(a, b, "0.5", non_finite="keep A")
    x, y = a.model_state_dict()[key], b.model_state_dict()[key]
    assert torch.equal(merged_weight(kept, key), torch.where(y.isfinite(), x * 0.5 + y * 0.5, x))
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


def test_float32_weights_are_merged_in_float32_where_core_hands_out_half(build, monkeypatch):
    import comfy.model_management

    a, b = build("SD15", 1), build("SD15", 2)
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: torch.float16)
    merged, _ = host.merge_models(a, b, "0.3")
    for key, x, y in stored(a, b):
        assert torch.equal(merged_weight(merged, key), x * 0.7 + y * 0.3), key


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
