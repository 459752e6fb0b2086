"""Which sampler to search block weights with, and whether to search at all: the runs of ``docs/studies/search.md``.

    .venv/bin/python tools/demo_models/study_search.py FOLDER [--seeds 10] [--trials 150] [--minutes 80] [--page]

The method, fixed before any result was looked at:

- Goal: B's style with A's shapes and colours. A is the demo base model, B its fine-tune *ink*. The score of a weights text is the
  mean, over three prompts with one seed each, of the probabilities that the classifier gives to the style, the shape, and the colour.
- Samplers TPE, CMA-ES and random, 150 trials each, with the same seeds 0, 1, ... The space *groups* frees five numbers (two groups
  of IN, M00, two groups of OUT), *blocks* all 25. The presets are all built-in ones of SD1, once each, also for SD1's weights
  of A and of B alone. The preset with the best search score is the result of "all presets".
- Hold-out: the best trial of each search is scored on twelve other prompts with other seeds, which no search sees.
- Reported: means over the seeds with 95 % intervals (t distribution), for the search score and the hold-out score; the paired
  difference of each sampler to random and to the best preset; in how many seeds a sampler is above random; the best score so far
  over the trials. One method is called better than another only where the interval of the paired difference, on the hold-out
  prompts, excludes 0.
- Seeds run in order. For each seed all samplers run in both spaces before the next seed starts. When the time is up, the seeds
  count that all samplers have finished in both spaces.
- Images are 128 x 128, 3 Euler steps (scheduler simple), guidance 4. Three steps were chosen because the classifier reads images of 3 and
  of 14 steps alike at four fixed weights (A, 0.8, B, OUT alone), before any search was run.

FOLDER keeps every score, so that the same command resumes: samplers depend on their seed and on the scores alone.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.sample
import comfy.samplers
import optuna
import torch
from blockwork.blocks import presets
from blockwork.blocks.keymap import block_of
from blockwork.blocks.weights import parse
from blockwork.demo_models import drawing
from blockwork.demo_models import host as demo
from blockwork.demo_models.autoencoder import DOWNSCALE
from blockwork.merge.live.host import merge_models
from blockwork.search.space import parse_space
from blockwork.search.study import Study
from torch import Tensor, nn

SPACES = {
    "groups": "IN00-IN05 = one 0..1; IN06-IN11 = one 0..1; M00 = 0..1; OUT00-OUT05 = one 0..1; OUT06-OUT11 = one 0..1",
    "blocks": "ALL = 0..1",
}
LATENT = drawing.SIDE // DOWNSCALE
SAMPLERS = ("TPE", "CMA-ES", "random")
STYLE = "ink"
Case = tuple[str, str, str, int]  # shape, colour, background, seed
SEARCH: list[Case] = [
    ("star", "green", "white", 1),
    ("circle", "red", "grey", 2),
    ("cross", "purple", "pink", 3),
]
HOLDOUT: list[Case] = [
    ("square", "blue", "white", 11), ("ring", "yellow", "grey", 12), ("triangle", "orange", "black", 13),
    ("circle", "green", "pink", 14), ("star", "purple", "brown", 15), ("cross", "red", "white", 16),
    ("triangle", "blue", "pink", 17), ("square", "red", "brown", 18), ("ring", "green", "black", 19),
    ("star", "yellow", "black", 20), ("cross", "orange", "grey", 21), ("circle", "purple", "white", 22),
]  # fmt: skip
PLANNED = "80 minutes of one core that other work shared"
FOUND = """**Verdict: for this goal no search is worth its trials.** B alone scores 0.910 on the hold-out prompts. No search of 150 trials
and no preset that a search score would choose is above it.

- **Five groups.** TPE, CMA-ES and random end level with the best preset. CMA-ES is better than random by 0.008 +- 0.006; TPE is not shown
  to be (0.005 +- 0.015). After about 40 trials nothing is gained.
- **25 blocks.** On the three prompts that it sees TPE comes as far as with groups; on others all three samplers are below the
  best preset and below B, and every interval excludes 0. The search fits its prompts. TPE and CMA-ES are above random, but neither interval of
  the hold-out difference excludes 0 (0.045 +- 0.046 and 0.030 +- 0.037).
- **Groups against blocks**, hold-out, paired by seed: CMA-ES 0.036 +- 0.023 and random 0.058 +- 0.043 better with groups; TPE
  0.018 +- 0.030.

