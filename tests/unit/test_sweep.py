"""Sweeps on paper: reading them, their graphs and exports, their pictures and measures."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blockwork.blocks.names import SD1, SDXL, BlockError, as_layout
from blockwork.blocks.weights import parse
from blockwork.study.cells import LIST, assemble, cells, digest, expansion_text, listing, named_texts
from blockwork.study.graph import DEFAULTS, LIST_SIZE, cell_nodes, check, sweep_graph
from blockwork.study.image import as_bytes, by_cell, cell_places, draw_plot, draw_sweep, measure, report
from blockwork.study.sweep import Cell, Sweep, parse_sweep
from blockwork.study.view import sheet
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
INPUTS = {
    "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0], "vae": ["1", 2],
    "steps": 40, "cfg": 7.0, "sampler_name": "euler_ancestral", "scheduler": "normal", "denoise": 1.0,
    "cell_size": 128, "key_map": "mbw", "share_a": "",
}  # fmt: skip


def example(name="block_sweep"):
    return json.loads((ROOT / "example_workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def flattened(graph, link):
    """The pictures behind a link, through the lists."""
    node = graph[link[0]]
    if node["class_type"] != "CreateList":
        return [link]
    count = len(node["inputs"])
    assert count <= LIST_SIZE
    return [leaf for i in range(count) for leaf in flattened(graph, node["inputs"][f"inputs.input{i}"])]


def test_the_study_of_a_model_is_25_cells_beside_the_unmodified():
    sweep = parse_sweep("sd1", "ALL", "0.75", "1-4")
    assert sweep == Sweep(SD1, SD1.blocks, (0.75,), (1, 2, 3, 4))
    assert len(sweep.cells) == 26 and sweep.cells[:2] == (Cell(), Cell("IN00", 0.75))
    assert len(parse_sweep("sdxl", "ALL", "0.75", "1").cells) == 20


@pytest.mark.parametrize("layout", ["sd1", "sdxl", "unet-9-0-9"])
def test_a_sweep_reads_back_from_its_own_texts(layout):
    sweep = parse_sweep(layout, "IN01-IN03, OUT_4", "0.1, -0.5,1.25", "7, 1-3")
    assert parse_sweep(**sweep.texts()) == sweep
    assert sweep.seeds == (7, 1, 2, 3) and sweep.blocks == ("IN01", "IN02", "IN03", "OUT04")


def test_an_unnamed_layout_keeps_its_blocks():
    sweep = parse_sweep(as_layout("unet-9-0-9"), "ALL", "0.5", "1")
    assert parse_sweep(**sweep.texts()) == sweep and len(sweep.blocks) == 18


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seeds": "1, x"}, r"'x' is not a seed or a range of seeds"),
        ({"seeds": "5-2"}, r"'5-2' is not a valid range of seeds"),
        ({"seeds": str(2**64)}, r"is not a valid range of seeds. Seeds run from 0 to 18446744073709551615"),
        ({"seeds": "1-99999"}, r"more than 5000"),
        ({"seeds": "0-4000"}, r"26 cells x 4001 seeds"),
        ({"seeds": "1, 1"}, r"1 is given twice in the seeds"),
        ({"seeds": " "}, r"No seeds are given"),
        ({"ratios": "0.5; 1"}, r"'0.5; 1' is not a number"),
        ({"ratios": "nan"}, r"'nan' is not a number"),
        ({"ratios": "1e999"}, r"beyond the range"),
        ({"seeds": "9" * 5000}, r"is not a seed"),
        ({"seeds": "\u00b2"}, r"is not a seed"),
        ({"blocks": "IN00, IN12"}, r"Unknown block 'IN12' for sd1"),
        ({"blocks": "BASE"}, r"BASE is not a numbered block. A sweep takes blocks from IN00 to OUT11"),
        ({"blocks": "IN01-IN03, IN02"}, r"IN02 is given twice in the blocks"),
    ],
)
def test_a_malformed_sweep_is_refused(change, message):
    with pytest.raises(BlockError, match=message):
        parse_sweep(**{"layout": "sd1", "blocks": "ALL", "ratios": "0.75", "seeds": "1"} | change)


def test_a_cell_is_one_merge_and_per_seed_one_sampler():
    sweep = parse_sweep("sd1", "IN04", "0.75", "1, 2")
    graph, pictures = cell_nodes(sweep.cells[1], sweep, INPUTS, "9.")
    assert graph["9.IN04_0.75"]["class_type"] == "BlockworkScaleBlocks"
    assert graph["9.IN04_0.75"]["inputs"] == {"model": ["1", 0], "weights": "IN04 = 0.75", "key_map": "mbw"}
    assert [graph[p[0]]["inputs"]["samples"] for p in pictures] == [
        ["9.IN04_0.75_1_sample", 0],
        ["9.IN04_0.75_2_sample", 0],
    ]
    sampler = graph["9.IN04_0.75_2_sample"]
    assert sampler["class_type"] == "KSampler" and sampler["inputs"]["seed"] == 2
    assert sampler["inputs"]["model"] == ["9.IN04_0.75", 0]
    plain, _ = cell_nodes(sweep.cells[0], sweep, INPUTS)
    assert plain["unmodified_1_sample"]["inputs"]["model"] == ["1", 0] and len(plain) == 4


def test_two_models_and_custom_sampling():
    sweep = parse_sweep("sd1", "M00", "1", "5")
    two = INPUTS | {"model_b": ["7", 0], "sampler": ["8", 0], "sigmas": ["9", 0], "share_a": "0.5"}
    graph, _ = cell_nodes(sweep.cells[1], sweep, two)
    assert graph["M00_1"]["class_type"] == "BlockworkMergeModels"
    assert graph["M00_1"]["inputs"] == {
        "model_a": ["1", 0], "model_b": ["7", 0], "weights": "M00 = 1", "weights_a": "M00=0.5", "key_map": "mbw",
    }  # fmt: skip
    assert graph["M00_1_5_sample"]["class_type"] == "SamplerCustom"
    assert graph["M00_1_5_sample"]["inputs"]["noise_seed"] == 5


@pytest.mark.parametrize(
    ("mode", "ratios", "reference", "weights", "words"),
    [
        ("scale", "0.5", "1", "IN04 = 0.5", "each block of x.safetensors x 0.5"),
        ("mute", "0", "1", "IN04 = 0", "each block of x.safetensors mute"),
        ("solo", "1", None, "0, IN04 = 1", "each block of x.safetensors solo"),
    ],
)
def test_cells_of_a_lora(mode, ratios, reference, weights, words):
    chosen = {"lora_name": "x.safetensors", "lora_mode": mode, "lora_strength": 0.8, "ratios": ratios}
    inputs = DEFAULTS | INPUTS | chosen
    sweep = parse_sweep("sd1", "IN04, OUT05", ratios, "5")
    graph, _ = sweep_graph(sweep, inputs, "")
    loaders = {
        key: node["inputs"] for key, node in graph.items() if node["class_type"] == "BlockworkLoadLoRA"
    }
    assert loaders[f"IN04_{ratios}"] == {
        "model": inputs["model"], "lora_name": "x.safetensors", "strength_model": 0.8, "key_map": "mbw", "weights": weights,
    }  # fmt: skip
    assert graph[f"IN04_{ratios}_5_sample"]["inputs"]["model"] == [f"IN04_{ratios}", 0]
    whole = graph["unmodified_5_sample"]["inputs"]["model"]
    if reference is None:
        assert len(loaders) == 2 and whole == inputs["model"]
    else:
        assert (
            len(loaders) == 3 and loaders["unmodified"]["weights"] == reference and whole == ["unmodified", 0]
        )
    assert graph["grid"]["inputs"]["title"].startswith(words)
    with pytest.raises(BlockError, match="Disconnect model_b"):
        check(inputs | {"model_b": ["9", 0]})
    with pytest.raises(BlockError, match="ratio 0"):
        check(inputs | {"ratios": "0.5, off"})


@pytest.mark.parametrize("seeds", ["1", "1-4", "1-37"])
def test_the_grid_gets_all_pictures_in_order_whatever_their_number(seeds):
    sweep = parse_sweep("sd1", "ALL", "0.75", seeds)
    graph, outputs = sweep_graph(sweep, INPUTS, "5.0.0.")
    assert outputs == [["5.0.0.grid", 0], ["5.0.0.grid", 1], ["5.0.0.grid", 2]]
    grid = graph["5.0.0.grid"]["inputs"]
    expected = [f"5.0.0.{cell.name}_{seed}_decode" for cell in sweep.cells for seed in sweep.seeds]
    assert [link[0] for link in flattened(graph, grid["images"])] == expected
    assert parse_sweep(grid["layout"], grid["blocks"], grid["ratios"], grid["seeds"]) == sweep
    json.dumps(graph)


def expansion(prompt, prefix="5.0.0."):
    """What the sweep's node in the example answers with when it lists its cells."""
    inputs = DEFAULTS | prompt["5"]["inputs"]
    sweep = parse_sweep("sd1", inputs["blocks"], inputs["ratios"], inputs["seeds"])
    return {"5": expansion_text(*sweep_graph(sweep, inputs, prefix))}


