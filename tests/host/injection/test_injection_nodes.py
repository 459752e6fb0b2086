"""The nodes: what their widgets ask for is what happens, and wrong input gets an error that helps."""

import pytest
import torch
from blockwork.blocks.spec import SpecError
from blockwork.blocks.walk import NotAUNet
from blockwork.injection import host, host_change
from blockwork.injection.concept import SD1
from blockwork.injection.entries import InjectionError
from blockwork.injection.presets import PRESETS
from blockwork.nodes import injection as nodes
from blockwork.tests.support.injection_kit import carry, predictions, prompt, tiny_model

COND, UNCOND = 0, 1


def inject(model, conditioning, tokens, blocks="all", **options):
    return nodes.InjectIntoBlocks.execute(model, conditioning, tokens, blocks, **options).result


def first(model, positive, negative=None):
    return predictions(model, positive, negative or prompt(2)).predictions[0]


def test_inject_into_blocks(model):
    ready, conditioning = inject(model, prompt(1), prompt(3))
    assert torch.equal(first(ready, conditioning)[COND], first(model, prompt(3))[COND])
    ready, conditioning = inject(model, prompt(1), prompt(3), "M00", mode="lerp", weight=0.5, part="values")
    expected = carry(model, prompt(1), prompt(3), "M00=0.5/v", mode="lerp")
    assert torch.equal(first(ready, conditioning)[COND], first(ready, expected)[COND])


def test_chained_nodes_act_in_order(model):
    one, conditioning = inject(model, prompt(1), prompt(3), "coarse")
    two, conditioning = inject(one, conditioning, prompt(4), "fine")
    expected = carry(model, carry(model, prompt(1), prompt(3), "coarse"), prompt(4), "fine")
    assert torch.equal(first(two, conditioning)[COND], first(one, expected)[COND])
    assert len(two.wrappers["apply_model"][host.KEY]) == 1


def test_ranges_and_reference(model):
    base = first(model, prompt(1))[COND]
    ready, late = inject(model, prompt(1), prompt(3), start_percent=0.5)
    assert torch.equal(first(ready, late)[COND], base)
    ready, late = inject(model, prompt(1), prompt(3), first_step=3, last_step=5)
    assert torch.equal(first(ready, late)[COND], base)
    ready, moved = inject(model, prompt(1), prompt(3), mode="add", weight=0.5, reference=prompt(4))
    tokens = prompt(1)[0][0] + 0.5 * (prompt(3)[0][0] - prompt(4)[0][0])
    assert torch.equal(first(ready, moved)[COND], first(model, [[tokens, {}]])[COND])


@pytest.mark.parametrize(("pooled", "share"), [("base", 0.0), ("injected", 1.0), ("lerp", 0.25)])
def test_pooled_embedding(pooled, share):
    model = tiny_model("sdxl")
    own, other = prompt(1, width=2048), prompt(3, width=2048)
    _, conditioning = inject(model, own, other, mode="lerp", weight=0.25, pooled=pooled)
    expected = own[0][1]["pooled_output"] * (1 - share) + other[0][1]["pooled_output"] * share
    assert torch.equal(conditioning[0][1]["pooled_output"], expected)
    assert torch.equal(own[0][1]["pooled_output"], prompt(1, width=2048)[0][1]["pooled_output"])
    with pytest.raises(InjectionError, match="no pooled embedding"):
        inject(model, own, [[other[0][0], {}]], pooled="injected")


def test_the_models_own_injection(model):
    by_name = nodes.InjectIntoModel.execute(model, "negative", prompt(3), "all").result[0]
    got, expected = first(by_name, prompt(1)), first(model, prompt(1), prompt(3))
    assert torch.equal(got[COND], expected[COND]) and torch.equal(got[UNCOND], expected[UNCOND])
    both = nodes.InjectIntoModel.execute(model, "positive and negative", prompt(3), "all").result[0]
    expected = first(model, prompt(3), prompt(3))
    assert all(torch.equal(a, b) for a, b in zip(first(both, prompt(1)), expected, strict=True))
    pooled = nodes.InjectIntoModel.execute(
        tiny_model("sdxl"), "positive", prompt(3, width=2048), "all", pooled="injected"
    )
    own = [prompt(seed, width=2048) for seed in (1, 2, 3)]
    got = first(pooled.result[0], own[0], own[1])
    assert torch.equal(got[COND], first(tiny_model("sdxl"), own[2], own[1])[COND])


