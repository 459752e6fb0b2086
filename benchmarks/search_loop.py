"""What a trial of a search costs, against the same by hand and against a model rebuilt for each trial, and what it leaves in memory.

All run in this process on the demo models, with the same weights, one image of 4 steps each, and take turns in parts. By hand is the same
merge and sampling without the loop. The rebuilt model is sd-optim's way, in memory: sd-mecha merges the two state dicts, core's loader
makes a model of the result, which is sampled. CPU seconds are of the whole process, so other work on the machine does not count.

Memory is read in every trial: RSS and PSS (Linux), and every tenth trial RSS after the allocator has returned what is free (glibc).

    benchmarks/search_loop.py [TRIALS OF THE SEARCH (300)] [TRIALS OF EACH OF THE THREE PARTS (20)]
"""

import contextlib
import ctypes
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from refhost.measure import Timing, interleave, ratio_line
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.sd
import folder_paths
import psutil
import sd_mecha
import torch
from blockwork.blocks.weights import parse
from blockwork.demo_models import host as demo
from blockwork.merge.live.host import merge_models
from blockwork.search import host as search
from blockwork.tests.support import executor_kit as kit

import nodes as core

STEPS, SIZE = 4, 16
PARTS = 3  # the long run is the last one
NOTED = [0.0]  # CPU seconds of reading the memory, which are not the search's
RSS: list[int] = []
PSS: list[int] = []
TRIMMED: list[int] = []
MIB = 2**20
SAMPLED = "SampledScore"
THINGS: dict = {}


def sample(model) -> torch.Tensor:
    """One image of the demo model."""
    latent = {"samples": torch.zeros(1, 4, SIZE, SIZE)}
    done = core.common_ksampler(
        model, 1, STEPS, 4.0, "dpmpp_2m", "karras", THINGS["positive"], THINGS["negative"], latent
    )[0]
    return THINGS["vae"].decode(done["samples"])


def note_memory() -> None:
    """Note what the process holds now."""
    start, process = time.process_time(), psutil.Process()
    found = process.memory_full_info()
    RSS.append(found.rss)
    if hasattr(found, "pss"):
        PSS.append(found.pss)
    if len(RSS) % 10 == 0:
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            TRIMMED.append(process.memory_info().rss)
    NOTED[0] += time.process_time() - start


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
        note_memory()
        return (float(image.mean()), image)


def by_hand(weights: list[str]) -> None:
    """Block Merge and sampling."""
    for text in weights:
        float(sample(merge_models(THINGS["a"], THINGS["b"], text)[0]).mean())


class Quiet:
    """In the place of sd-mecha's progress bar."""

    def __init__(self, *given, **named):
        self.items = given[0] if given else ()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def __iter__(self):
        return iter(self.items)

    def __getattr__(self, name):
        return lambda *given, **named: None


def rebuilt(weights: list[str]) -> None:
    """A merge by sd-mecha in memory, a new model of it, and sampling."""
    one, two = (sd_mecha.model(THINGS[name], "sd1-ldm") for name in ("state a", "state b"))
    for text in weights:
        read = parse(text, "sd1")
        shares = {"BASE": 0.0, **{block: read.of(block, 0.0) for block in read.layout.blocks}}
        alpha = sd_mecha.convert(sd_mecha.literal(shares, "sd1-supermerger_blocks"), "sd1-ldm")
        state = sd_mecha.merge(
            sd_mecha.weighted_sum(one, two, alpha=alpha), output=None, merge_device="cpu", merge_dtype=torch.float32,
            output_dtype=torch.float32, strict_mandatory_keys=False, tqdm=Quiet,
        )  # fmt: skip
        model = comfy.sd.load_diffusion_model_state_dict(
            {key.removeprefix("model.diffusion_model."): tensor for key, tensor in state.items()}
        )
        float(sample(model).mean())


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


def spread(values: list[int]) -> str:
    """Lowest and highest, and how far apart they are."""
    return f"{min(values) / MIB:.1f} to {max(values) / MIB:.1f} MiB ({100 * (max(values) / min(values) - 1):.2f} %)"


def report_memory(count: int) -> None:
    """What the last trials show: single readings, medians of ten, readings after the free memory was returned."""
    for name, values in (("RSS", RSS), ("PSS", PSS)):
        last = values[-count:]
        if last:
            tens = [int(statistics.median(last[n : n + 10])) for n in range(0, len(last), 10)]
            print(f"{name} of the last {len(last)} trials: {spread(last)}; medians of ten {spread(tens)}")
    if TRIMMED:
        print(
            f"RSS after returning free memory, in these trials: {spread(TRIMMED[-count // 10 :])}; at trial 10 {TRIMMED[0] / MIB:.1f} MiB"
        )


def main() -> int:
    trials, peers = (int(text) for text in [*sys.argv[1:], "300", "20"][:2])
    clip = demo.load_clip()
    encode = core.CLIPTextEncode().encode
    THINGS.update(a=demo.load_model("base"), b=demo.load_model("ink"), vae=demo.load_vae())
    THINGS.update(positive=encode(clip, "a red circle on a grey background")[0], negative=encode(clip, "")[0])
    for name in "ab":
        state = THINGS[name].model_state_dict("diffusion_model.")
        THINGS[f"state {name}"] = {f"model.{key}": tensor.clone() for key, tensor in state.items()}
    kit.register()
    kit.GivenThings.RETURN_TYPES = ("MODEL", "MODEL")
    kit.THINGS["models"] = (THINGS["a"], THINGS["b"])
    core.NODE_CLASS_MAPPINGS[SAMPLED] = SampledScore
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.set_user_directory(folder)
        executor, done = kit.Executor(), 2
        executor.run(prompt(done))
        by_hand(["0.5"])
        rebuilt(["0.5"])
        timings = {name: Timing() for name in ("search", "by hand", "rebuilt")}
        for part in range(PARTS):
            more, noted = trials if part == PARTS - 1 else peers, NOTED[0]
            once = interleave({"search": partial(executor.run, prompt(done + more))}, 1)["search"]
            timings["search"].cpu.append((once.cpu[0] - NOTED[0] + noted) / more)
            rows = search.read_study("benchmark").rows()
            assert len(rows) == done + more and all(row.state == "complete" for row in rows)
            weights = [row.weights for row in rows[done : done + peers]]
            done += more
            for name, run in (("by hand", by_hand), ("rebuilt", rebuilt)):
                once = interleave({name: partial(run, weights)}, 1)[name]
                timings[name].cpu.append(once.cpu[0] / len(weights))
        files = [path.name for path in Path(folder).rglob("*") if path.is_file()]
    print(
        ratio_line(
            "trial against merge and sampling by hand, CPU seconds", timings["search"], timings["by hand"]
        )
    )
    print(
        ratio_line(
            "trial against a model rebuilt by sd-mecha, CPU seconds", timings["search"], timings["rebuilt"]
        )
    )
    report_memory(min(100, trials))
    print(f"files written: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