def test_a_listing_asks_the_sweep_and_nothing_behind_it():
    asked = listing(example())
    assert asked["5"]["inputs"][LIST] is True and LIST not in example()["5"]["inputs"]
    assert asked["list_5"]["inputs"] == {"source": ["5", 2]} and not {"6", "7", "8"} & set(asked)


def test_cells_have_what_they_need_and_nothing_else():
    prompt = example()
    found = cells(prompt, expansion(prompt))
    assert len(found) == 26 and found[0].name == "5 unmodified_1" and found[1].name == "5 IN00_0.75_1"
    for number, cell in enumerate(found):
        kinds = [node["class_type"] for node in cell.prompt.values()]
        assert kinds.count("KSampler") == kinds.count("PreviewImage") == len(cell.previews) == 4
        assert kinds.count("BlockworkScaleBlocks") == (number > 0) and "BlockworkBlockSweep" not in kinds
        links = [v for node in cell.prompt.values() for v in node["inputs"].values() if isinstance(v, list)]
        assert all(link[0] in cell.prompt for link in links)


def test_a_cell_is_named_by_what_it_samples():
    def names(prompt, files=None, prefix="5.0.0."):
        return [digest(cell, files or {}) for cell in cells(prompt, expansion(prompt, prefix))]

    first = names(example())
    assert len(set(first)) == 26
    assert names(example(), prefix="5.0.7.") == first, "ids are not sampled with"
    more, other = example(), example()
    more["5"]["inputs"] |= {"blocks": "M00", "cell_size": 64}
    assert set(names(more)) < set(first), "cells of another choice of blocks"
    other["2"]["inputs"]["text"] = "a castle"
    assert not set(names(other)) & set(first)
    file = example()["1"]["inputs"]["ckpt_name"]
    assert file in named_texts(cells(example(), expansion(example())))
    assert not set(names(example(), {file: ["checkpoints", 5, 1.0]})) & set(first), "the file has changed"


