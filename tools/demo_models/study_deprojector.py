"""What a deprojector keeps of a prompt: cosine, free-running error, and what the judge sees in the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from blockwork.deprojector.host import conditioning, models
from blockwork.deprojector.host.texts import encode, merge_texts
from torch import Tensor
from torch.nn import functional

from . import pages, sampling
from .study_blocks import PROMPTS, sentence

FAMILIES = {"1 layer": "lstm_1", "2 layers": "lstm_2", "3 layers": "lstm_3", "Transformer": "transformer"}
THINGS = [own for own, _ in PROMPTS]
# Two texts, each with half of what is wanted, added up: the picture should have both.
SUMS = [(f"a big {shape}", f"a {colour} picture", (shape, colour)) for shape, colour in THINGS]


def deprojected(name: str, texts: Sequence[str]) -> Any:
    """Conditioning from the embedding of each text; texts with a comma are several, whose embeddings are added up."""
    clip = sampling.clip()  # from here on ComfyUI lists the demo models' deprojectors
    loaded = models.load(f"atelier_{name}.safetensors")
    states = []
    for text in texts:
        embedding = merge_texts(clip, text, "comma", "difference", "off")
        states.append(conditioning.embedding_conditioning(loaded, embedding, models.Shaping())[0][0])
    return [[torch.cat(states), {}]]


def errors(name: str) -> tuple[float, float]:
    """Mean cosine and squared error of the words' hidden states, free-running, against the true ones."""
    texts = [sentence(thing) for thing in THINGS]
    found = deprojected(name, texts)[0][0]
    cosine, square = [], []
    for text, states in zip(texts, found, strict=True):
        words = slice(1, len(text.split()) + 2)
        true = encode(sampling.clip(), text)[0][0, words]
        cosine.append(float(functional.cosine_similarity(states[words], true, dim=-1).mean()))
        square.append(float((states[words] - true).square().mean()))
    return sum(cosine) / len(cosine), sum(square) / len(square)


def seen(conditioning: Any, things: Sequence[tuple[str, str]]) -> tuple[Tensor, float, float]:
    """The pictures, and how often their shape and colour are right."""
    pictures = sampling.paint(sampling.model(), conditioning, len(things))
    return pictures, *sampling.right(pictures, things)


def run(out: Path) -> None:
    """Write ``deprojector.md`` and its pictures."""
    sentences = [sentence(thing) for thing in THINGS]
    true = seen(sampling.together(sentences), THINGS)
    rows: list[tuple[object, ...]] = [("the text itself", 1.0, 0.0, true[1], true[2], "", "")]
    single, merged = [true[0]], []
    for title, name in FAMILIES.items():
        cosine, square = errors(name)
        one = seen(deprojected(name, sentences), THINGS)
        both = seen(deprojected(name, [f"{a}, {b}" for a, b, _ in SUMS]), [t for *_, t in SUMS])
        rows.append((title, cosine, square, one[1], one[2], both[1], both[2]))
        single.append(one[0])
        merged.append(both[0])
    sheet = pages.grid([row[:8] for row in single], [f"{c} {s}" for s, c in THINGS[:8]],
                       ["the text itself", *(f"deprojected,\n{name}" for name in FAMILIES)])  # fmt: skip
    sums = pages.grid([row[:8] for row in merged], [f"{s} + {c}" for s, c in THINGS[:8]],
                      [f"sum of two,\n{name}" for name in FAMILIES])  # fmt: skip
    text = f"""# What a deprojector keeps of a prompt of the demo models

{len(THINGS)} prompts, one image each, {sampling.STEPS} steps of {sampling.SAMPLER}, guidance {sampling.GUIDANCE}. Cosine and
squared error are of the words' hidden states, free-running, against those of the text encoder. A sum adds the embeddings
of two texts, the one naming a shape, the other a colour (method "difference"). By chance a shape or a colour is right
in one image of six. Made by `python tools/study_demo_models.py deprojector`.

{pages.table(("deprojector", "cosine", "squared error", "shape right", "colour right", "sum: shape", "sum: colour"), rows)}

![single embeddings](deprojector_single.jpg)

![merged embeddings](deprojector_merged.jpg)
"""  # fmt: skip
    pages.write(out, "deprojector", text, {"deprojector_single.jpg": sheet, "deprojector_merged.jpg": sums})
