"""Mixing prompts, inpainting, regions, image to image, and style, through core's sampling."""

import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from blockwork.cascade import host_load, host_sampler, keys
from blockwork.cascade.host_model import LOW_RES, LowRes
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.host_threshold import Threshold, with_threshold
from blockwork.cascade.schedule import alphas_cumprod, respaced_timesteps
from blockwork.tests.support import cascade_files
from blockwork.tests.support.cascade_kit import CPU, conditioned, mixed, run

import nodes as core_nodes

IF_THRESHOLD = host_load.STAGE_ONE_THRESHOLD


def test_the_mixers_ends_are_plain_guidance(stage, texts):
    """By each prompt alone; all at one batch size, for a batch of three rounds differently from one of two."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "3,3")
    by_content = run(model, texts, "euler", sigmas, cfg=4.0)
    by_style = run(model, [texts[2], texts[1]], "euler", sigmas, cfg=4.0)
    assert torch.equal(mixed(model, texts, 0.0), by_content)
    torch.testing.assert_close(mixed(model, texts, 1.0), by_style, rtol=0, atol=1e-4)
    between = mixed(model, texts, 0.25)
    assert not torch.equal(between, by_content)
    assert not torch.equal(between, by_style)


def test_the_mixer_works_with_the_learned_variance(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    plain = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "3,3"), cfg=4.0)
    assert torch.equal(mixed(model, texts, 0.0, LearnedRangeSampler()), plain)
    assert mixed(model, texts, 0.5, LearnedRangeSampler()).isfinite().all()


# Starting pictures, masks and regions


def picture(size=8):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("known", host_sampler.KNOWN_REGIONS)
def test_the_known_region_is_exact_at_the_end(stage, texts, known):
    model = with_threshold(stage, IF_THRESHOLD)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6] = 1
    image = picture()
    out = run(model, texts, LearnedRangeSampler(known), stage_sigmas(model, "3,3"), latent=image, mask=mask)
    assert torch.equal(out[:, :, :2], image[:, :, :2])
    assert torch.equal(out[:, :, 6:], image[:, :, 6:])
    assert not torch.equal(out[:, :, 2:6], image[:, :, 2:6])


def test_inpainting_through_cores_ksampler(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6] = 1
    latent = {"samples": picture(), "noise_mask": mask}
    (out,) = core_nodes.KSampler().sample(
        model, 0, 4, 5.0, "ddpm", "normal", conditioned(texts[0]), conditioned(texts[1]), latent, denoise=0.8
    )
    torch.testing.assert_close(out["samples"][:, :, :2], picture()[:, :, :2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("denoise", [0.3, 0.7])
def test_image_to_image_stays_closer_the_less_it_denoises(stage, texts, denoise):
    model = with_threshold(stage, IF_THRESHOLD)
    image = picture()
    out = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "20", denoise), cfg=1.0, latent=image)
    full = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "20", 0.95), cfg=1.0, latent=image)
    assert (out - image).abs().mean() < (full - image).abs().mean()


def test_no_denoising_returns_the_picture(stage, texts):
    assert stage_sigmas(stage, "20", 0.0).numel() == 0
    image = picture()
    assert torch.equal(
        run(stage, texts, LearnedRangeSampler(), stage_sigmas(stage, "20", 0.0), latent=image), image
    )


def test_a_run_in_two_halves_is_the_whole_run(stage, texts):
    """SplitSigmas: the first half hands over a noisy latent, the second adds no noise of its own."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "6")
    draws = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]

    def sampler(start):
        rest = iter(draws[start:])
        return LearnedRangeSampler(noise_sampler=lambda _: next(rest))

    whole = run(model, texts, sampler(0), sigmas)
    half = run(model, texts, sampler(0), sigmas[:4])
    finished = comfy.samplers.sample(
        model, torch.zeros_like(half), conditioned(texts[0]), conditioned(texts[1]), 7.0, CPU, sampler(3),
        sigmas[3:], model.model_options, latent_image=half, seed=0, disable_pbar=True,
    )  # fmt: skip
    torch.testing.assert_close(finished, whole, rtol=0, atol=1e-4)


