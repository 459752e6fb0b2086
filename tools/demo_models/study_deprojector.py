"""What a deprojector keeps of a prompt: the article's table of layers and widths on 300 held-out prompts, and images."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from blockwork.demo_models.files import weights_file
from blockwork.deprojector.host import conditioning, models
from blockwork.deprojector.host.texts import encode, merge_texts
from blockwork.deprojector.train.forcing import row_weights
from torch import Tensor
from torch.nn import functional

from . import pages, sampling
from .deprojectors import HELD_OUT, ROWS, texts
from .study_blocks import PROMPTS, sentence

FAMILIES = {
    "Transformer": "transformer",
    "initial, 1 layer": "lstm_1", "initial, 2 layers": "lstm_2", "initial, 3 layers": "lstm_3",
    "information kept, 1 layer": "kept_1", "information kept, 2 layers": "kept_2", "information kept, 3 layers": "kept_3",
    "wide 1x, 1 layer": "wide_1", "wide 1x, 2 layers": "wide_2", "wide 1.25x, 1 layer": "wider_1", "wide 1.25x, 2 layers": "wider_2",
}  # fmt: skip
# Of the article: the first is better than the second.
CLAIMS = (
    ("the initial LSTM with 2 layers is better than with 1", "initial, 2 layers", "initial, 1 layer"),
    ("the initial LSTM with 3 layers is no better than with 2", "initial, 2 layers", "initial, 3 layers"),
    ("the LSTM that keeps information is best with 1 layer (against 2)", "information kept, 1 layer", "information kept, 2 layers"),
    ("the wide LSTM (1x) with 2 layers is better than with 1", "wide 1x, 2 layers", "wide 1x, 1 layer"),
    ("the wide LSTM with 2 layers is better at 1.25x than at 1x", "wide 1.25x, 2 layers", "wide 1x, 2 layers"),
)  # fmt: skip
SHOWN = ("Transformer", "initial, 2 layers", "information kept, 1 layer", "wide 1.25x, 2 layers")
THINGS = [own for own, _ in PROMPTS]
# Two texts, each with half of what is wanted, added up: the image should have both.
SUMS = [(f"a {shape}", f"a {colour} thing", (shape, colour)) for shape, colour in THINGS]
SEED = 51  # of the deprojectors' training: its last 300 captions were held out


def loaded(name: str) -> Any:
    sampling.demo_models.register()  # so that ComfyUI lists their deprojectors
    return models.load(f"atelier_{name}.safetensors")


def deprojected(name: str, said: Sequence[str]) -> Any:
    """Conditioning from the embedding of each text; texts with a comma are several, whose embeddings are added up."""
    clip, deprojector, states = sampling.clip(), loaded(name), []
    for text in said:
        embedding = merge_texts(clip, text, "comma", "difference", "off")
        states.append(conditioning.embedding_conditioning(deprojector, embedding, models.Shaping())[0][0])
    return [[torch.cat(states), {}]]


@functools.cache
def held_out() -> tuple[list[str], Tensor, Tensor]:
    """The held-out prompts, their true hidden states ``n rows d`` and the rows of their ends."""
    said = texts(SEED)[-HELD_OUT:][: sampling.count(HELD_OUT)]
    clip = sampling.clip()
    true = torch.cat([encode(clip, text)[0][:, :ROWS] for text in said])
    ends = torch.tensor([
        [token for token, *_ in clip.tokenize(text)["l"][0]].index(49407) for text in said
    ])  # fmt: skip
    return said, true, ends


def errors(name: str) -> tuple[Tensor, Tensor]:
    """Per held-out prompt, free-running: the weighted squared error, as in training, and the mean cosine of the words."""
    said, true, ends = held_out()
    # commas would split a caption into several texts; the embedding of the whole is wanted
    clip, deprojector = sampling.clip(), loaded(name)
    made = torch.cat([
        conditioning.embedding_conditioning(deprojector, merge_texts(clip, text, "line", "difference", "off"), models.Shaping())[0][0][:, :ROWS]
        for text in said
    ])  # fmt: skip
    weights = row_weights(ends, ROWS)[..., None]
    square = (weights * (made - true)).square().mean((1, 2))
    words = (torch.arange(ROWS)[None] <= ends[:, None]) & (torch.arange(ROWS)[None] > 0)
    cosine = (functional.cosine_similarity(made, true, dim=-1) * words).sum(1) / words.sum(1)
    return square, cosine


def seen(conditioning: Any, things: Sequence[tuple[str, str]]) -> tuple[Tensor, float, float]:
    """The images, and how often their shape and colour are right."""
    images = sampling.paint(sampling.model(), conditioning, len(things))
    return images, *sampling.right(images, things)


def run(out: Path) -> None:
    """Write ``deprojector.md`` and its images."""
    sentences = [sentence(thing) for thing in THINGS]
    true = seen(sampling.together(sentences), THINGS)
    found = {title: errors(name) for title, name in FAMILIES.items()}
    size = {
        title: weights_file(f"deprojector/atelier_{name}").stat().st_size / 1000
        for title, name in FAMILIES.items()
    }
    rows: list[tuple[object, ...]] = [
        ("the text itself", "", "0", "1", f"{true[1]:.2f}", f"{true[2]:.2f}", "", "")
    ]
    single, merged = [true[0]], []
    for title, name in FAMILIES.items():
        square, cosine = found[title]
        painted: tuple[object, ...] = ("", "", "", "")
        if title in SHOWN:
            one = seen(deprojected(name, sentences), THINGS)
            both = seen(deprojected(name, [f"{a}, {b}" for a, b, _ in SUMS]), [t for *_, t in SUMS])
            painted = tuple(f"{value:.2f}" for value in (one[1], one[2], both[1], both[2]))
            single.append(one[0])
            merged.append(both[0])
        low, high = pages.resampled(square)
        rows.append(
            (
                title,
                f"{size[title]:.0f}",
                f"{float(square.mean()):.3f} ({low:.3f}-{high:.3f})",
                f"{float(cosine.mean()):.3f}",
                *painted,
            )
        )
    claims = []
    for claim, better, worse in CLAIMS:
        difference = found[worse][0] - found[better][0]  # of the same prompts
        low, high = pages.resampled(difference)
        no_better = "no better" in claim
        holds = (
            (low > 0 or high > 0 > low) if no_better else (True if low > 0 else False if high < 0 else None)
        )
        claims.append(
            pages.verdict(
                f"{claim}.",
                holds,
                f"The error is larger by {float(difference.mean()):.4f} ({low:.4f} to {high:.4f}).",
            )
        )
    kinds = {"Transformer": ["Transformer"], **{k: [t for t in FAMILIES if t.startswith(k)] for k in
             ("initial", "information kept", "wide 1x", "wide 1.25x")}}  # fmt: skip
    every = [float(square.mean()) for square, _ in found.values()]
    chart = pages.scatter(
        {k: [(size[t], float(found[t][0].mean())) for t in of] for k, of in kinds.items()},
        "Error over the size of the file; more layers to the right", "kB", "free-running error", bottom=0.0, top=1.1 * max(every), decimals=0,
    )  # fmt: skip
    sheet = pages.grid([row[:8] for row in single], [f"{c} {s}" for s, c in THINGS[:8]],
                       ["the text itself", *(t.replace(", ", ",\n") for t in SHOWN)], cell=128, margin=170)  # fmt: skip
    sums = pages.grid([row[:8] for row in merged], [f"{s} + {c}" for s, c in THINGS[:8]],
                      [f"sum of two,\n{t}".replace(", ", ",\n") for t in SHOWN], cell=128, margin=170)  # fmt: skip
    text = f"""# What a deprojector keeps of a prompt of the demo models

**Question:** do more layers and wider ones make a deprojector better, as in the article's table?

**Method, fixed before any model was trained:** each family is trained for the same time with the same captions and one seed. Error: weighted
squared error of the hidden states, free-running, as in training, on {len(held_out()[0])} held-out prompts; the intervals (95 %, by resampling the
prompts) say nothing of other seeds. Claims are of the difference on the same prompts. Images: {len(THINGS)} prompts, {sampling.STEPS} steps of
{sampling.SAMPLER}, guidance {sampling.GUIDANCE}, one image each. A sum adds the embeddings of two texts, one with a shape, the other with
a colour (method "difference"). By chance a shape or a colour is right in one image of six.
Made by `python tools/study_demo_models.py deprojector`.

{(chr(10) * 2).join(claims)}

{pages.table(("deprojector", "kB", "error", "cosine of the words", "shape right", "colour right", "sum: shape", "sum: colour"), rows)}

![error over size](deprojector.png)

![single embeddings](deprojector_single.jpg)

![merged embeddings](deprojector_merged.jpg)
"""  # fmt: skip
    pages.write(out, "deprojector", text,
                {"deprojector_single.jpg": sheet, "deprojector_merged.jpg": sums, "deprojector.png": chart})  # fmt: skip
