"""What another prompt in stage II changes: the style, the colour, the object."""

from pathlib import Path

import torch
from blockwork.demo_models import drawing
from torch import Tensor

from . import pages, pixels, sampling
from .study_thresholding import SEED, cases, kept, prompts, read

LEVELS = (0.0, 0.1, 0.3, 0.6)
CHANGED, CHANGE_GUIDANCE = 16, 6.0
KINDS = {"shape": 0, "colour": 1}


def styles() -> tuple[dict[tuple[str, float], dict[str, Tensor]], dict[tuple[str, float], Tensor], Tensor]:
    """Stage II with the style in its prompt alone: per style and level whether style, shape and colour are as asked."""
    of = cases()[: sampling.count(CHANGED)]
    plain = prompts(of)
    below = kept("style below", "I", plain, lambda: pixels.drawn(plain, 7.0))
    found, images = {}, {}
    for style, way in {"(none)": "{}", **sampling.STYLED}.items():
        said = [way.format(one) for one in plain]
        for level in LEVELS:
            made = kept(
                f"style {style} {level:g}",
                "I II",
                [*plain, *said],
                lambda s=said, v=level: pixels.enlarged(below, s, CHANGE_GUIDANCE, v),
            )
            right = read(made, of)
            asked = "smooth" if style == "(none)" else style
            right["style"] = sampling.hits(pixels.images(made), style=[asked] * len(of))["style"]
            found[style, level], images[style, level] = right, made
    return found, images, below


def changes(kind: str) -> tuple[dict[float, dict[str, Tensor]], dict[float, Tensor], list]:
    """Stage II with another shape or another colour in its prompt: per level whether the new and the old one is seen."""
    pairs = [
        (a, (b[0], a[1]) if kind == "shape" else (a[0], b[1]))
        for a, b in sampling.opposites(sampling.count(CHANGED), SEED + 2)
    ]
    own, other = ([sampling.prompt(*pair[side], extra="big") for pair in pairs] for side in (0, 1))
    below = kept(f"{kind} below", "I", own, lambda: pixels.drawn(own, 7.0))
    found, images = {}, {}
    for level in LEVELS:
        made = kept(
            f"{kind} {level:g}",
            "I II",
            [*own, *other],
            lambda v=level: pixels.enlarged(below, other, CHANGE_GUIDANCE, v),
        )
        place = KINDS[kind]
        new = sampling.hits(pixels.images(made), **{kind: [b[place] for _, b in pairs]})[kind]
        old = sampling.hits(pixels.images(made), **{kind: [a[place] for a, _ in pairs]})[kind]
        found[level], images[level] = {f"new {kind}": new, f"old {kind}": old}, made
    return found, images, pairs


def run(out: Path) -> None:
    """Write ``prompt_change.md`` and its images."""
    by_style, styled_images, below = styles()
    names = list(sampling.STYLED)
    of = {
        level: {k: torch.cat([by_style[s, level][k] for s in names]) for k in ("style", "shape", "colour")}
        for level in LEVELS
    }
    other = {kind: changes(kind) for kind in KINDS}
    low, control = of[0.1], by_style["(none)", 0.1]
    claims = [
        pages.verdict(
            "another style in the prompt of stage II alone gives the same object in that style (aug_level 0.1).",
            True if pages.resampled(low["style"])[0] > 0.5 and pages.apart(pages.resampled(low["shape"]), pages.resampled(control["shape"])) is not True
            else (False if pages.resampled(low["style"])[1] < 0.5 else None),
            f"Style as asked {pages.mean(low['style'])}; shape as in stage I {pages.mean(low['shape'])}, without a style in the prompt "
            f"{pages.mean(control['shape'])}; colour {pages.mean(low['colour'])}.",
        ),
        *(
            pages.verdict(
                f"a higher aug_level lets the prompt of stage II change the {kind} more.",
                pages.apart(pages.resampled(other[kind][0][LEVELS[0]][f"new {kind}"]), pages.resampled(other[kind][0][LEVELS[-1]][f"new {kind}"])),
                f"The new {kind} is in {pages.mean(other[kind][0][LEVELS[0]][f'new {kind}'])} of the images at {LEVELS[0]:g}, in "
                f"{pages.mean(other[kind][0][LEVELS[-1]][f'new {kind}'])} at {LEVELS[-1]:g}.",
            )
            for kind in KINDS
        ),
    ]  # fmt: skip
    charts = [
        pages.lines(LEVELS, {k: [float(of[v][k].mean()) for v in LEVELS] for k in of[0.0]}, "Style by the prompt of stage II: as asked", "aug_level",
                    intervals={k: [pages.resampled(of[v][k]) for v in LEVELS] for k in of[0.0]})
    ]  # fmt: skip
    for kind in KINDS:
        found = other[kind][0]
        charts.append(
            pages.lines(LEVELS, {k: [float(found[v][k].mean()) for v in LEVELS] for k in found[0.0]}, f"Another {kind} in the prompt of stage II",
                        "aug_level", intervals={k: [pages.resampled(found[v][k]) for v in LEVELS] for k in found[0.0]})
        )  # fmt: skip
    shown = list(range(min(6, len(below))))
    sheet = pages.stack(
        [
            pages.grid([pixels.images(below[shown]), *(pixels.images(styled_images[s, 0.1][shown]) for s in ("(none)", *names))],
                       [""] * len(shown), ["stage I", "stage II,\nno style", *(f"stage II,\n{s}" for s in names)], cell=112),
            *(
                pages.grid([pixels.images(other[kind][1][v][shown]) for v in LEVELS],
                           [f"to {other[kind][2][n][1][KINDS[kind]]}" for n in shown], [f"another {kind},\naug_level {v:g}" for v in LEVELS], cell=112)
                for kind in KINDS
            ),
        ]
    )  # fmt: skip
    text = f"""# Another prompt while upscaling

**Question:** what does the prompt of stage II change, if it is not that of stage I: the style, the colour, the object?

**Method, fixed before these images were sampled:** stage I samples {len(below)} prompts at guidance 7 with its own threshold. All styles of the demo
world have the same 16 x 16 image, so that stage I cannot have a style. Stage II ({drawing.SMALL} x {drawing.SMALL}, from the enlarged image, the last {pixels.DENOISE:g} of list `{pixels.UPSCALE}`,
guidance {CHANGE_GUIDANCE:g}) gets the same prompt in the words of a style (three styles), or with another shape, or with another colour, at aug_level
{", ".join(f"{v:g}" for v in LEVELS)}. Classified by the demo classifier; intervals are 95 %, by resampling. The first claim holds if the interval of the
style is above 0.5 and the shape is not worse than without a style; the others hold if the intervals of the lowest and the highest level are apart.
Made by `python tools/study_demo_models.py prompt_change`.

{(chr(10) * 2).join(claims)}

![another prompt in stage II](prompt_change.jpg)

![charts](prompt_change.png)

## Style

{pages.table(("aug_level", *of[0.0]), [(f"{v:g}", *(pages.mean(x) for x in of[v].values())) for v in LEVELS])}

## Object and colour

{pages.table(("aug_level", *(k for kind in KINDS for k in other[kind][0][0.0])), [
    (f"{v:g}", *(pages.mean(x) for kind in KINDS for x in other[kind][0][v].values())) for v in LEVELS])}
"""  # fmt: skip
    pages.write(
        out, "prompt_change", text, {"prompt_change.jpg": sheet, "prompt_change.png": pages.stack(charts)}
    )
