"""Dynamic thresholding against the torch.quantile form that diffusers and IF use; medians of CPU seconds."""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from refhost.pack import load_pack

load_pack()
from blockwork.cascade.threshold import dynamic_threshold
from diffusers import DDPMScheduler

SHAPES = [(1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 1024, 1024), (4, 16, 128, 128)]
ROUNDS = 9


def seconds(function, x) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    function(x)
    return time.process_time() - started


def compare(shape, cap: float) -> None:
    """Run both in turn on the same input and print the medians."""
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=cap)
    x = torch.randn(shape) * 2
    torch.testing.assert_close(
        dynamic_threshold(x, 0.95, cap), scheduler._threshold_sample(x), rtol=0, atol=1e-6
    )
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda x: dynamic_threshold(x, 0.95, cap), x))
        theirs.append(seconds(scheduler._threshold_sample, x))
    mine, peer = statistics.median(ours), statistics.median(theirs)
    size = "x".join(map(str, shape))
    print(f"threshold {size} cap {cap:g}: {mine * 1e3:.2f} ms, {peer * 1e3:.2f} ms, {peer / mine:.1f}x")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for shape in SHAPES:
        compare(shape, 1.5)
    compare((1, 3, 256, 256), 1.0)
