"""The pixel U-Net against diffusers' and DeepFloyd's, and what it reads out of bare tensors."""

import pytest
import torch
from blockwork.cascade import keys
from blockwork.cascade.unet import PixelUNet, describe, from_state_dict
from blockwork.cascade.unet_config import UNetConfig
from blockwork.tests.support import cascade_oracles as oracles

ARGUMENTS = {
    "stage I": oracles.stage_one_arguments(),
    "stage II": oracles.stage_two_arguments(),
    "stage III": oracles.stage_three_arguments(),
}
SMALL = dict(head_channels=16, pool_heads=4)


@pytest.fixture(scope="module", params=ARGUMENTS)
def pair(request):
    theirs = oracles.diffusers_unet(ARGUMENTS[request.param])
    return theirs, from_state_dict(theirs.state_dict(), **SMALL)


def both(pair, size, timesteps, tokens, dtype=torch.float32):
    theirs, ours = pair
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(len(timesteps), ours.config.in_channels, *size, generator=generator).to(dtype)
    text = torch.randn(len(timesteps), tokens, ours.config.text_dim, generator=generator).to(dtype)
    t = torch.tensor(timesteps)
    aug = (t * 7 + 250) % 1000 if ours.config.super_resolution else None
    expected = theirs(x, t, encoder_hidden_states=text, class_labels=aug).sample
    return ours(x, t, text, aug_steps=aug), expected


@pytest.mark.parametrize(
    ("size", "timesteps", "tokens"),
    [((64, 32), [0, 1, 500], 77), ((32, 96), [999], 2), ((32, 32), [999, 0, 1], 77)],
)
def test_forward_is_diffusers(pair, size, timesteps, tokens):
    ours, theirs = both(pair, size, timesteps, tokens)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_forward_is_diffusers_in_double(pair, monkeypatch):
    # diffusers takes the softmax of its text pooling in float32 whatever the network's dtype.
    single = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.is_floating_point() else single(x))
    theirs, ours = (net.to(torch.float64) for net in pair)
    try:
        mine, expected = both((theirs, ours), (64, 32), [0, 500, 999], 77, torch.float64)
    finally:
        theirs.to(torch.float32)
        ours.to(torch.float32)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["stage I", "stage II"])
def test_odd_sizes(name):
    theirs = oracles.diffusers_unet(ARGUMENTS[name])
    ours = from_state_dict(theirs.state_dict(), **SMALL)
    mine, expected = both((theirs, ours), (72, 40), [1, 500, 999], 77)
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-5)
    x = torch.randn(1, ours.config.in_channels, 37, 51)  # no multiple of 4: diffusers cannot, ours can
    aug = torch.tensor([3]) if ours.config.super_resolution else None
    assert ours(x, torch.tensor([500]), torch.randn(1, 5, 64), aug_steps=aug).shape == (1, 6, 37, 51)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_original_network_agrees(name):
    config = from_state_dict(oracles.diffusers_unet(ARGUMENTS[name]).state_dict(), **SMALL).config
    theirs = oracles.original_unet(config)
    state_dict = keys.to_original(oracles.diffusers_unet(ARGUMENTS[name]).state_dict(), 16)
    theirs.load_state_dict(state_dict)  # strict: our original keys are exactly theirs
    ours = from_state_dict(state_dict, **SMALL)
    x, t = torch.randn(2, config.image_channels, 32, 32), torch.tensor([20, 900])
    text = torch.randn(2, 9, 64)
    if config.super_resolution:  # aug level 0 leaves sqrt(abar_0) of the picture and a little noise
        low = torch.randn(2, 3, 32, 32)
        noise = torch.randn_like(low)
        theirs.low_res_diffusion.q_sample = lambda image, steps: 0.9 * image + 0.1 * noise
        expected = theirs(x, t, low_res=low, aug_level=0.25, text_emb=text)
        x = torch.cat([x, 0.9 * low + 0.1 * noise], dim=1)
        mine = ours(x, t, text, aug_steps=torch.tensor([250, 250]))
    else:
        expected = theirs(x, t, text)
        mine = ours(x, t, text)
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-5)