**What to choose.** Try B alone and the presets first: that is 40 images per prompt. If you search, free a few groups, with CMA-ES or TPE, for about
40 trials; use more than three prompts and seeds; and set `holdout`: without it these results would look like a gain. Free single
blocks only with many prompts.

**Limits.** One goal on one pair of small models, for which B alone is close to the best there is: a goal that B does not reach leaves more to
find. Four seeds of ten planned, so the intervals are wide, and a difference below about 0.01 (groups) or 0.04 (blocks) cannot be seen."""  # of the run whose page is in docs/studies
STEPS, GUIDANCE, SAMPLER, SCHEDULER = 3, 4.0, "euler", "simple"


class Denoiser(nn.Module):
    """The U-Net with the call that can be traced."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, timesteps=t, context=context, transformer_options={})


class Painter:
    """Merges A and B in place, only the blocks whose weight changes, and samples.

    The same images as Block Merge and core's sampler give (``check``), in a third of the time: the U-Net is traced once.
    """

    def __init__(self) -> None:
        self.a, self.b = demo.load_model("base"), demo.load_model(STYLE)
        self.vae, self.clip = demo.load_vae(), demo.load_clip()
        self.model = self.a.model
        self.parameters = dict(self.model.diffusion_model.named_parameters())
        self.of_a = {key: parameter.clone() for key, parameter in self.parameters.items()}
        self.of_b = dict(self.b.model.diffusion_model.named_parameters())
        self.blocks: dict[str, list[str]] = {}
        for key in self.parameters:
            self.blocks.setdefault(block_of(f"diffusion_model.{key}", "sd1") or "", []).append(key)
        self.now = dict.fromkeys(self.blocks, 0.0)
        self.said: dict[str, Tensor] = {}
        context = torch.cat([self.encode("")] * 2)
        self.traced = torch.jit.trace(
            Denoiser(self.model.diffusion_model),
            (torch.zeros(2, 4, LATENT, LATENT), torch.zeros(2), context), check_trace=False, strict=False,
        )  # fmt: skip

    def encode(self, text: str) -> Tensor:
        if text not in self.said:
            self.said[text] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0][0]
        return self.said[text]

    def prompts(self, cases: list[Case]) -> Tensor:
        return torch.cat([self.encode(f"a {c[1]} {c[0]} on a {c[2]} background") for c in cases])

    def noise(self, cases: list[Case]) -> Tensor:
        return torch.cat(
            [torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(c[3])) for c in cases]
        )

    def merge(self, text: str) -> None:
        """Set the weights of the U-Net; blocks that the text does not name are A's."""
        weights = parse(text, "sd1")
        for block, keys in self.blocks.items():
            share = float(weights.of(block, 0.0)) if block else 0.0
            if share != self.now[block]:
                self.now[block] = share
                for key in keys:
                    torch.lerp(self.of_a[key], self.of_b[key], share, out=self.parameters[key].data)

    def paint(self, text: str, cases: list[Case]) -> Tensor:
        """Images ``n 128 128 3`` in 0..1."""
        self.merge(text)
        sampling, count = self.model.model_sampling, len(cases)
        sigmas = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, STEPS)
        context = torch.cat([self.prompts(cases), self.encode("").expand(count, -1, -1)])
        noise = self.noise(cases)
        x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
        for sigma, following in itertools.pairwise(sigmas):
            inside = sampling.calculate_input(sigma, x).repeat(2, 1, 1, 1)
            found: Tensor = self.traced(inside, sampling.timestep(sigma).float().expand(2 * count), context)  # pyright: ignore[reportCallIssue]
            asked, empty = sampling.calculate_denoised(
                sigma.expand(2 * count), found, x.repeat(2, 1, 1, 1)
            ).chunk(2)
            denoised = empty + GUIDANCE * (asked - empty)
            x = x + (x - denoised) / sigma * (following - sigma)
        return self.vae.decode(self.model.process_latent_out(x))

    def check(self) -> float:
        """The largest difference of an image to Block Merge with core's sampler, at weights that are different in every block."""
        text = ", ".join(f"{block}={0.03 * n:.2f}" for n, block in enumerate(self.blocks) if block)
        merged = merge_models(demo.load_model("base"), self.b, text)[0]
        noise = self.noise(SEARCH)
        latent = comfy.sample.sample(
            merged, noise, STEPS, GUIDANCE, SAMPLER, SCHEDULER, [[self.prompts(SEARCH), {}]],
            [[self.encode(""), {}]], torch.zeros_like(noise), disable_pbar=True, seed=1,
        )  # fmt: skip
        return float((self.vae.decode(latent) - self.paint(text, SEARCH)).abs().max())