def test_regional_prompts_with_the_learned_variance(stage, texts):
    """Two halves under two prompts: where only one prompt rules, variance and picture are its own."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "1")
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[..., :4], right[..., 4:] = 1, 1
    halves = [[texts[0], {"mask": left}], [texts[2], {"mask": right}]]
    records = {}

    def recorded(name, positive):
        class Recorded(host_sampler.VarianceRecord):
            def __setattr__(self, key, value):
                if key == "v" and value is not None:
                    records[name] = value
                super().__setattr__(key, value)

        original, host_sampler.VarianceRecord = host_sampler.VarianceRecord, Recorded
        try:
            run(model, texts, LearnedRangeSampler(), sigmas, positive=positive)
        finally:
            host_sampler.VarianceRecord = original

    recorded("both", halves)
    recorded("first", conditioned(texts[0]))
    recorded("second", conditioned(texts[2]))
    torch.testing.assert_close(records["both"][..., :4], records["first"][..., :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(records["both"][..., 4:], records["second"][..., 4:], rtol=0, atol=1e-5)
    assert not torch.equal(records["first"], records["second"])


def test_an_area_and_a_weighted_prompt(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    positive = [[texts[0], {"strength": 0.7}], [texts[2], {"area": (4, 4, 2, 2), "strength": 1.3}]]
    out = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "3,1"), positive=positive)
    assert out.isfinite().all()
    assert out.abs().max() <= 1.5


def test_the_variance_is_the_positive_prompts_wherever_it_stands(stage, texts):
    """Core's dual-CFG guider lists the negative prompt first."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model = with_threshold(stage, IF_THRESHOLD)
    guider = Guider_DualCFG(model)
    guider.set_conds(conditioned(texts[0]), conditioned(texts[2]), conditioned(texts[1]))
    guider.set_cfg(3.0, 2.0)
    record = host_sampler.VarianceRecord(guider)
    guider.conds = {"positive": ["p"], "middle": ["m"], "negative": ["n"]}
    conds = [guider.conds[key] for key in ("negative", "middle", "positive")]
    outs = record(
        lambda *_: [torch.full((1, 6, 2, 2), float(i)) for i in range(3)],
        None,
        conds,
        torch.zeros(1, 3, 2, 2),
        None,
        {},
    )
    assert record.v.unique().tolist() == [2.0]
    assert [out.shape[1] for out in outs] == [3, 3, 3]


@pytest.mark.parametrize("spacing, denoise", [("20", 0.3), ("5,0,0,0", 1.0)])
def test_an_empty_latent_starts_at_the_noise_of_its_first_sigma(stage, texts, spacing, denoise):
    """Below pure noise an empty latent is a grey image with that much noise, not the noise alone."""
    sigmas = stage_sigmas(stage, spacing, denoise)
    seen = []

    def first(apply_model, args):
        seen.append(args["input"][:1, :3] / (1 + float(sigmas[0]) ** 2) ** 0.5)
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = with_threshold(stage, IF_THRESHOLD)
    model.set_model_unet_function_wrapper(first)
    run(model, texts, LearnedRangeSampler(), sigmas, size=32)
    expected = float(sigmas[0] / (1 + sigmas[0] ** 2).sqrt())
    assert expected < 0.6
    assert seen[0].std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("first", [999, 990, 980, 962])
def test_released_lists_start_from_the_noise_itself(first):
    sigma = float(((1 - alphas_cumprod("cosine")) / alphas_cumprod("cosine")).sqrt()[first])
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert host_sampler.starting_point(torch.zeros_like(noise), noise, sigma) is noise
    clean = torch.ones_like(noise)
    assert not torch.equal(host_sampler.starting_point(clean, noise, sigma), noise)


class PaintsOver(torch.nn.Module):
    """A perfect super-resolution network: the picture from below, in a texture that the prompt chooses."""

    dtype = torch.float32

    def encode_text(self, text, pooled=None):
        return text.mean(dim=(1, 2))

    def forward(self, x, timesteps, *, aug_steps, text):
        noisy, picture = x.split(3, dim=1)
        abar = alphas_cumprod("cosine")[timesteps.long()].float().view(-1, 1, 1, 1)
        rows, columns = (torch.arange(n) for n in x.shape[-2:])
        checks = 1 - 2 * ((rows[:, None] + columns) % 2)  # no mean over any window of even size
        x0 = picture + 0.3 * text.view(-1, 1, 1, 1) * checks
        eps = (noisy - abar.sqrt() * x0) / (1 - abar).sqrt()
        return torch.cat([eps, torch.zeros_like(eps)], dim=1)


