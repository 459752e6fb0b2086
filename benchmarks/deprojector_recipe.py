"""Does it help to train a deprojector on its own rows? Teacher forcing, a schedule and self-feeding at equal steps.

A small CLIP-like text encoder is trained first (contrastively, against vectors of the scenes that the captions
describe), so that its hidden states have structure. Then family T and LSTM 3 learn to undo it, with the same
examples, steps, batches and learning rates, only the rows they see differ. Writes the curve and the figures to
``benchmarks/results/deprojector_recipe.json`` and ``.png``. Minutes on one CPU thread.

    python benchmarks/deprojector_recipe.py [--steps 600] [--seeds 2]
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from refhost.pack import load_pack

load_pack()

from blockwork.deprojector.train.examples import Encoded, encode, pairs
from blockwork.deprojector.train.scores import History
from blockwork.deprojector.train.start import inverse_projection, preset, started
from blockwork.deprojector.train.trainer import SCHEDULES, Recipe, Trainer

FAMILIES = ("transformer", "LSTM 3, initial, 1 layer")
DIM, HEADS, LAYERS, ROWS = 96, 4, 3, 24
COLOURS = ["red", "blue", "green", "white", "black", "golden", "silver", "pink", "purple", "brown"]
BEINGS = ["cat", "dog", "girl", "boy", "woman", "man", "horse", "fox", "bird", "robot", "knight", "witch"]
THINGS = [
    "hat",
    "coat",
    "dress",
    "sword",
    "book",
    "umbrella",
    "scarf",
    "helmet",
    "ribbon",
    "basket",
    "lamp",
    "crown",
]
PLACES = ["garden", "forest", "castle", "street", "beach", "kitchen", "library", "station", "desert", "tower"]
STYLES = ["painting", "photo", "sketch", "watercolour", "poster", "statue"]
SLOTS = (COLOURS, BEINGS, COLOURS, THINGS, PLACES, STYLES)
FILLERS = ["a", "of", "with", "in", "the", "and"]
WORDS = [
    "<pad>",
    "<start>",
    "<end>",
    *dict.fromkeys([*FILLERS, *COLOURS, *BEINGS, *THINGS, *PLACES, *STYLES]),
]
NUMBER = {word: number for number, word in enumerate(WORDS)}


def caption(scene: Sequence[int]) -> str:
    """A scene in words; a slot that is -1 is left out."""
    colour, being, shade, thing, place, style = (
        words[value] if value >= 0 else "" for words, value in zip(SLOTS, scene, strict=True)
    )
    parts = [f"{style} of" if style else "", "a", colour, being]
    parts += [f"with a {shade} {thing}" if thing else "", f"in the {place}" if place else ""]
    return " ".join(" ".join(parts).split())


def scenes(count: int, seed: int) -> list[list[int]]:
    """Random scenes; every slot but the being may be empty."""
    chance = random.Random(seed)
    return [
        [
            -1 if k != 1 and chance.random() < 0.35 else chance.randrange(len(words))
            for k, words in enumerate(SLOTS)
        ]
        for _ in range(count)
    ]


class TextEncoder(nn.Module):
    """CLIP's text encoder in small, under CLIP's names."""

    def __init__(self):
        super().__init__()
        text = nn.Module()
        text.embeddings = nn.Module()
        text.embeddings.token_embedding = nn.Embedding(len(WORDS), DIM)
        text.embeddings.position_embedding = nn.Embedding(ROWS, DIM)
        text.encoder = nn.Module()
        text.encoder.layers = nn.ModuleList([self._layer() for _ in range(LAYERS)])
        text.final_layer_norm = nn.LayerNorm(DIM)
        self.text_model = text
        self.text_projection = nn.Linear(DIM, DIM, bias=False)
        for embedding in (text.embeddings.token_embedding, text.embeddings.position_embedding):
            nn.init.normal_(embedding.weight, std=0.1)
        nn.init.orthogonal_(self.text_projection.weight)

    @staticmethod
    def _layer() -> nn.Module:
        layer = nn.Module()
        layer.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(layer.self_attn, name, nn.Linear(DIM, DIM))
        layer.layer_norm1, layer.layer_norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        layer.mlp = nn.Module()
        layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        return layer

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states ``b rows d`` of ``b rows`` tokens."""
        embeddings = self.text_model.embeddings
        x = embeddings.token_embedding(tokens) + embeddings.position_embedding.weight
        for layer in self.text_model.encoder.layers:
            x = x + self._attend(layer.self_attn, layer.layer_norm1(x))
            hidden = layer.mlp.fc1(layer.layer_norm2(x))
            x = x + layer.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return self.text_model.final_layer_norm(x)

    @staticmethod
    def _attend(attention: nn.Module, x: Tensor) -> Tensor:
        names = ("q_proj", "k_proj", "v_proj")
        parts = [getattr(attention, name)(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for name in names]
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Encoded:
        """What the trainer needs of a text encoder."""
        tokens, end, cut = tokenized(texts)
        return Encoded(self(tokens), end, cut)


def tokenized(texts: Sequence[str]) -> tuple[Tensor, Tensor, list[bool]]:
    """Start, words, end; padded with the end token, as SD1's CLIP does."""
    rows, ends, cut = [], [], []
    for text in texts:
        words = [NUMBER[word] for word in text.split()]
        cut.append(len(words) > ROWS - 2)
        row = [NUMBER["<start>"], *words[: ROWS - 2], NUMBER["<end>"]]
        ends.append(len(row) - 1)
        rows.append(row + [NUMBER["<end>"]] * (ROWS - len(row)))
    return torch.tensor(rows), torch.tensor(ends), cut


def train_encoder(steps: int, seed: int = 0) -> tuple[TextEncoder, float]:
    """The encoder, and how often it picks the right one of 128 scenes at the end."""
    torch.manual_seed(seed)
    encoder = TextEncoder()
    generator = torch.Generator().manual_seed(99)
    tables = [torch.randn(len(words) + 1, DIM, generator=generator) for words in SLOTS]
    seen = torch.randn(DIM, DIM, generator=generator) / DIM**0.5
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    right = 0.0
    for step in range(steps):
        batch = scenes(128, seed=1_000_000 + step)
        tokens, end, _ = tokenized([caption(scene) for scene in batch])
        image = sum(table[[scene[k] for scene in batch]] for k, table in enumerate(tables))
        image = F.normalize(torch.tanh(image @ seen), dim=-1)
        text = F.normalize(encoder.text_projection(encoder(tokens)[torch.arange(128), end]), dim=-1)
        logits = 20 * text @ image.T
        target = torch.arange(128)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = 0.95 * right + 0.05 * (logits.argmax(1) == target).float().mean().item()
    return encoder.eval(), right


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--encoder-steps", type=int, default=400)
    arguments.add_argument("--captions", type=int, default=4000)
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    encoder, right = train_encoder(options.encoder_steps)
    print(
        f"text encoder: picks the scene {right:.0%} of the time, {time.process_time() - began:.0f} s",
        flush=True,
    )
    texts = list(dict.fromkeys(caption(scene) for scene in scenes(options.captions, 5)))
    test = encode(pairs(texts[-200:], 0, augment=False), encoder.encode)
    train = encode(pairs(texts[:-200], 0), encoder.encode)
    start = encoder.encode([""])
    rows = start.states[0, 0], start.pooled[0]
    weights = encoder.state_dict()
    results: dict[str, dict] = {}
    for family in FAMILIES:
        for schedule in SCHEDULES:
            histories = []
            began = time.process_time()
            for seed in range(options.seeds):
                model = started(
                    preset(family, weights, HEADS), weights, rows, inverse_projection(weights), seed
                )
                recipe = Recipe(
                    steps=options.steps, schedule=schedule, evaluate_every=50, patience=0, seed=seed
                )
                histories.append(Trainer(model, train, test, recipe).run())
            seconds = (time.process_time() - began) / options.seeds
            results[f"{family} / {schedule}"] = summary(histories, seconds)
            report(f"{family} / {schedule}", results[f"{family} / {schedule}"])
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    record = {"settings": settings, "encoder_accuracy": right, "runs": results}
    (options.out / "deprojector_recipe.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(results, options.out / "deprojector_recipe.png")


def summary(histories: Sequence[History], seconds: float) -> dict:
    """Mean curve over the seeds, the last and the best scores of each, CPU seconds per run."""
    curve = [
        [entries[0][0], *(mean(scores[k] for _, scores in entries) for k in range(5))]
        for entries in zip(*(history.scores for history in histories), strict=True)
    ]
    last = [dict(history.scores[-1][1]._asdict()) for history in histories]
    best = [history.best[1].free_weighted for history in histories if history.best]
    fields = ["step", "forced_weighted", "forced", "free_weighted", "free", "free_cosine"]
    return {
        "fields": fields,
        "curve": curve,
        "last": last,
        "best_free_weighted": best,
        "cpu_seconds": seconds,
    }


def report(name: str, result: dict) -> None:
    last = {key: mean(scores[key] for scores in result["last"]) for key in result["last"][0]}
    each = ", ".join(f"{scores['free_weighted']:.4f}" for scores in result["last"])
    print(
        f"{name}: forced {last['forced_weighted']:.4f}, free-running {last['free_weighted']:.4f} (seeds {each}), "
        f"cosine {last['free_cosine']:.4f}, {result['cpu_seconds']:.0f} CPU s",
        flush=True,
    )


def draw(results: dict[str, dict], path: Path) -> None:
    """The free-running error over the steps, one line per run."""
    from blockwork.deprojector.host.plots import line_plot
    from PIL import Image

    series = {name: [(point[0], point[3]) for point in run["curve"][1:]] for name, run in results.items()}
    highest = 1.1 * max(y for line in series.values() for _, y in line[len(line) // 10 :])
    image = line_plot(series, "free-running weighted error", ("step", "error"), (0, highest))
    Image.fromarray((image[0].numpy() * 255).astype("uint8")).save(path)


if __name__ == "__main__":
    main()
