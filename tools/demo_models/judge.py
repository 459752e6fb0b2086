"""Trains the judge on drawings of every style, some of them blurred, noisy or seen through the autoencoder."""

import torch
from blockwork.demo_models.autoencoder import Autoencoder
from blockwork.demo_models.judge import QUESTIONS, Judge, judged
from torch import Tensor
from torch.nn import functional

from .training import batches, pictures, publish, published, scenes, train, world

SIZE = 96


def truth(of: list) -> dict[str, Tensor]:
    """The right answers as indices, per question."""
    said = [
        {"shape": s.things[0].shape, "colour": s.things[0].colour, "texture": s.things[0].texture,
         "background": s.background, "style": s.style}
        for s in of
    ]  # fmt: skip
    return {
        name: torch.tensor([answers.index(one[name]) for one in said]) for name, answers in QUESTIONS.items()
    }


def run(steps: int = 2500, minutes: float | None = None, seed: int = 41) -> None:
    """Train and publish the judge; prints its accuracy per question on scenes it never saw."""
    torch.manual_seed(seed)
    seen = [
        scene
        for index, style in enumerate(world.STYLES)
        for held_out, count in ((False, 5000), (True, 1000))
        for scene in scenes(count, seed + index, style, pairs=0.0, held_out=held_out)
    ]
    drawn, answers = pictures(seen).float() / 255, truth(seen)
    vae = Autoencoder()
    vae.load_state_dict(published("vae"))
    with torch.no_grad():
        coded = torch.cat(
            [(vae.decode(vae.encode(part * 2 - 1) + 0.1 * torch.randn(len(part), 4, 16, 16)) + 1) / 2
             for part in drawn.split(200)]
        ).clamp(0, 1)  # fmt: skip
    model, order = Judge(), batches(len(seen), SIZE, seed)

    def loss_of(step: int) -> Tensor:
        indices = next(order)
        through = torch.rand(SIZE, 1, 1, 1) < 0.5
        x = torch.where(through, coded[indices], drawn[indices])
        small = functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        blurred = functional.interpolate(small, scale_factor=2, mode="bilinear")
        x = torch.lerp(x, blurred, torch.rand(SIZE, 1, 1, 1))
        x = x + 0.08 * torch.rand(SIZE, 1, 1, 1) * torch.randn_like(x)
        x = x * (0.85 + 0.3 * torch.rand(SIZE, 1, 1, 1)) + 0.1 * (torch.rand(SIZE, 1, 1, 1) - 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x.clamp(0, 1))
        return sum(
            (functional.cross_entropy(logits[name].float(), answers[name][indices], label_smoothing=0.02)
             for name in QUESTIONS),
            torch.zeros(()),
        )  # fmt: skip

    train("judge", model, loss_of, steps, 2e-3, minutes=minutes)
    unseen = [s for style in world.STYLES for s in scenes(400, 997, style, pairs=0.0)]
    verdict = judged(model, pictures(unseen).float() / 255)
    accuracy = {
        name: round(verdict.right(name, [QUESTIONS[name][i] for i in answer.tolist()]), 4)
        for name, answer in truth(unseen).items()
    }
    publish("judge", model.state_dict(), {"seed": str(seed), "accuracy": accuracy})
    print(f"accuracy on unseen drawings of all styles: {accuracy}")