@pytest.mark.parametrize("fresh", [False, True])
def test_augmentation_noise_does_not_depend_on_how_core_batches(fresh, monkeypatch):
    """Both prompts in one call of the model, or one after the other: the same noise for each, new at each step."""
    weights = cascade_files.stage_state_dict(cascade_files.stage_config("II"))
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights))
    model = with_threshold(model, Threshold(mode="static"))
    low = torch.zeros(1, 3, 8, 8)

    def seen(apart):
        found = []

        def spy(apply_model, args):
            found.append((args["cond_or_uncond"], args["c"]["low_res"]))
            return apply_model(args["input"], args["timestep"], **args["c"])

        one = model.clone()
        one.set_model_unet_function_wrapper(spy)
        images, network = {0: [], 1: []}, one.model.diffusion_model.forward

        def forward(x, *args, **kwargs):
            for branch, image in zip(found[-1][0], x[:, 3:], strict=True):
                images[branch].append(image)
            return network(x, *args, **kwargs)

        monkeypatch.setattr(one.model.diffusion_model, "forward", forward)
        if apart:
            monkeypatch.setattr(type(one), "get_free_memory", lambda *_: 0)
        text = torch.zeros(1, 4, 64)
        conds = (conditioned(text, **{LOW_RES: LowRes(low, 0.5, fresh)}) for _ in range(2))
        noise = torch.zeros(1, 3, 16, 16)
        comfy.samplers.sample(
            one, noise, *conds, 4.0, CPU, comfy.samplers.sampler_object("euler"), stage_sigmas(one, "3"),
            one.model_options, latent_image=noise, seed=0, disable_pbar=True,
        )  # fmt: skip
        monkeypatch.undo()
        assert {len(branches) for branches, _ in found} == ({1} if apart else {2})
        return images

    together, apart = seen(False), seen(True)
    for branch in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(together[branch], apart[branch], strict=True))
        assert torch.equal(together[branch][0], together[branch][1]) != fresh
    assert torch.equal(together[0][0], together[1][0]) != fresh  # each half of the guidance has its own


def test_a_changed_prompt_repaints_and_keeps_the_picture():
    """Stage II with another prompt at the level Imagen uses for it: other pixels, the same picture from afar."""
    weights = cascade_files.stage_state_dict(cascade_files.stage_config("II"))
    model = comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights))
    model.model.diffusion_model = PaintsOver()
    model = with_threshold(model, Threshold(mode="static"))
    low = 0.3 * (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    negative = torch.zeros(1, 4, 64)

    def drawn(level, text):
        texts = [torch.full((1, 4, 64), text), negative]
        positive, empty = (conditioned(one, **{LOW_RES: LowRes(low, level)}) for one in texts)
        noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        return comfy.samplers.sample(
            model, noise, positive, empty, 4.0, CPU, LearnedRangeSampler(), stage_sigmas(model, "smart27"),
            model.model_options, latent_image=torch.zeros_like(noise), seed=0, disable_pbar=True,
        )  # fmt: skip

    def from_afar(picture, side=8):
        return torch.nn.functional.adaptive_avg_pool2d(picture, side)

    for level in (0.0, 0.3):
        kept, changed = drawn(level, 0.1), drawn(level, -0.1)
        away = [(from_afar(one) - from_afar(low)).abs().mean() for one in (kept, changed)]
        assert away[1] <= 1.1 * away[0] < 0.1, (level, away)
        assert (changed - kept).abs().mean() > 0.15
    assert (drawn(0.3, 0.1) - drawn(0.0, 0.1)).abs().mean() > 0.1  # the noise hid the details


def test_style_prompt_changes_the_pooled_path_alone(stage, texts):
    from blockwork.cascade.host_text import with_pooled_text

    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "2,1")
    content, style = conditioned(texts[0], mark=1), conditioned(texts[2])
    styled = with_pooled_text(content, style)
    assert content == conditioned(texts[0], mark=1)
    same = run(model, texts, "euler", sigmas, positive=with_pooled_text(content, content))
    plain = run(model, texts, "euler", sigmas)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)
    assert not torch.equal(run(model, texts, "euler", sigmas, positive=styled), plain)


def test_named_lists_become_sigmas(stage):
    table = stage.get_model_object("model_sampling").sigmas
    sigmas = stage_sigmas(stage, "smart50")
    assert sigmas[-1] == 0
    assert torch.equal(sigmas[:-1], table[respaced_timesteps("smart50")])
