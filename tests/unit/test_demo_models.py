"""The demo models' drawn world and its judge: what the models were trained on, and what reads their pictures."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from blockwork.demo_models import captions, drawing, world
from blockwork.demo_models.autoencoder import Autoencoder
from blockwork.demo_models.judge import QUESTIONS, Judge, judged
from safetensors.torch import load_file

WEIGHTS = Path(__file__).parents[2] / "demo_models" / "weights"
STYLES = (*world.STYLES, *world.TUNED)


def scenes(count, seed=997, style="smooth", **how):
    chance = random.Random(seed)
    return [world.draw_scene(chance, style=style, **how) for _ in range(count)]


def drawn(of, side=drawing.SMALL):
    return drawing.draw_all(of, side)


def test_the_same_scenes_give_the_same_images_alone_and_together():
    some = [scene for style in STYLES for scene in scenes(5, seed=3, style=style)]
    first = drawn(some)
    assert torch.equal(first, drawn(some))
    assert first.shape == (len(some), 3, 64, 64)
    alone = torch.stack([drawing.draw(scene, drawing.SMALL) for scene in some])
    assert (first - alone).abs().max() < 1e-5  # kernels differ by the number of images


@pytest.mark.parametrize("side", [drawing.SMALL, drawing.SIDE])
def test_all_styles_have_the_same_image_of_stage_one_and_no_pixel_at_the_ends_of_the_range(side):
    """Stage II has its style from the text alone, and thresholds have nothing to correct in a drawing."""
    of = scenes(24, seed=8, pairs=0.5)
    smooth = torch.nn.functional.avg_pool2d(drawn(of, side), side // drawing.CELLS)
    for style in world.STYLES:
        images = drawn([scene.in_style(style) for scene in of], side)
        cells = torch.nn.functional.avg_pool2d(images, side // drawing.CELLS)
        assert (cells - smooth).abs().max() < 1e-5, style
        assert images.min() > 0.5 / 255 and images.max() < 1 - 0.5 / 255, style
        if style != "smooth":
            assert (images - drawn(of, side)).abs().mean() > 0.02, style


def test_backgrounds_stay_within_their_range():
    images = drawn(scenes(40, seed=9, pairs=0.0)) * 2 - 1
    border = torch.cat((images[:, :, 0], images[:, :, -1]), -1)
    assert border.abs().quantile(0.9) <= 0.55 + 1e-4


def test_held_out_pairs_are_never_drawn_for_training_and_each_shape_and_colour_is_one_of_them():
    seen = {(t.shape, t.colour) for scene in scenes(3000) for t in scene.things}
    assert not seen & world.HELD_OUT
    assert len(seen) + len(world.HELD_OUT) == len(world.SHAPES) * len(world.COLOURS)
    assert {shape for shape, _ in world.HELD_OUT} == set(world.SHAPES)
    assert {colour for _, colour in world.HELD_OUT} == set(world.COLOURS)
    assert all(t.is_held_out for scene in scenes(50, held_out=True) for t in scene.things)


def test_a_caption_names_what_is_there_or_leaves_one_attribute_out():
    chance = random.Random(5)
    left_out = 0
    for scene in [one for style in world.STYLES for one in scenes(200, seed=5, style=style)]:
        said = captions.caption(scene, chance)
        for thing in scene.things:
            missing = [word for word in (thing.colour, thing.shape) if word not in said]
            assert len(missing) <= (len(scene.things) == 1)
            left_out += len(missing)
            assert thing.texture == "plain" or thing.texture in said
        assert scene.style in said or scene.style == "smooth"
        assert "  " not in said and not said.startswith(" ")
    assert 20 < left_out < 150


def test_a_wrong_caption_differs_in_one_place_and_is_wrong():
    values = [*world.SHAPES, *world.COLOURS, *world.TEXTURES, *world.SIZES, *world.BACKGROUNDS, *world.STYLES]
    for index, scene in enumerate(scenes(300, seed=6)):
        true, false = captions.wrong(scene, index)
        assert true != false
        before, after = ([word.strip(",") for word in said.split()] for said in (true, false))
        changed = (Counter(before) - Counter(after)) + (Counter(after) - Counter(before))
        assert sum(word in values for word in changed.elements()) in (1, 2), (true, false)


def test_unknown_words_are_added_to_a_caption_and_take_nothing_away():
    chance = random.Random(7)
    for scene in scenes(50, seed=7):
        said = captions.caption(scene, random.Random(1))
        more = captions.with_unknown(said, chance).split()
        assert [word for word in more if word not in captions.UNKNOWN] == said.split()
        assert 1 <= len(more) - len(said.split()) <= 2


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("colour", world.COLOURS)
def test_an_object_has_its_colour_where_it_is_and_the_background_elsewhere(shape, colour):
    thing = world.Thing(shape, colour, size="big")
    image = drawing.draw(world.Scene((thing,), "white"), drawing.SMALL) * 2 - 1
    paint = torch.tensor(world.COLOURS[colour]).view(3, 1, 1)
    ground = torch.tensor(world.BACKGROUNDS["white"]).view(3, 1, 1)
    painted = (image - paint).abs().amax(0) < 0.3  # shaded
    bare = (image - ground).abs().amax(0) < 0.06  # lit from one side
    assert 300 < int(painted.sum()) < 1700
    assert not (painted & bare).any()
    assert bool(bare[0].all()) and bool(bare[:, 0].all())


def test_the_judge_reads_unseen_drawings_of_every_style():
    judge = Judge()
    judge.load_state_dict(
        {key: value.float() for key, value in load_file(WEIGHTS / "judge.safetensors").items()}
    )
    of = [scene for style in STYLES for scene in scenes(100, seed=4242, style=style, pairs=0.0)]
    verdict = judged(judge.eval(), drawn(of))
    truth = {
        "shape": [s.things[0].shape for s in of],
        "colour": [s.things[0].colour for s in of],
        "texture": [s.things[0].texture for s in of],
        "background": [s.background for s in of],
        "style": [s.style for s in of],
    }
    assert truth.keys() == QUESTIONS.keys()
    accuracy = {question: verdict.right(question, answers) for question, answers in truth.items()}
    assert min(accuracy["shape"], accuracy["colour"], accuracy["background"], accuracy["style"]) > 0.95, (
        accuracy
    )
    assert accuracy["texture"] > 0.85, accuracy


def test_the_autoencoder_gives_drawings_back():
    model = Autoencoder()
    model.load_state_dict(
        {key: value.float() for key, value in load_file(WEIGHTS / "vae.safetensors").items()}
    )
    pictures = (
        drawn([s for style in STYLES for s in scenes(10, style=style, held_out=True)], drawing.SIDE) * 2 - 1
    )
    with torch.no_grad():
        latents = model.encode(pictures)
        error = (model.decode(latents).clamp(-1, 1) - pictures).square().mean()
    assert latents.shape == (60, 4, 32, 32)
    assert 0.7 < float(latents.std()) < 1.3
    assert float(10 * torch.log10(4 / error)) > 25  # decibels


def test_the_judge_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="b 3 h w"):
        judged(Judge(), torch.zeros(1, 64, 64, 3))