def test_cells_of_a_lora_depend_on_its_file():
    prompt = example("lora_sweep")
    prompt["5"]["inputs"] |= {"blocks": "IN04, M00", "ratios": "1"}
    found = cells(prompt, expansion(prompt))
    loaders = [sum(node["class_type"] == "BlockworkLoadLoRA" for node in c.prompt.values()) for c in found]
    assert loaders == [0, 1, 1] and "sd15_style.safetensors" in named_texts(found)
    changed = {"sd15_style.safetensors": ["loras", 7, 2.0]}
    assert [digest(c, {}) == digest(c, changed) for c in found] == [True, False, False]


def test_the_images_of_the_cells_stand_in_for_the_sampling():
    prompt = example()
    told = expansion(prompt)
    names = [[f"{number}.png", f"{number}b.png"] for number in range(104)]
    graph = assemble(prompt, told, names)
    assert graph["5"]["class_type"] == "BlockworkSweepGrid" and graph["6"] == prompt["6"]
    leaves = flattened(graph, graph["5"]["inputs"]["images"])
    loads = [graph[graph[leaf[0]]["inputs"]["image1"][0]]["inputs"]["image"] for leaf in leaves]
    assert loads == [first for first, _ in names] and {graph[leaf[0]]["class_type"] for leaf in leaves} == {
        "ImageBatch"
    }
    alone = {key: node for key, node in prompt.items() if key not in ("6", "7", "8")}
    kinds = [node["class_type"] for node in assemble(alone, told, names).values()]
    assert kinds.count("PreviewImage") == 2


