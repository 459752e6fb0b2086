"""What a trial of a search costs: against the same merge and sampling by hand, and what 300 trials leave in memory.

Both run in this process on the demo models, with the same weights, one image of 4 steps each. CPU seconds are of the
whole process, so other work on the machine does not count. Arguments: trials of the search (300), trials by hand (60).
"""

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import folder_paths
import psutil
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.live.host import merge_models
from blockwork.search import host as search
from blockwork.tests.support import executor_kit as kit

import nodes as core

STEPS, SIZE = 4, 16
MEMORY: list[int] = []
SAMPLED = "SampledScore"
THINGS: dict = {}


def sample(model) -> torch.Tensor:
    """One image of the demo model."""
    latent = {"samples": torch.zeros(1, 4, SIZE, SIZE)}
    done = core.common_ksampler(
        model, 1, STEPS, 4.0, "dpmpp_2m", "karras", THINGS["positive"], THINGS["negative"], latent
    )[0]
    return THINGS["vae"].decode(done["samples"])


class SampledScore:
    """Samples a MODEL and scores the image."""

    RETURN_TYPES = ("FLOAT", "IMAGE")
    FUNCTION = "score"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL", {})}}

    def score(self, model):
        image = sample(model)
        MEMORY.append(psutil.Process().memory_info().rss)
        return (float(image.mean()), image)


def by_hand(weights: list[str]) -> float:
    """CPU seconds per merge and sampling."""
    start = time.process_time()
    for text in weights:
        merged, _ = merge_models(THINGS["a"], THINGS["b"], text)
        float(sample(merged).mean())
    return (time.process_time() - start) / len(weights)


def prompt(trials: int) -> dict:
    """The search as a workflow."""
    ask = {"study": "benchmark", "space": ["1", 0], "sampler": "TPE", "seed": 0, "trials": trials}
    return {
        "0": {"class_type": kit.GIVEN, "inputs": {"name": "models"}},
        "1": {"class_type": "BlockworkSearchSpace", "inputs": {"layout": "sd1", "space": "ALL = 0..1"}},
        "2": {"class_type": "BlockworkSearchAsk", "inputs": ask},
        "3": {"class_type": "BlockworkMergeModels", "inputs": {"model_a": ["0", 0], "model_b": ["0", 1], "weights": ["2", 0]}},
        "4": {"class_type": SAMPLED, "inputs": {"model": ["3", 0]}},
        "5": {
            "class_type": "BlockworkSearchTell",
            "inputs": {"trial": ["2", 1], "score": ["4", 0], "images": ["4", 1], "direction": "maximize"},
        },
        "end": {"class_type": kit.KEEP, "inputs": {"thing": ["5", 0], "name": "end"}},
    }  # fmt: skip


def main() -> int:
    trials, hand = (int(text) for text in [*sys.argv[1:], "300", "60"][:2])
    clip = demo.load_clip()
    encode = core.CLIPTextEncode().encode
    THINGS.update(a=demo.load_model("base"), b=demo.load_model("ink"), vae=demo.load_vae())
    THINGS.update(positive=encode(clip, "a red circle on a grey background")[0], negative=encode(clip, "")[0])
    kit.register()
    kit.GivenThings.RETURN_TYPES = ("MODEL", "MODEL")
    kit.THINGS["models"] = (THINGS["a"], THINGS["b"])
    core.NODE_CLASS_MAPPINGS[SAMPLED] = SampledScore
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.set_user_directory(folder)
        executor = kit.Executor()
        executor.run(prompt(2))
        start = time.process_time()
        assert executor.run(prompt(2 + trials))
        searched = (time.process_time() - start) / trials
        rows = search.read_study("benchmark").rows()
        files = [path.name for path in Path(folder).rglob("*") if path.is_file()]
        manual = by_hand([row.weights for row in rows[2 : 2 + hand]])
    last = MEMORY[-min(100, trials) :]
    mib = 2**20
    print(f"search: {searched:.3f} CPU s per trial, {trials} trials")
    print(f"by hand: {manual:.3f} CPU s per merge and sampling, {hand} times; ratio {searched / manual:.3f}")
    print(
        f"memory of the process in the last {len(last)} trials: {min(last) / mib:.0f} to {max(last) / mib:.0f} MiB "
        f"({100 * (max(last) - min(last)) / min(last):.2f} %), at the first {MEMORY[2] / mib:.0f} MiB"
    )
    halves = [sum(part) / len(part) / mib for part in (last[: len(last) // 2], last[len(last) // 2 :])]
    print(f"mean of the first half of these trials {halves[0]:.1f} MiB, of the second {halves[1]:.1f} MiB")
    print(f"files written: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
