"""Trains the classifier on drawings of every style, some of them blurred, noisy or seen through the autoencoder."""

import torch
from blockwork.demo_models import drawing, world
from blockwork.demo_models.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from blockwork.demo_models.judge import QUESTIONS, Judge, judged
from torch import Tensor
from torch.nn import functional

from .training import HERE, autocast, batches, images, publish, published, scenes, signed, train

SIZE = 96
CODED = 0.4  # of a batch, through the autoencoder
COARSE = 0.15  # of a batch, as stage I of the cascade has them: their style cannot be seen
STYLES = (*world.STYLES, *world.TUNED)


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


def single(count: int, seed: int) -> list:
    """``count`` scenes of one object in each style, one in six a pair of shape and colour that others never see."""
    return [
        scene
        for index, style in enumerate(STYLES)
        for held_out, part in ((False, count - count // 6), (True, count // 6))
        for scene in scenes(part, seed + index, style, pairs=0.0, held_out=held_out)
    ]


def run(minutes: float, seed: int = 41) -> None:
    """Train and publish the classifier; prints its accuracy per question on scenes it never saw."""
    torch.manual_seed(seed)
    seen, small = single(4800, seed), single(480, seed + 100)
    drawn = images(seen, drawing.SMALL)
    vae = Autoencoder()
    vae.load_state_dict(published("vae"))
    vae.to(HERE.device)
    coded = torch.empty(len(small), 3, drawing.SMALL, drawing.SMALL, dtype=torch.uint8)
    with torch.no_grad(), autocast():
        for start in range(0, len(small), 64):
            x = signed(images(small[start : start + 64]))
            z = vae.encode(x)
            y = vae.decode(
                z
                + 0.1
                * torch.randn(
                    len(z), LATENT_CHANNELS, *(s // DOWNSCALE for s in x.shape[-2:]), device=z.device
                )
            )
            y = functional.avg_pool2d(y.float(), x.shape[-1] // drawing.SMALL)
            coded[start : start + 64] = ((y.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    size = HERE.batch(SIZE)
    through = int(CODED * size)
    order, second = batches(len(seen), size - through, seed), batches(len(small), through, seed)
    model, answers, answers_coded = Judge(), truth(seen), truth(small)

    def loss_of(_: float) -> Tensor:
        first, then = next(order), next(second)
        x = torch.cat((drawn[first], coded[then])).to(HERE.device).float() / 255

        def chance(share: float = 1.0) -> Tensor:
            return share * torch.rand(size, 1, 1, 1, device=x.device)

        coarse = chance() < COARSE
        least = functional.interpolate(functional.avg_pool2d(x, 4), scale_factor=4, mode="bilinear")
        blurred = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        x = torch.where(coarse, least, torch.lerp(x, blurred, chance(0.6)))
        x = x + chance(0.06) * torch.randn_like(x)
        x = x * (0.88 + chance(0.24)) + 0.1 * (chance() - 0.5)
        with autocast():
            logits = model(x.clamp(0, 1))
        total = torch.zeros((), device=x.device)
        for name in QUESTIONS:
            aim = torch.cat((answers[name][first], answers_coded[name][then])).to(x.device)
            each = functional.cross_entropy(logits[name].float(), aim, label_smoothing=0.02, reduction="none")
            total = total + (each * ~coarse.flatten() if name == "style" else each).mean()
        return total

    train("judge", model, loss_of, minutes, 2e-3, muon=True)
    unseen = single(200, 997)
    model.cpu()
    verdict, true = judged(model, images(unseen, drawing.SMALL).float() / 255), truth(unseen)
    accuracy: dict[str, object] = {
        name: round(verdict.right(name, [QUESTIONS[name][i] for i in answer.tolist()]), 4)
        for name, answer in true.items()
    }
    accuracy["shape_by_style"] = {
        style: round(sum(a == QUESTIONS["shape"][b] for a, b in zip(verdict.answers["shape"][200 * n : 200 * n + 200],
                     true["shape"][200 * n : 200 * n + 200].tolist(), strict=True)) / 200, 4)
        for n, style in enumerate(STYLES)
    }  # fmt: skip
    publish("judge", model.state_dict(), {"seed": str(seed), "accuracy": accuracy})
    print(f"accuracy on unseen drawings of all styles: {accuracy}")
