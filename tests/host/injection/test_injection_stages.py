"""Block prompts on IF stages: the laws of the other models, for text that is projected per attention."""

import comfy.sd
import pytest
import torch
from blockwork.cascade import keys
from blockwork.cascade.host_model import POOLED_TEXT
from blockwork.injection import host
from blockwork.injection.entries import InjectionError
from blockwork.nodes.injection import InjectIntoBlocks, InjectionPlan
from blockwork.tests.support import cascade_files, cascade_kit
from blockwork.tests.support.injection_kit import COND, UNCOND, carry, cfg_guider, predictions, sample, worst


@pytest.fixture(scope="module")
def model():
    assert cascade_kit.minimal_stage  # registers the stages
    state = cascade_files.stage_state_dict(cascade_files.stage_config("I"), output_scale=1.0)
    return comfy.sd.load_diffusion_model_state_dict(keys.to_original(state))


def text(seed, tokens=6, **options):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, 64, generator=generator), options]]


OWN, NEGATIVE, X = text(1), text(2), text(3)


def run(model, positive, negative=NEGATIVE, batch=1, **options):
    noise = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    return predictions(model, positive, negative, noise=noise, **options)


def test_the_blocks_are_named_as_in_the_released_files(model):
    blocks = host.blocks_of(model)
    assert [block.name for block in blocks.attending] == ["IN03", "M00", "OUT00", "OUT01"]
    order = [block.diffusers for block in blocks.attending]
    network = model.model.diffusion_model
    assert [network.get_submodule(name) for name in order] == network.attentions()
    state = cascade_files.stage_state_dict(network.config)
    released = {key.split(".")[1] for key in keys.to_original(state) if key.startswith("input_blocks")}
    assert len(released) == sum(block.side == "input" for block in blocks.blocks)


@pytest.mark.parametrize(("batch", "cfg"), [(1, 1.0), (3, 5.0)])
def test_x_in_all_blocks_is_x_and_nothing_is_nothing(model, batch, cfg):
    ready = host.prepare(model)
    expected, base = run(model, X, batch=batch, cfg=cfg), run(model, OWN, batch=batch, cfg=cfg)
    got = run(ready, carry(model, OWN, X, pooled=True), batch=batch, cfg=cfg)
    off = run(ready, carry(model, OWN, X, weight=0.0, pooled=True), batch=batch, cfg=cfg)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(off.predictions[0][COND], base.predictions[0][COND])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 1e-3
    if cfg > 1:
        assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])


def test_keys_and_values_blocks_and_times(model):
    ready = host.prepare(model)
    expected, base = (run(model, one, steps=2).predictions for one in (X, OWN))
    both = carry(model, carry(model, OWN, X, part="k", pooled=True), X, part="v", pooled=True)
    assert torch.equal(run(ready, both).predictions[0][COND], expected[0][COND])
    seen = [base[0][COND]]
    for spec in ("all/k", "all/v", "M00", "IN03, OUT00", "all=0.5"):
        seen.append(run(ready, carry(model, OWN, X, spec)).predictions[0][COND])
    assert all(worst(a, b) > 1e-5 for n, a in enumerate(seen) for b in seen[:n])
    first = run(ready, carry(model, OWN, X, "all@s0-1", pooled=True), steps=2).predictions
    late = run(ready, carry(model, OWN, X, "all@s1-2", pooled=True), steps=2).predictions
    assert torch.equal(first[0][COND], expected[0][COND]) and torch.equal(late[0][COND], base[0][COND])


def test_another_token_count_runs_apart_and_is_exact(model):
    """Text and image tokens share one softmax, so no text is repeated to the length of another."""
    longer = text(4, tokens=9)
    got = run(host.prepare(model), carry(model, OWN, longer, pooled=True))
    expected, base = run(model, longer), run(model, OWN, cfg=5.0)
    assert worst(got.predictions[0][COND], expected.predictions[0][COND]) < 1e-5
    assert worst(got.predictions[0][UNCOND], base.predictions[0][UNCOND]) < 1e-5


def test_two_samplers_and_the_negative_alone(model):
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    ready, injected = host.prepare(model), carry(model, NEGATIVE, X, pooled=True)
    for sampler in ("euler", "heun"):
        images = [
            sample(cfg_guider(one, OWN, negative), noise, steps=2, sampler=sampler)
            for one, negative in ((model, X), (ready, injected))
        ]
        assert torch.equal(*images)


def test_a_style_prompt_keeps_its_own_pooled_text(model):
    styled = text(1, **{POOLED_TEXT: text(5)[0][0]})
    negative = text(2, **{POOLED_TEXT: text(5)[0][0]})
    got = run(host.prepare(model), carry(model, styled, X), negative)
    expected = run(model, text(3, **{POOLED_TEXT: text(5)[0][0]}), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    with pytest.raises(InjectionError, match=r"IF Style Prompt.*base"):
        run(host.prepare(model), carry(model, styled, X, pooled=True), negative)


def test_nodes_and_what_stays_behind(model):
    ready, injected = InjectIntoBlocks.execute(model, OWN, X, blocks="M00=0.5", pooled="injected").result
    plan = InjectionPlan.execute(ready, injected).result[1]
    assert "replace 0.5 in M00" in plan and "pooled embedding: injected" in plan
    run(ready, injected)
    assert not model.model.diffusion_model._forward_pre_hooks
    with pytest.raises(ValueError, match="IN03 M00 OUT00 OUT01"):
        InjectIntoBlocks.execute(model, OWN, X, blocks="B00")