def test_a_style_prompt_reaches_the_pooled_embedding_alone():
    theirs = oracles.original_unet(
        from_state_dict(oracles.diffusers_unet(ARGUMENTS["stage I"]).state_dict(), **SMALL).config
    )
    theirs.load_state_dict(keys.to_original(oracles.diffusers_unet(ARGUMENTS["stage I"]).state_dict(), 16))
    ours = from_state_dict(theirs.state_dict(), **SMALL)
    text, style = torch.randn(1, 9, 64), torch.randn(1, 9, 64)
    plain, styled = ours.encode_text(text), ours.encode_text(text, style)
    assert all(
        torch.equal(a, b)
        for one, two in zip(plain.kv, styled.kv, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(plain.pooled, styled.pooled)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([400])
    torch.testing.assert_close(
        ours(x, t, text=styled), theirs(x, t, text, timestep_text_emb=style), rtol=0, atol=2e-5
    )


def test_text_computed_beforehand_gives_the_same_bits(pair):
    _, ours = pair
    x, t = torch.randn(1, ours.config.in_channels, 32, 32), torch.tensor([400])
    text = torch.randn(1, 9, 64)
    aug = torch.tensor([100]) if ours.config.super_resolution else None
    assert torch.equal(ours(x, t, text, aug), ours(x, t, aug_steps=aug, text=ours.encode_text(text)))


def test_both_formats_round_trip_and_load_alike(pair):
    theirs, ours = pair
    diffusers = theirs.state_dict()
    original = keys.to_original(diffusers, 16)
    back = keys.to_diffusers(original, 16)
    assert back.keys() == diffusers.keys()
    assert all(torch.equal(back[key], diffusers[key]) for key in diffusers)
    again = keys.to_original(back, 16)
    assert again.keys() == original.keys()
    assert all(torch.equal(again[key], original[key]) for key in original)
    twin = from_state_dict(original, **SMALL)
    x, t = torch.randn(1, ours.config.in_channels, 32, 32), torch.tensor([400])
    aug = torch.tensor([100]) if ours.config.super_resolution else None
    text = torch.randn(1, 9, 64)
    assert torch.equal(ours(x, t, text, aug), twin(x, t, text, aug))


def released(base: int, context: int, **changes) -> UNetConfig:
    config = dict(
        in_channels=3, out_channels=6, widths=(base, 2 * base, 3 * base, 4 * base), layers=(3, 3, 3, 3),
        attention=("none", "joint", "joint", "joint"), middle_attention="joint", time_dim=4 * base,
        text_dim=4096, context_dim=context, projects_text=True, super_resolution=False,
    )  # fmt: skip
    return UNetConfig(**{**config, **changes})


SUPER = dict(
    in_channels=6, middle_attention="text", super_resolution=True, layers=(2, 2, 3, 5, 5), context_dim=768
)
CONFIGS = {
    "IF-I-M": (released(192, 768), 371_605_830),
    "IF-I-L": (released(320, 1280), 935_365_830),
    "IF-I-XL": (released(704, 2816), 4_304_695_110),
    "five levels, two of one width": (
        released(192, 768, **SUPER, widths=(192, 384, 768, 1152, 1152),
                 attention=("none",) * 3 + ("text",) * 2, time_dim=1152),
        None,
    ),
    "six levels": (
        released(128, 768, **{**SUPER, "layers": (2, 2, 3, 3, 4, 4)}, widths=(128, 128, 256, 256, 512, 512),
                 attention=("none",) * 5 + ("text",), time_dim=512),
        None,
    ),
    "text not projected": (released(64, 4096, projects_text=False), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_from_bare_tensors(name):
    config, parameters = CONFIGS[name]
    state_dict = PixelUNet(config, device="meta").state_dict()
    assert describe(state_dict) == config
    original = keys.to_original(state_dict)
    assert describe(keys.to_diffusers(original)) == config
    if parameters:
        assert sum(tensor.numel() for tensor in state_dict.values()) == parameters
        assert (len(original), len(state_dict)) == (643, 775)


def test_the_released_shape_is_diffusers_own():
    from diffusers import UNet2DConditionModel

    arguments = {
        **ARGUMENTS["stage I"], "layers_per_block": 3, "block_out_channels": (192, 384, 576, 768),
        "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
        "time_embedding_dim": 768, "cross_attention_dim": 768, "encoder_hid_dim": 4096,
        "attention_head_dim": 64, "addition_embed_type_num_heads": 64,
    }  # fmt: skip
    with torch.device("meta"):
        theirs = UNet2DConditionModel(**arguments)
    assert describe(theirs.state_dict()) == CONFIGS["IF-I-M"][0]


def small_state_dict():
    return dict(oracles.diffusers_unet(ARGUMENTS["stage I"]).state_dict())


@pytest.mark.parametrize("original", [False, True])
def test_a_broken_file_is_refused_by_name(original):
    whole = keys.to_original(small_state_dict(), 16) if original else small_state_dict()
    lost = "out.2.bias" if original else "conv_out.bias"
    with pytest.raises(keys.KeysError, match=r"missing: conv_out\.bias"):
        from_state_dict({k: v for k, v in whole.items() if k != lost}, **SMALL)
    with pytest.raises(keys.KeysError, match="stranger"):
        from_state_dict({**whole, "stranger.weight": torch.zeros(1)}, **SMALL)
    with pytest.raises(keys.KeysError, match="of another shape"):
        from_state_dict({**whole, lost: torch.zeros(7)}, **SMALL)
    middle = "middle_block.1.encoder_kv.weight" if original else "mid_block.attentions.0.add_k_proj.weight"
    with pytest.raises(keys.KeysError, match=r"add_k_proj\.weight is missing"):
        from_state_dict({k: v for k, v in whole.items() if k != middle}, **SMALL)


def test_another_model_is_refused():
    with pytest.raises(keys.KeysError, match="not an IF stage"):
        from_state_dict({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)})


def test_heads_that_do_not_divide_are_refused():
    for heads in (dict(head_channels=48), dict(pool_heads=48)):
        with pytest.raises(keys.KeysError, match="48"):
            from_state_dict(small_state_dict(), **heads)


def test_missing_inputs_are_refused():
    ours = from_state_dict(small_state_dict(), **SMALL)
    with pytest.raises(ValueError, match="needs text"):
        ours(torch.randn(1, 3, 16, 16), torch.tensor([1]))
    second = from_state_dict(oracles.diffusers_unet(ARGUMENTS["stage II"]).state_dict(), **SMALL)
    with pytest.raises(ValueError, match="aug_steps"):
        second(torch.randn(1, 6, 16, 16), torch.tensor([1]), torch.randn(1, 2, 64))
