"""A blind rating sheet as one HTML file: two images side by side, "left, same or right", as in the Imagen paper."""

import html
import json
import random

from torch import Tensor

from .image import as_bytes
from .view import data_url

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px sans-serif; max-width: 1200px; margin: 2em auto; color: #20242c; background: #fafaf7 }}
.pair {{ margin: 0 0 3em }} .pair img {{ width: 48%; image-rendering: auto }} .prompt {{ font-weight: bold }}
button {{ font: inherit; padding: .5em 1.5em; margin: .5em .5em 0 0 }} button.chosen {{ background: #de7842; color: #fff }}
#result {{ white-space: pre; border: 1px solid #aaa; padding: 1em }}
</style></head><body><h1>{title}</h1><p>{question}</p>
{pairs}
<p><button id="show">Show result</button><button id="save">Save ratings</button></p><div id="result" hidden></div>
<script>
const KEY = {key};
const chosen = new Array(KEY.flipped.length).fill(null);
document.querySelectorAll(".pair").forEach((pair, index) => pair.querySelectorAll("button").forEach((button) =>
  button.addEventListener("click", () => {{
    chosen[index] = button.dataset.choice;
    pair.querySelectorAll("button").forEach((other) => other.classList.toggle("chosen", other === button));
  }})));
const meaning = (choice, index) => choice === null ? null : choice === "same" ? "same"
  : (choice === "left") !== KEY.flipped[index] ? KEY.names[0] : KEY.names[1];
const rows = () => chosen.map((choice, index) => ({{ pair: index + 1, prompt: KEY.prompts[index],
  preferred: meaning(choice, index) }}));
document.getElementById("show").addEventListener("click", () => {{
  const given = rows().filter((row) => row.preferred !== null);
  const share = (name) => given.filter((row) => row.preferred === name).length;
  const line = (name) => `${{name}}: ${{share(name)}} of ${{given.length}}` +
    (given.length ? ` (${{(100 * share(name) / given.length).toFixed(1)}} %)` : "");
  const box = document.getElementById("result");
  box.hidden = false;
  box.textContent = [KEY.names[0], "same", KEY.names[1]].map(line).join("\\n");
}});
document.getElementById("save").addEventListener("click", () => {{
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(rows(), null, 1)], {{ type: "application/json" }}));
  link.download = "ratings.json";
  link.click();
}});
</script></body></html>
"""

PAIR = """<div class="pair"><p class="prompt">{number}. {prompt}</p><img alt="left" src="{left}"> <img alt="right" src="{right}">
<div><button data-choice="left">Left</button><button data-choice="same">Same</button><button data-choice="right">Right</button></div></div>"""


def rating_page(
    first: Tensor,
    second: Tensor,
    prompts: list[str],
    names: tuple[str, str] = ("A", "B"),
    question: str = "Which image matches the caption better?",
    seed: int = 0,
) -> str:
    """HTML of a blind comparison of two batches of images (``b h w c`` in [0, 1]), pair by pair.

    The side of each image and the order of the pairs are random by ``seed``. ``prompts`` has one caption per pair, one
    for all, or none. ValueError when the counts do not fit.
    """
    count = first.shape[0]
    if second.shape[0] != count:
        raise ValueError(
            f"{count} and {second.shape[0]} images are connected. A blind comparison needs pairs. Give both batches "
            "the same number of images."
        )
    if len(prompts) not in (0, 1, count):
        raise ValueError(
            f"{len(prompts)} prompts are given for {count} pairs. Give one per pair, one for all, or none."
        )
    if names[0] == names[1] or "same" in names:
        raise ValueError(
            f"The names are {names[0]!r} and {names[1]!r}. Use two different names, other than 'same'."
        )
    captions = prompts if len(prompts) == count else (prompts or [""]) * count
    generator = random.Random(seed)
    order = generator.sample(range(count), count)
    flipped = [generator.random() < 0.5 for _ in order]
    pairs = []
    for place, (index, swap) in enumerate(zip(order, flipped, strict=True), start=1):
        left, right = (
            data_url(as_bytes(batch[index])) for batch in ((second, first) if swap else (first, second))
        )
        caption = html.escape(captions[index])
        pairs.append(PAIR.format(number=place, prompt=caption, left=left, right=right))
    key = {"names": names, "flipped": flipped, "prompts": [captions[index] for index in order]}
    script = json.dumps(key).replace("<", "\\u003c")  # no caption can end the script
    return PAGE.format(
        title="Blind comparison", question=html.escape(question), pairs="\n".join(pairs), key=script
    )
