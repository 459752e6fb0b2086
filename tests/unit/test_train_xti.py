"""Training tokens without a model: captions, the loop, its random numbers, its checkpoint."""

import os
from pathlib import Path

import pytest
import torch
from blockwork.injection import xti
from blockwork.injection.captions import CaptionError, image_captions, read_concepts, templates
from blockwork.injection.concept import XTI
from blockwork.injection.density import WordDensity
from blockwork.injection.train import OPTIMIZERS, Recipe, Trainer, TrainingError

GEM, TILE = "gem: star", "<tile>: blue square"
START = {"0/clip_l": torch.zeros(2, 1, 4)}


def test_concepts_are_lines_of_name_and_word():
    found = read_concepts(f"{GEM}\n\n  {TILE}\n")
    assert [(one.name, one.word) for one in found] == [("gem", "star"), ("tile", "blue square")]
    for wrong, message in {
        "": "no concept to train",
        "gem": "'gem' is not a valid concept",
        "gem:": "not a valid concept",
        "a gem: star": "not a valid concept",
        "a/b: star": "not a valid concept",
        "gem: star\ngem: ring": "Two concepts have the name 'gem'",
    }.items():
        with pytest.raises(CaptionError, match=message):
            read_concepts(wrong)


def test_captions_of_images():
    """{} is the only concept; a caption that is only a mark goes through the templates; others are taken literally."""
    one, two = read_concepts(GEM), read_concepts(f"{GEM}\n{TILE}")
    lines = templates("object")
    assert len(lines) > 5 and all("{}" in line for kind in ("object", "style") for line in templates(kind))
    assert image_captions((), 2, one, lines) == [tuple(x.replace("{}", "<gem>") for x in lines)] * 2
    assert image_captions(("", "a (red) {}"), 2, one, ("x {}",)) == [("x <gem>",), ("a (red) <gem>",)]
    both = image_captions(("<tile>", "a <gem> on a <tile>"), 2, two, ("x {}",))
    assert both == [("x <tile>",), ("a <gem> on a <tile>",)]
    assert templates("style", "one {}\n\ntwo {}") == ("one {}", "two {}")
    for captions, concepts, message in (
        (("{}",), one, "1 captions and 2 images"),
        (("a star", "{}"), one, "Caption 1 .* does not mark the token"),
        ((), two, "does not say which of <gem>, <tile>"),
        (("<gem>", "a {} thing"), two, "Caption 2 .* does not say which"),
        (("<gem>", "<gem>"), two, "No caption uses <tile>"),
    ):
        with pytest.raises(CaptionError, match=message):
            image_captions(captions, 2, concepts, lines)
    with pytest.raises(CaptionError, match="where the token belongs"):
        templates("object", "a photo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"learning_rate": float("nan")}, "learning rate must be positive"),
        ({"density": -1.0}, "density weight must be 0 or more"),
        ({"optimizer": "Lion"}, "Available: AdamW"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(TrainingError, match=message):
        Recipe(**change)


def noisy(vectors, chosen, generator):
    """A loss with random numbers and images in it, smallest where the vectors are ones."""
    noise = 0.1 * torch.randn(4, generator=generator)
    return (vectors["0/clip_l"] - 1 + noise + 0.01 * sum(chosen)).square().mean()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, optimizer):
    """Stopped in the middle by what the callback raises, resumed, extended: the same vectors bit for bit."""
    options = {"batch_size": 2, "grad_accumulation_steps": 2, "learning_rate": 0.05, "optimizer": optimizer, "seed": 2**64 - 1}  # fmt: skip
    whole = Trainer(START, noisy, 5, Recipe(20, **options))
    whole.run()
    path = tmp_path / "run" / "checkpoint.safetensors"

    def stop(trainer):
        if trainer.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(START, noisy, 5, Recipe(12, **options), checkpoint=path).run(stop)
    first = Trainer(START, noisy, 5, Recipe(12, **options), checkpoint=path)
    assert first.step == 7
    first.run()
    second = Trainer(START, noisy, 5, Recipe(20, **options), checkpoint=path)
    assert second.step == 12
    second.run()
    assert torch.equal(second.vectors["0/clip_l"], whole.vectors["0/clip_l"])
    assert second.losses == whole.losses and len(whole.losses) == 20
    fewer = Trainer(START, noisy, 5, Recipe(7, **options), checkpoint=path)  # not the stored run's vectors
    fewer.run()
    assert fewer.losses == whole.losses[:7]
    assert Trainer(START, noisy, 5, Recipe(20, **options), checkpoint=path).step == 20
    assert [one.name for one in path.parent.iterdir()] == ["checkpoint.safetensors"]
    assert Recipe(5).identity == Recipe(9).identity != Recipe(5, seed=1).identity


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    Trainer(START, noisy, 5, Recipe(2), checkpoint=path).run()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TrainingError, match=r"cannot be read .*checkpoint\.safetensors\. Delete it"):
        Trainer(START, noisy, 5, Recipe(3), checkpoint=path)


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path: Path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(list(tmp_path.iterdir())) or sync(number))
    Trainer(START, noisy, 5, Recipe(2), checkpoint=tmp_path / "checkpoint.safetensors").run()
    xti.save(XTI("gem", (torch.zeros(1, 4),) * 16), tmp_path / "gem.safetensors")
    assert len(synced) == 2
    assert [[one.suffix for one in found if one.name.startswith(".")] for found in synced] == [[".part"]] * 2


def test_batches_are_epochs_and_accumulation_is_a_mean():
    seen = []

    def watch(vectors, chosen, _):
        seen.append(list(chosen))
        return (vectors["0/clip_l"] * (1 + sum(chosen))).sum()

    trainer = Trainer(START, watch, 4, Recipe(2, batch_size=3, grad_accumulation_steps=2, optimizer="SGD", learning_rate=1.0))  # fmt: skip
    trainer.run()
    drawn = [one for batch in seen for one in batch]
    assert all(sorted(drawn[n : n + 4]) == [0, 1, 2, 3] for n in (0, 4, 8))
    assert trainer.vectors["0/clip_l"].flatten()[0].item() == pytest.approx(
        -sum(1 + sum(batch) for batch in seen) / 2
    )


def test_the_density_term_draws_to_words():
    """Without another loss the vectors go to where words are dense; the scale of the loss does not change a step."""
    words = WordDensity(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)))
    start = {"0/clip_l": torch.full((2, 1, 4), 6.0)}

    def flat(vectors, chosen, generator):
        return 0 * vectors["0/clip_l"].sum()

    trainer = Trainer(start, flat, 1, Recipe(60, learning_rate=0.1, density=1.0), {"0/clip_l": words})
    before = trainer.unlikeness().item()
    trainer.run()
    assert trainer.unlikeness().item() < before - 1

    def stepped(scale):
        one = Trainer(START, noisy, 5, Recipe(4, optimizer="SGD", learning_rate=0.1), scale=scale)
        one.run()
        return one.vectors["0/clip_l"]

    assert torch.equal(stepped(1024.0), stepped(1.0))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path):
    def broken(vectors, chosen, generator):
        return vectors["0/clip_l"].sum() * torch.nan

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingError, match="no longer finite at step 1"):
        Trainer(START, broken, 1, Recipe(3), checkpoint=path).run()
    assert not path.exists()