def pictures_of(sweep, seed=0, size=(12, 16)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, *size, 3, generator=generator) for _ in range(len(sweep.cells) * len(sweep.seeds))]


def test_a_picture_from_a_file_is_the_picture_in_memory():
    image = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    saved = np.clip(255.0 * image.numpy(), 0, 255).astype(np.uint8)  # as core's SaveImage
    assert np.array_equal(as_bytes(image), saved)
    loaded = torch.from_numpy(saved.astype(np.float32) / 255)  # as core's LoadImage
    assert np.array_equal(as_bytes(loaded), saved)
    every = torch.arange(256, dtype=torch.float32).view(1, 16, 16, 1).expand(-1, -1, -1, 3) / 255
    assert np.array_equal(as_bytes(every)[..., 0].ravel(), np.arange(256))


def test_moves_are_measured_against_the_unmodified_picture_of_the_same_seed():
    sweep = parse_sweep("sd1", "IN00, M00", "0.75", "1, 2")
    levels = [10, 20, 13, 24, 10, 20]
    images = [torch.full((1, 8, 8, 3), level / 255) for level in levels]
    vectors = [np.array([[1.0, 0], [0, 2]]), np.array([[0, 1.0], [0, 1]]), np.array([[3.0, 0], [0, 1]])]
    moves = measure(sweep, by_cell(sweep, images), vectors)
    assert [move.cell.label for move in moves] == ["IN00 = 0.75", "M00 = 0.75"]
    np.testing.assert_allclose([move.rms for move in moves], [(3, 4), (0, 0)])
    np.testing.assert_allclose([move.cosine for move in moves], [(1, 0), (0, 0)])
    lines = report(sweep, moves, "title").splitlines()
    assert lines[0] == "title" and lines[2].split()[:4] == ["IN00", "=", "0.75", "3.50"]


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_wrong_number_of_pictures_says_what_was_expected(count):
    sweep = parse_sweep("sd1", "IN00, M00", "0.75", "1, 2")
    with pytest.raises(BlockError, match=rf"{count} images are given for 3 cells .* expected are 6"):
        by_cell(sweep, pictures_of(sweep)[:1] * count)


def test_pictures_of_different_sizes_are_refused():
    sweep = parse_sweep("sd1", "M00", "0.75", "1")
    with pytest.raises(BlockError, match="must have one size"):
        by_cell(sweep, [torch.rand(1, 8, 8, 3), torch.rand(1, 9, 8, 3)])


