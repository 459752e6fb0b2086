"""What thresholding saves at high guidance: Imagen's figure, with the demo models' stage I."""

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from blockwork.demo_models import drawing, world
from blockwork.demo_models.judge import features
from blockwork.demo_models.stages import stage_file
from torch import Tensor
from torch.nn import functional

from . import pages, pixels, sampling
from .pixels import THRESHOLDS
from .sampling import demo_models
from .training import SCRATCH

GUIDANCES = (1.0, 3.0, 7.0, 12.0, 20.0)
HIGH = (12.0, 20.0)
PROMPTS, NOISES, SEED, REFERENCES = 60, 3, 40, 1500


@functools.cache
def cases() -> list[tuple[str, str, str]]:
    """Shape, colour and background of the prompts, from known pairs, fixed by the seed."""
    known, chance = sampling.pairs(held_out=False), random.Random(SEED)
    return [
        (*chance.choice(known), chance.choice(list(world.BACKGROUNDS)))
        for _ in range(sampling.count(PROMPTS))
    ]


def prompts(of: Sequence[tuple[str, str, str]] | None = None) -> list[str]:
    """A big object in a colour on a background; the first 12 cover every shape."""
    return [sampling.prompt(shape, colour, ground, "big") for shape, colour, ground in of or cases()]


@functools.cache
def classifier():
    from blockwork.demo_models.judge import Judge

    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in demo_models.read("judge")[0].items()})
    return judge.eval()


