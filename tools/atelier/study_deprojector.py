"""What a deprojector keeps of a prompt: cosine, free-running error, and what the judge sees in the pictures."""

from pathlib import Path
from typing import Any

import blockwork.atelier.host as atelier
from blockwork.deprojector import host, host_texts
from torch import Tensor
from torch.nn import functional

from . import easel, pages
from .study_blocks import PROMPTS, SEEDS, sentence

FAMILIES = {"1 layer": "lstm_1", "2 layers": "lstm_2", "3 layers": "lstm_3", "Transformer": "transformer"}
THINGS = [own for own, _ in PROMPTS]
# Two texts, each with half of what is wanted, added up: the picture should have both.
SUMS = [(f"a big {shape}", f"a {colour} picture", (shape, colour)) for shape, colour in THINGS]


def deprojected(name: str, texts: str, merge: str = "difference") -> Any:
    """Conditioning from the embedding of one text, or of several between commas added up."""
    loaded = host.load(f"atelier_{name}.safetensors")
    embedding = host_texts.merge_texts(easel.clip(), texts, "comma", merge, "off")
    return host.embedding_conditioning(loaded, embedding, host.Shaping(), None)


def errors(name: str) -> tuple[float, float]:
    """Mean cosine and weighted-by-nothing squared error of the words' hidden states against the true ones."""
    cosine, square = [], []
    for thing in THINGS:
        text = easel.prompt(*thing, extra="big").replace(",", "")
        states = deprojected(name, text)[0][0]
        true, _ = host_texts.encode(easel.clip(), text)
        words = slice(1, len(text.split()) + 2)
        cosine.append(float(functional.cosine_similarity(states[0, words], true[0, words], dim=-1).mean()))
        square.append(float((states[0, words] - true[0, words]).square().mean()))
    return sum(cosine) / len(cosine), sum(square) / len(square)


def seen(conditionings: list[Any], things: list[tuple[str, str]]) -> tuple[list[Tensor], float, float]:
    """The pictures, and how often their shape and colour are right."""
    pictures = [easel.paint(easel.model(), conditioning, SEEDS) for conditioning in conditionings]
    verdicts = [atelier.judge(painted) for painted in pictures]
    pairs = list(zip(verdicts, things, strict=True))
    return (
        [painted[0] for painted in pictures],
        sum(v.right("shape", t[0]) for v, t in pairs) / len(pairs),
        sum(v.right("colour", t[1]) for v, t in pairs) / len(pairs),
    )


def run(out: Path) -> None:
    """Write ``deprojector.md`` and its pictures."""
    sentences = [sentence(thing) for thing in THINGS]
    true = seen([easel.said(text) for text in sentences], THINGS)
    rows: list[tuple[object, ...]] = [("the text itself", 1.0, 0.0, true[1], true[2], "", "")]
    single, merged = [true[0]], []
    for title, name in FAMILIES.items():
        cosine, square = errors(name)
        one = seen([deprojected(name, text) for text in sentences], THINGS)
        both = seen([deprojected(name, f"{a}, {b}") for a, b, _ in SUMS], [t for *_, t in SUMS])
        rows.append((title, cosine, square, one[1], one[2], both[1], both[2]))
        single.append(one[0])
        merged.append(both[0])
    sheet = pages.grid([row[:8] for row in single], [f"{c} {s}" for s, c in THINGS[:8]],
                       ["the text itself", *(f"deprojected,\n{name}" for name in FAMILIES)])  # fmt: skip
    sums = pages.grid([row[:8] for row in merged], [f"{s} + {c}" for s, c in THINGS[:8]],
                      [f"sum of two,\n{name}" for name in FAMILIES])  # fmt: skip
    text = f"""# What a deprojector keeps, in the atelier

{len(THINGS)} prompts, {len(SEEDS)} seed(s), {easel.STEPS} steps of {easel.SAMPLER}, guidance {easel.GUIDANCE}. Cosine and
squared error are of the words' hidden states, free-running, against the text encoder's own. A sum adds the embeddings
of two texts, the one naming a shape, the other a colour (method "difference"). By chance a shape or a colour is right
in one picture of six. Remade by `python tools/study_atelier.py deprojector`.

{pages.table(("deprojector", "cosine", "squared error", "shape right", "colour right", "sum: shape", "sum: colour"), rows)}

![single embeddings](deprojector_single.jpg)

![merged embeddings](deprojector_merged.jpg)
"""  # fmt: skip
    pages.write(out, "deprojector", text, {"deprojector_single.jpg": sheet, "deprojector_merged.jpg": sums})