@pytest.mark.parametrize("layout", [SD1, SDXL])
def test_the_picture_has_the_shape_of_the_u(layout):
    """Every cell in its own colour: IN down the left, OUT up the right, M00 below, the unmodified on top."""
    sweep = parse_sweep(layout, "ALL", "0.75", "1, 2")
    shades = {cell.block: 40 + 8 * number for number, cell in enumerate(sweep.cells)}
    images = [torch.full((1, 8, 8, 3), shades[cell.block] / 255) for cell in sweep.cells for _ in sweep.seeds]
    images = [image * torch.tensor([1.0, 0.0, 0.0]) for image in images]  # pure reds, which nothing else is
    pictures = by_cell(sweep, images)
    drawn = draw_sweep(sweep, pictures, measure(sweep, pictures), 40, "a title")
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1
    levels = np.rint(drawn * 255).astype(int)
    red = (levels[..., 1] == 0) & (levels[..., 2] == 0)

    def centre(block):
        spots = np.argwhere(red & (levels[..., 0] == shades[block]))
        assert len(spots) == 2 * 40 * 40, block
        return spots.mean(axis=0)

    left = [centre(f"IN{i:02}") for i in range(layout.inputs)]
    right = [centre(f"OUT{i:02}") for i in range(layout.outputs)]
    assert all(a[0] < b[0] and a[1] == b[1] for a, b in itertools.pairwise(left))
    assert all(a[0] > b[0] and a[1] == b[1] for a, b in itertools.pairwise(right))
    assert left[0][1] < centre("M00")[1] < right[0][1] and centre("M00")[0] > left[-1][0]
    assert centre(None)[1] == centre("M00")[1] and centre(None)[0] == left[0][0]


def test_several_ratios_of_several_blocks_and_one_block_alone_are_drawn():
    many = parse_sweep("sd1", "IN04, OUT04", "0.5, 1.5", "1")
    pictures = by_cell(many, pictures_of(many))
    assert draw_sweep(many, pictures, measure(many, pictures), 32).shape[0] > 2 * 2 * 24
    one = parse_sweep("sd1", "OUT04", "0, 0.5, 1", "1, 2, 3")
    pictures = by_cell(one, pictures_of(one))
    drawn = draw_sweep(one, pictures, measure(one, pictures), 32)
    assert drawn.shape[1] == 3 * 35 + 28 + 14
    assert draw_plot(measure(one, pictures)).shape == (22 * 3 + 88, 620, 3)


def test_batches_of_a_latent_count_as_more_pictures_of_a_cell():
    sweep = parse_sweep("sd1", "M00", "0.75", "1, 2")
    pictures = by_cell(sweep, [torch.rand(3, 8, 8, 3) for _ in range(4)])
    assert [len(cell) for cell in pictures] == [6, 6]


def test_a_cell_s_images_are_a_strip():
    """Each image whole in one row; more than eight go on in a second row."""
    images = np.stack([np.full((8, 16, 3), 20 * n, dtype=np.uint8) for n in range(9)])
    strip = np.asarray(Image.open(io.BytesIO(sheet(images[:4]))))
    assert strip.shape == (8, 64, 3)
    assert [round(float(strip[2:6, 16 * n + 4 : 16 * n + 12].mean()) / 20) for n in range(4)] == [0, 1, 2, 3]
    assert np.asarray(Image.open(io.BytesIO(sheet(images)))).shape == (16, 128, 3)


def test_off_bypasses_blocks():
    sweep = parse_sweep("flux", "D00-D01, S37", "0.5, OFF", "1")
    assert [cell.label for cell in sweep.cells[1:3]] == ["D00 = 0.5", "D00 = off"]
    assert [cell.name for cell in sweep.cells[-2:]] == ["S37_0.5", "S37_off"]
    assert parse_sweep(**sweep.texts()) == sweep
    assert parse(sweep.cells[2].label, "flux", bypass=True).off == {"D00"}
    with pytest.raises(BlockError, match="disconnect model_b"):
        check(DEFAULTS | {"ratios": "0.5, off", "model_b": ["1", 0]})
    check(DEFAULTS | {"ratios": "off"})


@pytest.mark.parametrize("layout", ["sd1", "unet-6-0-6", "flux", "qwen_image", "B30"])
def test_no_cell_covers_another(layout):
    sweep = parse_sweep(layout, "ALL", "0.5", "1")
    places = cell_places(sweep)
    assert len(set(places.values())) == len(places) == len(sweep.blocks) + 1
