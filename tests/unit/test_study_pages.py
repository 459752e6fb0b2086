"""Charts and intervals of the studies: nothing covers a label, series differ by more than their colour."""

import numpy as np
import pytest
import torch

from demo_models import pages

NAMES = ["none", "a long name of a group", "OUT03"]
SERIES = {f"series number {n} with a long name": [0.2, 0.5, 0.1 * n] for n in range(6)}
ENDS = {name: [(max(0.0, v - 0.1), min(1.0, v + 0.1)) for v in values] for name, values in SERIES.items()}
CHARTS = {
    "bars": lambda **how: pages.bars(NAMES, SERIES, "A title", intervals=ENDS, **how),
    "lines": lambda **how: pages.lines([1, 3, 20], SERIES, "A title", "guidance", intervals=ENDS, **how),
}


def inked(chart):
    """Rows of a chart that are not empty, as runs (first, last)."""
    rows = (np.asarray(chart) != 255).any((1, 2))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], rows, [0]))))
    return list(zip(edges[::2], edges[1::2] - 1, strict=True))


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_the_legend_is_below_all_labels_and_as_long_as_it_needs(chart):
    whole = chart()
    runs = inked(whole)
    below = [run for run in runs if run[0] > pages.TOP + pages.HEIGHT + 2]
    assert len(below) >= 3  # the labels, and a legend of two lines or more
    assert below[-1][1] < whole.height - 1
    labels, legend = np.asarray(whole)[below[0][0] : below[0][1]], np.asarray(whole)[below[-2][0] :]
    colours = {tuple(colour) for colour in pages.SERIES[: len(SERIES)]}
    assert not colours & {tuple(pixel) for pixel in labels.reshape(-1, 3).tolist()}
    assert colours & {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    assert (legend != 255).any((0, 2)).nonzero()[0].max() < whole.width - 1


def test_two_series_differ_in_their_marks_too(monkeypatch):
    monkeypatch.setattr(pages, "SERIES", (pages.INK,) * 7)
    marks = []
    for place in range(7):
        chart = pages.Image.new("RGB", (16, 16), pages.PAPER)
        pages._mark(pages.ImageDraw.Draw(chart), 8, 8, place)
        assert all(not np.array_equal(chart, other) for other in marks)
        marks.append(np.asarray(chart))


def test_wilson_is_the_interval_of_a_share():
    low, high = pages.wilson(9, 10)
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)  # Wilson 1927, as tabulated
    assert pages.wilson(0, 36)[0] == pytest.approx(0, abs=1e-9)


def test_resampling_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    inside = 0
    for seed in range(200):
        low, high = pages.resampled(torch.rand(60, generator=generator), seed, times=400)
        inside += low <= 0.5 <= high
    assert 180 <= inside <= 199
