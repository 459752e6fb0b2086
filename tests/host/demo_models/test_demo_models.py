"""The demo models in ComfyUI, and what the pack's methods mean on it: thresholds stand off the figures of docs/studies."""

import blockwork.demo_models.files as files
import blockwork.demo_models.host as demo_models
import comfy.sd
import comfy.supported_models
import pytest
import torch
from blockwork.demo_models import drawing, world
from blockwork.deprojector.host.texts import encode, image_embedding
from blockwork.merge.live.host import merge_models
from demo_models.clip import load_text

from demo_models import sampling, study_base, study_blocks, study_deprojector, study_merge


def test_core_detects_the_model_and_its_relatives_stay_what_they_are():
    model = sampling.model()
    assert isinstance(model.model.model_config, demo_models.DemoModel)
    assert model.model.latent_format.spacial_downscale_ratio == 4
    sd15 = {**model.model.model_config.unet_config, "context_dim": 768, "model_channels": 320}
    assert comfy.supported_models.SD15.matches(sd15)
    assert not demo_models.DemoModel.matches(sd15)


def test_a_merge_that_was_saved_is_read_again_by_core(tmp_path):
    def head(patcher):  # copied: saving loads the patches into the weights that base and merge share
        return patcher.model.diffusion_model.out[2].weight.detach().clone()

    base, ink = head(sampling.model()), head(sampling.model("ink"))
    merged = merge_models(sampling.model(), sampling.model("ink"), "0.5")[0]
    path = str(tmp_path / "merged.safetensors")
    comfy.sd.save_checkpoint(path, merged, metadata={})
    again = comfy.sd.load_diffusion_model(path)
    assert isinstance(again.model.model_config, demo_models.DemoModel)
    assert not torch.equal(base, ink)
    torch.testing.assert_close(head(again), (base + ink) / 2, atol=1e-3, rtol=1e-2)


def test_the_text_encoder_says_in_core_what_it_said_in_training():
    text, vocabulary = load_text()
    said = ["a big red circle on a white background", "a masterpiece of a blue ring", ""]
    rows, ends = vocabulary.rows(said)
    states = text.text_model(rows)
    for index, one in enumerate(said):
        found, pooled = sampling.clip().encode_from_tokens(sampling.clip().tokenize(one), return_pooled=True)
        torch.testing.assert_close(found[0], states[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(pooled[0], states[index, ends[index]], atol=1e-5, rtol=0)


def test_the_vae_is_used_at_a_quarter_of_the_size():
    pictures = torch.rand(2, 64, 64, 3)
    latents = sampling.vae().encode(pictures)
    assert latents.shape == (2, 4, 16, 16)
    assert sampling.vae().decode(latents).shape == pictures.shape


def test_a_missing_file_is_named(tmp_path):
    files.use(tmp_path)
    try:
        with pytest.raises(FileNotFoundError, match=r"vae\.safetensors.*train_demo_models"):
            demo_models.load_vae()
    finally:
        files.use(files.PUBLISHED)


def painted(prompts, of):
    return sampling.paint(sampling.model(), prompts), of


def test_the_base_paints_what_the_prompt_says():
    prompts, of = study_base.plain(False, 1)
    shape, colour, texture, background = study_base.followed(*painted(prompts[::2], of[::2]))
    assert min(shape, colour, texture, background) >= 0.7, (shape, colour, texture, background)


def test_block_prompts_paint_the_pairs_that_the_text_alone_cannot_say():
    prompts, of = study_base.plain(True, 2)
    alone = study_base.followed(*painted(prompts, of))
    together = study_base.followed(study_base.composed(2), of)
    assert alone[1] >= 0.9 and alone[0] >= 0.35, alone  # by chance: one in six
    assert together[1] >= 0.9 and together[0] >= 0.6, together
    assert together[0] >= alone[0]


def test_the_middle_carries_the_object_and_the_fine_blocks_the_colour():
    objects, colours = study_blocks.measured(study_blocks.OBJECT), study_blocks.measured(study_blocks.COLOUR)
    assert objects["other shape"] >= 0.55 and objects["other colour"] <= 0.2, objects
    assert colours["other colour"] >= 0.7 and colours["other shape"] <= objects["other shape"] - 0.2, colours


def test_a_merged_style_lies_between_its_parents():
    things = study_merge.THINGS[:6]
    style = [
        study_merge.scores("ink", study_merge.painted("ink", ratio, things), things)["style"]
        for ratio in ("0", "0.8", "1")
    ]
    assert style[0] < 0.02 and style[2] > 0.3, style
    assert style[0] + 0.03 < style[1] < style[2] - 0.1, style


@pytest.mark.parametrize("title", study_deprojector.SHOWN)
def test_a_deprojected_prompt_keeps_shape_and_colour(title):
    name, things = study_deprojector.FAMILIES[title], study_deprojector.THINGS[:8]
    conditioning = study_deprojector.deprojected(name, [study_blocks.sentence(t) for t in things])
    _, shape, colour = study_deprojector.seen(conditioning, things)
    assert shape >= 0.5 and colour >= 0.85, (shape, colour)  # by chance: one in six


def test_a_deprojector_reads_the_embedding_of_an_image():
    """By its inverse projection: nearly the embedding of the text that says what is drawn."""
    clip, tower, things = sampling.clip(), demo_models.load_clip_vision(), study_deprojector.THINGS
    drawn = drawing.draw_all([world.Scene((world.Thing(*thing),), "grey") for thing in things], drawing.SMALL)
    seen = tower.encode_image(drawn.movedim(1, -1))
    for name in study_deprojector.FAMILIES.values():
        inverse = study_deprojector.loaded(name).module.inverse_projection().detach()
        found = image_embedding(inverse, clip, seen, None, "text")
        said = torch.cat([encode(clip, study_blocks.sentence(thing))[1] for thing in things])
        assert torch.cosine_similarity(found.vector - found.null, said - found.null).mean() > 0.85
