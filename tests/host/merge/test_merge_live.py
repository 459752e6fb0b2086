"""Live merging on models of ComfyUI's own classes: parity with core, identities, odd inputs, limits."""

import gc
import weakref

import comfy.lora
import comfy.weight_adapter
import pytest
import torch
from blockwork.blocks import presets
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1, SDXL
from blockwork.merge.errors import MergeError
from blockwork.merge.live import host
from blockwork.nodes.merge import MergeModels, MergeTwoRatios, ScaleBlocks
from blockwork.tests.support.loading import loaded_weight

UNET = "diffusion_model."


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
        assert torch.equal(loaded_weight(ours, key), loaded_weight(theirs, key)), key


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
            assert torch.equal(loaded_weight(ours, key), loaded_weight(theirs, key)), key


def test_result_does_not_depend_on_the_order_of_keys(build):
    a, b = build("SD15", 1), build("SD15", 2)
    weights = "GRAD_V"
    pairs = ", ".join(
        f"{n}={v!r}" for n, v in reversed(list(zip(SD1.blocks, presets.preset(weights), strict=True)))
    )
    first, second = host.merge_models(a, b, weights)[0], host.merge_models(a, b, pairs)[0]
    for key in unet_keys(a):
        assert torch.equal(loaded_weight(first, key), loaded_weight(second, key)), key


def test_extremes_are_the_models_themselves(build):
    a, b = build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)
    all_a, plan = host.merge_models(a, b, "ALL_A")
    assert not plan.merged and not all_a.patches
    all_b, _ = host.merge_models(a, b, "ALL_B")
    for key, y in stored(b):
        assert torch.equal(loaded_weight(all_b, key), y), key


def test_half_and_half_is_symmetric_and_a_with_itself_is_a(build):
    a, b = build("SD15", 1, torch.float16), build("SD15", 2, torch.float16)
    forward, backward = host.merge_models(a, b, "0.5")[0], host.merge_models(b, a, "0.5")[0]
    same = host.merge_models(a, a, "0.3")[0]
    for key, x in stored(a):
        assert torch.equal(loaded_weight(forward, key), loaded_weight(backward, key)), key
        assert torch.equal(loaded_weight(same, key), x), key


def test_free_ratios_need_not_sum_to_one(build):
    a, b = build("SD15", 1), build("SD15", 2)
    model, plan = host.merge_models(a, b, "0.5", weights_a="IN00=0.75, M00=-1")
    for key, x, y in stored(a, b):
        m_a = {"IN00": 0.75, "M00": -1.0}.get(block_of(key, SD1), 1.0)
        assert torch.equal(loaded_weight(model, key), x * m_a + y * 0.5), key
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
        assert torch.equal(loaded_weight(model, key), x * m_a + y * m_b.get(block, 0.0)), key
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
        wrong["ours"] += (loaded_weight(ours, key) != exact).sum().item()
        wrong["core"] += (loaded_weight(theirs, key) != exact).sum().item()
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
        assert torch.allclose(loaded_weight(added, key).double(), expected, rtol=0, atol=1e-6), key
        assert torch.equal(loaded_weight(unmoved, key), x), key
        factor = 0.75 if block_of(key, SD1) == "IN04" else 1.0
        assert torch.equal(loaded_weight(scaled, key), x * factor), key
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
    assert torch.equal(loaded_weight(outer, key), x * 0.5 + (y * 0.75 + z * 0.25) * 0.5)
    diff = torch.ones_like(x)
    outer.add_patches({key: ("diff", (diff,))}, 2.0)
    assert torch.equal(loaded_weight(outer, key), x * 0.5 + (y * 0.75 + z * 0.25) * 0.5 + 2 * diff)


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
    assert torch.equal(comfy.lora.calculate_weight(again, weight.clone(), key), loaded_weight(model, key))
    for dtype in (torch.float16, torch.float32):
        out = comfy.lora.calculate_weight(again, weight.to(dtype, copy=True), key, intermediate_dtype=dtype)
        assert out.dtype == dtype


def test_inpainting_model_keeps_its_extra_channels(build):
    a, b, c = build("SD15", 1, in_channels=9), build("SD15", 2), build("SD15", 3)
    key = "diffusion_model.input_blocks.0.0.weight"
    x, y, z = (model.model_state_dict()[key] for model in (a, b, c))
    merged, plan = host.merge_models(a, b, "0.25")
    assert torch.equal(loaded_weight(merged, key)[:, :4], x[:, :4] * 0.75 + y * 0.25)
    assert torch.equal(loaded_weight(merged, key)[:, 4:], x[:, 4:])
    assert "merged in the first 4 channels, the others kept from A: 1" in plan.report()
    added, _ = host.add_model_difference(a, b, c, "1")
    assert torch.equal(loaded_weight(added, key)[:, :4], x[:, :4] + (y - z))
    assert torch.equal(loaded_weight(added, key)[:, 4:], x[:, 4:])
    with pytest.raises(MergeError, match=r"B has 9 input channels, A has 4\. Make the inpainting"):
        host.merge_models(b, a, "0.25")
    ip2p = build("SD15", 4, in_channels=8)
    assert torch.equal(loaded_weight(host.merge_models(ip2p, b, "1")[0], key)[:, :4], y)
    both = loaded_weight(host.merge_models(a, ip2p, "1")[0], key)
    assert torch.equal(both[:, 4:], x[:, 4:]), "a mask and an image are different channels"


def test_float32_weights_are_merged_in_float32_where_core_hands_out_half(build, monkeypatch):
    import comfy.model_management

    a, b = build("SD15", 1), build("SD15", 2)
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: torch.float16)
    merged, _ = host.merge_models(a, b, "0.3")
    for key, x, y in stored(a, b):
        assert torch.equal(loaded_weight(merged, key), x * 0.7 + y * 0.3), key
