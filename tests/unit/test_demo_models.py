"""The demo models' drawn world and its judge: what the models were trained on, and what reads their pictures."""

import random
from pathlib import Path

import pytest
import torch
from blockwork.demo_models import drawing, world
from blockwork.demo_models.autoencoder import Autoencoder
from blockwork.demo_models.judge import QUESTIONS, Judge, judged
from safetensors.torch import load_file

WEIGHTS = Path(__file__).parents[2] / "demo_models" / "weights"


def scenes(count, seed=997, style="plain", **how):
    chance = random.Random(seed)
    return [world.draw_scene(chance, **how).in_style(style) for _ in range(count)]


def drawn(of):
    return torch.stack([drawing.draw(scene) for scene in of])


def test_the_same_seed_draws_the_same_picture():
    first, second = (drawn(scenes(5, seed=3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (5, 3, 64, 64)
    assert first.min() >= 0 and first.max() <= 1


def test_held_out_pairs_are_never_drawn_for_training_and_each_shape_and_colour_is_one_of_them():
    seen = {(t.shape, t.colour) for scene in scenes(3000) for t in scene.things}
    assert not seen & world.HELD_OUT
    assert len(seen) + len(world.HELD_OUT) == len(world.SHAPES) * len(world.COLOURS)
    assert {shape for shape, _ in world.HELD_OUT} == set(world.SHAPES)
    assert {colour for _, colour in world.HELD_OUT} == set(world.COLOURS)
    assert all(t.is_held_out for scene in scenes(50, held_out=True) for t in scene.things)


def test_a_caption_names_what_is_there():
    chance = random.Random(5)
    for scene in scenes(200, seed=5):
        said = world.caption(scene, chance)
        for thing in scene.things:
            assert thing.colour in said and thing.shape in said
            assert thing.texture == "plain" or thing.texture in said
            assert (thing.size in said) == (thing.size != "medium") or len(scene.things) == 2


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("colour", world.COLOURS)
def test_a_thing_has_its_colour_where_it_is_and_the_background_elsewhere(shape, colour):
    thing = world.Thing(shape, colour, size="big")
    picture = drawing.draw(world.Scene((thing,), "white"))
    paint = torch.tensor(world.COLOURS[colour]) / 255
    ground = torch.tensor(world.BACKGROUNDS["white"]) / 255
    painted = (picture - paint.view(3, 1, 1)).abs().amax(0) < 0.02
    bare = (picture - ground.view(3, 1, 1)).abs().amax(0) < 0.02
    assert 300 < int(painted.sum()) < 1600
    assert int(painted.sum() + bare.sum()) > 0.88 * 64 * 64  # the rest is the smooth edge
    assert bool(bare[0].all()) and bool(bare[-1].all())


def test_the_judge_reads_unseen_drawings_of_every_style():
    judge = Judge()
    judge.load_state_dict(
        {key: value.float() for key, value in load_file(WEIGHTS / "judge.safetensors").items()}
    )
    of = [scene for style in world.STYLES for scene in scenes(100, seed=4242, style=style, pairs=0.0)]
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
    pictures = drawn([s for style in world.STYLES for s in scenes(10, style=style, held_out=True)]) * 2 - 1
    with torch.no_grad():
        latents = model.encode(pictures)
        error = (model.decode(latents).clamp(-1, 1) - pictures).square().mean()
    assert latents.shape == (30, 4, 16, 16)
    assert 0.7 < float(latents.std()) < 1.3
    assert float(10 * torch.log10(4 / error)) > 25  # decibels


def test_the_judge_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="b 3 h w"):
        judged(Judge(), torch.zeros(1, 64, 64, 3))