def test_stacked_on_the_model_and_on_the_conditioning(model):
    """The model's injections act after those the conditioning carries."""
    ready, conditioning = inject(model, prompt(1), prompt(3))
    both = nodes.InjectIntoModel.execute(ready, "positive", prompt(4), "coarse").result[0]
    expected = carry(model, carry(model, prompt(1), prompt(3)), prompt(4), "coarse")
    assert torch.equal(first(both, conditioning)[COND], first(ready, expected)[COND])


def test_plan(model):
    ready, conditioning = inject(model, prompt(1), prompt(3), "coarse=0.5", mode="lerp", label="lizard")
    _, conditioning = inject(ready, conditioning, prompt(4), "fine@0-0.4", part="keys")
    two = [*conditioning, *prompt(5)]
    picture, text = nodes.InjectionPlan.execute(ready, two).result
    assert picture.shape[0] == 2 and picture.shape[3] == 3 and picture.dtype == torch.float32
    assert not torch.equal(picture[0], picture[1])
    assert "1. lizard: lerp 0.5 in IN07" in text and "to keys in IN01" in text and "@0-0.4" in text
    assert "No injections" in text


def test_presets_name_blocks_that_exist():
    models = {"SD1": SD1, "SDXL": host.blocks_of(tiny_model("sdxl"))}
    for name, preset in PRESETS.items():
        spec, source = nodes.BlockPresetNode.execute(name).result
        assert preset.source in source
        for kind, blocks in models.items():
            if kind in preset.models or preset.models == "any":
                assert host_change.parse(spec, blocks).settings


def test_errors_say_what_to_do(model):
    own, other = prompt(1), prompt(3)
    for wrong, message in (
        ({"blocks": "IN03"}, "no cross-attention"),
        ({"blocks": "IN77"}, "Blocks of this model"),
        ({"blocks": ""}, "empty"),
    ):
        with pytest.raises(SpecError, match=message):
            inject(model, own, other, **wrong)
    for options, message in (
        ({"mode": "concat", "weight": 0.5}, "or mode 'lerp'"),
        ({"mode": "add"}, "Connect the reference"),
        ({"start_percent": 0.6, "end_percent": 0.4}, "never act"),
    ):
        with pytest.raises(InjectionError, match=message):
            inject(model, own, other, **options)
    placed = {
        "area": (8, 8, 0, 0),
        "mask": torch.ones(1, 8, 8),
        "gligen": (),
        "default": True,
        "unclip_conditioning": [],
    }
    for key, value in placed.items():
        with pytest.raises(InjectionError, match="attends to a text only"):
            inject(model, own, [[other[0][0], {key: value}]])
    with pytest.raises(InjectionError, match=r"strength of 0\.5"):
        inject(model, own, [[other[0][0], {"strength": 0.5}]])
    with pytest.raises(InjectionError, match="hooks"):
        inject(model, own, [[other[0][0], {"hooks": object()}]])
    with pytest.raises(InjectionError, match="2048 numbers wide"):
        inject(model, own, prompt(3, width=2048))
    with pytest.raises(InjectionError, match="carries block prompts"):
        inject(model, own, carry(model, own, other))
    with pytest.raises(InjectionError, match="no conditioning"):
        inject(model, own, [])


def test_models_without_cross_attention_blocks(model):
    other = model.clone()
    other.model = type("Wrapped", (), {"diffusion_model": torch.nn.Linear(1, 1)})()
    with pytest.raises(NotAUNet, match="has no cross-attention blocks"):
        inject(other, prompt(1), prompt(3))
