"""Studies which sampler to search block weights with, on the demo models: TPE, CMA-ES, random, and all presets.

    .venv/bin/python tools/demo_models/study_search.py FOLDER [--space groups|blocks] [--trials 150] [--seeds 10] [--minutes 600]

Method, fixed before any result was looked at:
- Goal: the style of the fine-tune *ink* with the shapes and colours of the prompt. The score of a weights text is the mean, over
  three prompts with one seed each, of the probabilities that the classifier gives to the style, the shape and the colour.
- Samplers TPE, CMA-ES and random, at equal budgets, each with the same seeds 0, 1, ...; ``groups`` frees five numbers (two groups of IN,
  M00, two groups of OUT), ``blocks`` all 25. The presets are all built-in ones of SD1, once each; the best of them counts.
- Hold-out: the best trial of each search is scored on six other prompts with other seeds, which no search sees.
- Reported: mean over the seeds and its 95 % interval (t distribution), for the search score and the hold-out score; and in how
  many seeds each sampler beats random. A sampler is called better only where its interval of the paired difference excludes 0.
- Seeds run in order, all samplers for seed 0 first; when the time is up the report counts the seeds that all samplers finished.

FOLDER keeps the studies and all scores: the same command resumes. Images are 64 x 64, 6 steps of dpmpp_2m, guidance 4.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import torch
from blockwork.blocks import presets
from blockwork.demo_models import host as demo
from blockwork.merge.live.host import merge_models
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage
from blockwork.search.study import Study
from scipy.stats import t as student

import nodes as core

SPACES = {
    "groups": "IN00-IN05 = one 0..1; IN06-IN11 = one 0..1; M00 = 0..1; OUT00-OUT05 = one 0..1; OUT06-OUT11 = one 0..1",
    "blocks": "ALL = 0..1",
}
SAMPLERS = ("TPE", "CMA-ES", "random")
SEARCH = [("star", "green", "white", 1), ("circle", "red", "grey", 2), ("cross", "purple", "pink", 3)]
HOLDOUT = [
    ("square", "blue", "white", 11), ("ring", "yellow", "grey", 12), ("triangle", "orange", "black", 13),
    ("circle", "green", "pink", 14), ("star", "purple", "brown", 15), ("cross", "red", "white", 16),
]  # fmt: skip
STEPS = 6


class Scorer:
    """Scores weights texts, each once; the scores are kept in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.known = json.loads(path.read_text()) if path.exists() else {}
        self.a, self.b, self.vae, clip = (
            demo.load_model("base"),
            demo.load_model("ink"),
            demo.load_vae(),
            demo.load_clip(),
        )
        encode = core.CLIPTextEncode().encode
        self.negative = encode(clip, "")[0]
        self.positive = {
            case: encode(clip, f"a big {case[1]} {case[0]} on a {case[2]} background")[0]
            for case in SEARCH + HOLDOUT
        }

    def __call__(self, weights: str, cases: list = SEARCH) -> float:
        key = f"{len(cases)} {weights}"
        if key not in self.known:
            model, _ = merge_models(self.a, self.b, weights)
            self.known[key] = statistics.fmean(self.one(model, case) for case in cases)
            self.path.write_text(json.dumps(self.known))
        return self.known[key]

    def one(self, model, case) -> float:
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        settings = (case[3], STEPS, 4.0, "dpmpp_2m", "karras", self.positive[case], self.negative, latent)
        verdict = demo.judge(self.vae.decode(core.common_ksampler(model, *settings)[0]["samples"]))
        wanted = {"style": "ink", "shape": case[0], "colour": case[1]}
        return statistics.fmean(
            float(verdict.chance_of(question, answer)[0]) for question, answer in wanted.items()
        )


def search(
    folder: Path,
    name: str,
    space_name: str,
    sampler: str,
    seed: int,
    trials: int,
    scorer: Scorer,
    until: float,
) -> Study | None:
    """The finished study, resumed where it is not; None where the time ran out."""
    space = parse_space(SPACES[space_name], "sd1")
    study = Study(open_storage(folder, name), name, space, ["maximize"], "study")
    study.release(lambda owner: False)
    while study.done() < trials:
        if time.monotonic() > until:
            return None
        asked = study.ask(sampler, seed)
        if asked is None:
            break
        study.tell(asked[0], [scorer(asked[1])])
    return study


def interval(values: list[float]) -> str:
    """Mean and half of the 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.4f} +- {half:.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--space", choices=SPACES, default="groups")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=600)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    scorer = Scorer(options.folder / "scores.json")
    found: dict[str, list[tuple[float, float]]] = {sampler: [] for sampler in SAMPLERS}
    with torch.inference_mode():
        for seed in range(options.seeds):
            row = {}
            for sampler in SAMPLERS:
                name = f"{options.space}-{options.trials}-{sampler}-{seed}"
                study = search(
                    options.folder, name, options.space, sampler, seed, options.trials, scorer, until
                )
                if study is None:
                    break
                best = study.best()[0]
                row[sampler] = (best.scores[0], scorer(best.weights, HOLDOUT))
            if len(row) < len(SAMPLERS):
                break
            for sampler, pair in row.items():
                found[sampler].append(pair)
            print(
                seed,
                {sampler: [round(score, 4) for score in pair] for sampler, pair in row.items()},
                flush=True,
            )
        names = presets.names("sd1")
        tried = [
            name for name in names if time.monotonic() < until or f"{len(SEARCH)} {name}" in scorer.known
        ]
        ranked = sorted(tried, key=lambda name: -scorer(name))
    print(f"\n{options.space}: {options.trials} trials, {len(found['random'])} seeds\n")
    print("| method | search score | hold-out score | seeds better than random |\n|---|---|---|---|")
    for sampler, pairs in found.items():
        if pairs:
            wins = sum(pair[0] > other[0] for pair, other in zip(pairs, found["random"], strict=True))
            print(
                f"| {sampler} | {interval([pair[0] for pair in pairs])} | {interval([pair[1] for pair in pairs])} | {wins} of {len(pairs)} |"
            )
    if ranked:
        with torch.inference_mode():
            print(
                f"| best of {len(ranked)} presets ({ranked[0]}) | {scorer(ranked[0]):.4f} | {scorer(ranked[0], HOLDOUT):.4f} | |"
            )
    for sampler in SAMPLERS[:2]:
        for number, what in enumerate(("search", "hold-out")):
            differences = [
                a[number] - b[number] for a, b in zip(found[sampler], found["random"], strict=True)
            ]
            if differences:
                print(f"\n{sampler} minus random, {what}: {interval(differences)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