class Scorer:
    """Scores weights texts, each once; the scores are kept in a file."""

    def __init__(self, path: Path, painter: Painter):
        self.painter = painter
        self.known: dict[str, list[float]] = {}
        if path.exists():
            self.known = dict(json.loads(line) for line in path.read_text().splitlines())
        self.file = path.open("a")

    def parts(self, weights: str, cases: list[Case]) -> list[float]:
        """The mean probabilities of style, shape and colour."""
        key = f"{len(cases)} {weights}"
        if key not in self.known:
            verdict = demo.judge(self.painter.paint(weights, cases))
            self.known[key] = [
                statistics.fmean(
                    float(verdict.chance_of(question, STYLE if at is None else case[at])[number])
                    for number, case in enumerate(cases)
                )
                for question, at in (("style", None), ("shape", 0), ("colour", 1))
            ]
            self.file.write(json.dumps([key, self.known[key]]) + "\n")
            self.file.flush()
        return self.known[key]

    def score(self, weights: str, cases: list[Case] = SEARCH) -> float:
        return statistics.fmean(self.parts(weights, cases))


@dataclass
class Run:
    """One finished search: all scores in order, the best weights."""

    scores: list[float] = field(default_factory=list)
    best: str = ""


def search(
    space: str, sampler: str, seed: int, trials: int, scorer: Scorer, until: float = float("inf")
) -> Run | None:
    """A search by the pack's own study, kept in memory; None where the time ran out."""
    parsed = parse_space(SPACES[space], "sd1")
    study = Study(optuna.storages.InMemoryStorage(), "study", parsed, ["maximize"], "study")
    run = Run()
    while len(run.scores) < trials:
        if time.monotonic() > until:
            return None
        asked = study.ask(sampler, seed)
        if asked is None:
            break
        run.scores.append(scorer.score(asked[1]))
        study.tell(asked[0], [run.scores[-1]])
    run.best = study.best()[0].weights
    return run


def all_runs(
    seeds: int, trials: int, scorer: Scorer, until: float, path: Path
) -> dict[tuple[str, str], list[Run]]:
    """Every search of the seeds that all samplers finished in both spaces, by space and sampler; kept in a file."""
    found: dict[tuple[str, str], list[Run]] = {
        (space, sampler): [] for space in SPACES for sampler in SAMPLERS
    }
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in kept[:seeds]:
        for key, (scores, best) in zip(found, row, strict=True):
            found[key].append(Run(scores, best))
    for seed in range(len(kept), seeds):
        row = {}
        for space, sampler in found:
            run = search(space, sampler, seed, trials, scorer, until)
            if run is None:
                return found
            row[space, sampler] = run
            scorer.score(run.best, HOLDOUT)
        for key, run in row.items():
            found[key].append(run)
        with path.open("a") as file:
            file.write(json.dumps([[run.scores, run.best] for run in row.values()]) + "\n")
        print(f"seed {seed}: {len(scorer.known)} scores, {time.process_time():.0f} CPU s", flush=True)
    return found


def all_presets(scorer: Scorer) -> dict[str, tuple[float, float]]:
    """Search score and hold-out score of A, B, and every preset of SD1, best search score first."""
    names = ["0", "1", *presets.names("sd1")]
    scores = {name: (scorer.score(name), scorer.score(name, HOLDOUT)) for name in names}
    return dict(sorted(scores.items(), key=lambda entry: -entry[1][0]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--page", action="store_true", help="write docs/studies/search.md at the end")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    with torch.no_grad():
        painter = Painter()
        print(f"largest difference to Block Merge and core's sampler: {painter.check():.1e}", flush=True)
        scorer = Scorer(options.folder / "scores.jsonl", painter)
        tried = all_presets(scorer)
        runs = all_runs(
            options.seeds, options.trials, scorer, until, options.folder / f"runs-{options.trials}.jsonl"
        )
        if options.page:
            from demo_models import study_search_page

            study_search_page.write(
                ROOT / "docs" / "studies", runs, tried, scorer, sys.modules[__name__], FOUND
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