def coarse(images: Tensor) -> Tensor:
    """Images of stage I, ``n 3 16 16`` in -1..1, as the classifier sees them: clipped, in 0..1, at 64 pixels."""
    images = (images.clamp(-1, 1) + 1) / 2
    return functional.interpolate(images, scale_factor=drawing.SMALL // drawing.CELLS, mode="bilinear")


def read(images: Tensor, of: Sequence[tuple[str, str, str]] | None = None) -> dict[str, Tensor]:
    """Per image: whether shape and colour are right, and the share of saturated pixels."""
    of = of or cases()
    seen = coarse(images) if images.shape[-1] == drawing.CELLS else (images.clamp(-1, 1) + 1) / 2
    right = sampling.hits(seen.movedim(1, -1), shape=[one[0] for one in of], colour=[one[1] for one in of])
    return {**right, "aligned": right["shape"] * right["colour"], "saturated": pixels.saturated(images)}


def frechet(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of two sets of features ``n d`` under Gaussians (Heusel et al. 2017)."""
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    both = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * both)


@functools.cache
def references() -> Tensor:
    """The features of drawings of the same kind as the prompts, reduced to 16 x 16 as stage I has them."""
    chance, known = random.Random(SEED + 1), sampling.pairs(held_out=False)
    drawn = []
    for _ in range(sampling.count(REFERENCES) + 100):
        shape, colour = chance.choice(known)
        thing = world.Thing(shape, colour, size="big", scale=chance.uniform(0.93, 1.07), turn=chance.uniform(-0.15, 0.15),
                            x=chance.uniform(-1.5, 1.5), y=chance.uniform(-1.5, 1.5))  # fmt: skip
        drawn.append(
            world.Scene((thing,), chance.choice(list(world.BACKGROUNDS)), seed=chance.getrandbits(31))
        )
    images = drawing.draw_all(drawn, drawing.SMALL) * 2 - 1
    return features(classifier(), coarse(functional.avg_pool2d(images, drawing.SMALL // drawing.CELLS)))


def distance(images: list[Tensor]) -> tuple[float, pages.Interval]:
    """The Frechet distance of images of all noises to the drawings, and its 95 % interval by resampling the prompts."""
    seen = torch.stack([features(classifier(), coarse(one)) for one in images])  # noises prompts d
    generator = torch.Generator().manual_seed(SEED)
    found = [
        frechet(
            seen[:, torch.randint(seen.shape[1], (seen.shape[1],), generator=generator)].flatten(0, 1),
            references(),
        )
        for _ in range(100)
    ]
    ends = torch.tensor(found).quantile(torch.tensor([0.025, 0.975])).tolist()
    return frechet(seen.flatten(0, 1), references()), (ends[0], ends[1])


def kept(name: str, stages: str, said: Sequence[str], make: Callable[[], Tensor]) -> Tensor:
    """``make()``, or what it gave before with the same weights and prompts ``said``: a study that was stopped resumes."""
    given = hashlib.sha256(b"".join(stage_file(stage).read_bytes() for stage in stages.split()))
    given.update(repr((said, sampling.share)).encode())
    path = SCRATCH / "thresholding" / f"{name} {given.hexdigest()[:12]}.pt"
    if not path.is_file():
        images = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        torch.save(images, half)
        half.replace(path)
    return torch.load(path, weights_only=True)


def grid_of_images() -> dict[tuple[str, float], list[Tensor]]:
    """Stage I for every threshold, guidance and noise; the noises are the same in all cells."""
    return {
        (mode, w): [
            kept(
                f"{mode} {w:g} {n}",
                "I",
                prompts(),
                lambda w=w, t=threshold, n=n: pixels.drawn(prompts(), w, t, seed=1 + 1000 * n),
            )
            for n in range(NOISES)
        ]
        for mode, threshold in THRESHOLDS.items()
        for w in GUIDANCES
    }


def run(out: Path) -> None:
    """Write ``thresholding.md`` and its images."""
    made = grid_of_images()
    found, far = {}, {}
    for cell, images in made.items():
        each = [read(one) for one in images]
        found[cell] = {
            k: torch.stack([one[k] for one in each]).mean(0) for k in each[0]
        }  # one value per prompt
        far[cell] = distance(images)
        print(
            *cell,
            {k: round(float(v.mean()), 3) for k, v in found[cell].items()},
            round(far[cell][0], 2),
            flush=True,
        )
    best = "dynamic 0.995"
    claims = []
    for other in ("static", "none"):
        nearer = [pages.apart(far[best, w][1], far[other, w][1]) for w in HIGH]
        worse = [
            pages.apart(
                pages.resampled(found[best, w]["aligned"]), pages.resampled(found[other, w]["aligned"])
            )
            for w in HIGH
        ]
        holds = (
            True
            if all(nearer) and True not in worse
            else (False if False in nearer or True in worse else None)
        )
        claims.append(
            pages.verdict(
                f"at guidance {HIGH[0]:g} and {HIGH[1]:g} dynamic thresholding (0.995) gives images nearer to true ones than "
                f"{other} thresholding, without loss of alignment.".replace(
                    "none thresholding", "no thresholding"
                ),
                holds,
                " ".join(
                    f"At {w:g}: distance {far[best, w][0]:.2f} ({far[best, w][1][0]:.2f}-{far[best, w][1][1]:.2f}) against "
                    f"{far[other, w][0]:.2f} ({far[other, w][1][0]:.2f}-{far[other, w][1][1]:.2f}), alignment "
                    f"{pages.mean(found[best, w]['aligned'])} against {pages.mean(found[other, w]['aligned'])}."
                    for w in HIGH
                ),
            )
        )
    curves = {
        mode: [(far[mode, w][0], float(found[mode, w]["aligned"].mean())) for w in GUIDANCES]
        for mode in THRESHOLDS
    }
    charts = [pages.scatter(curves, "Alignment against distance, guidance 1 to 20 along each curve",
                            "Frechet distance to true drawings (less is better)", "share aligned", [f"{w:g}" for w in GUIDANCES])]  # fmt: skip
    for what, title in (("aligned", "Shape and colour right"), ("saturated", "Saturated pixels")):
        charts.append(
            pages.lines(GUIDANCES, {m: [float(found[m, w][what].mean()) for w in GUIDANCES] for m in THRESHOLDS}, title, "guidance",
                        "share of pixels" if what == "saturated" else "share of images",
                        intervals={m: [pages.resampled(found[m, w][what]) for w in GUIDANCES] for m in THRESHOLDS})
        )  # fmt: skip
    shown = list(range(min(3, len(cases()))))
    rows = [
        [image for w in GUIDANCES for image in pixels.images(made[mode, w][0][shown])] for mode in THRESHOLDS
    ]
    heads = [f"guidance {w:g}" if not i else "" for w in GUIDANCES for i in shown]
    sheet = pages.grid(rows, heads, list(THRESHOLDS), cell=72, margin=110)
    tables = "\n\n".join(
        f"## {title}\n\n"
        + pages.table(
            ("threshold", *(f"{w:g}" for w in GUIDANCES)),
            [(m, *(text(m, w) for w in GUIDANCES)) for m in THRESHOLDS],
        )
        for title, text in (
            ("Shape and colour right", lambda m, w: pages.mean(found[m, w]["aligned"])),
            (
                "Frechet distance",
                lambda m, w: f"{far[m, w][0]:.2f} ({far[m, w][1][0]:.2f}-{far[m, w][1][1]:.2f})",
            ),
            ("Saturated pixels", lambda m, w: pages.mean(found[m, w]["saturated"])),
            ("Shape right", lambda m, w: pages.mean(found[m, w]["shape"])),
            ("Colour right", lambda m, w: pages.mean(found[m, w]["colour"])),
        )
    )
    at_one = found["none", GUIDANCES[0]]["saturated"]
    remark = (
        f"\n\n**Limit:** without thresholding {pages.mean(at_one)} of the pixels are saturated at guidance {GUIDANCES[0]:g} already: "
        "these small models go out of range in the first, noisiest steps and do not come back. That row shows that they need a "
        "threshold, not what guidance does."
        if float(at_one.mean()) > 0.5
        else ""
    )
    text = f"""# What thresholding saves at high guidance

**Question:** does dynamic thresholding keep images natural at high guidance, as Imagen reports (Saharia et al. 2022, figure A.9)?

**Method, fixed before these images were sampled:** the demo models' stage I (16 x 16), {len(prompts())} prompts (a big object in a colour on a
background), {NOISES} noises each, the same in every cell; guidance {", ".join(f"{w:g}" for w in GUIDANCES)} by no, static and dynamic
thresholding (percentiles 0.9, 0.95, 0.995, no cap); learned-range DDPM on IF's list `{pixels.SPACING}`. *Alignment*: the demo classifier
sees the shape and the colour of the prompt. *Fidelity*: the Frechet distance between the images and {len(references())} true drawings
of such prompts in the features of the classifier, after clipping. *Saturated*: a channel of a pixel is within one level of 256 of the
range's end as it leaves the sampler; no drawing has such pixels. Intervals are 95 %, by resampling the prompts; a
distance from fewer different images is larger, so that its interval can lie above the figure. The claims are of guidance {HIGH[0]:g} and {HIGH[1]:g}; one holds if all intervals of the distance are apart in its direction and none of the alignment against it.
Made by `python tools/study_demo_models.py thresholding`.

{(chr(10) * 2).join(claims)}{remark}

![Stage I by threshold and guidance](thresholding.jpg)

![charts](thresholding.png)

{tables}
"""
    pages.write(
        out, "thresholding", text, {"thresholding.jpg": sheet, "thresholding.png": pages.stack(charts)}
    )
