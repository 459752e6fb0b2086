"""Laws of the planner, over every registered method, every form of weight text and several layouts."""

import itertools

import pytest
import torch
from blockwork.blocks.keys import ema_key
from blockwork.merge.errors import MergeError
from blockwork.merge.files.checkpoint import TensorCheckpoint
from blockwork.merge.files.run import merge_files
from blockwork.merge.methods import METHODS
from blockwork.merge.plan import NOT_NAMED, Keep
from blockwork.tests.support.laws_kit import (
    LAYOUTS,
    UNET,
    blocks,
    forms,
    line,
    merged,
    model,
    names,
    read,
    same_bits,
    sources,
    texts,
)
from safetensors.torch import load_file, save_file

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
CASES = [(name, layout) for name in METHODS for layout in LAYOUTS]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_what_the_text_does_not_name_stays_a(name: str, layout: str):
    """Bit for bit, text encoder and VAE included; and what it names gets a step."""
    models = sources(METHODS[name], layout)
    where = names(layout)
    for text, named in forms(layout).items():
        result = merged(line(name, text, len(models)), models)
        for key, tensor in read(result).items():
            step = result.plan.steps[key]
            if where[key] in named:
                assert not isinstance(step, Keep) or step.reason != NOT_NAMED, (text, key)
            else:
                assert isinstance(step, Keep) and same_bits(tensor, models[0][key]), (text, key)
        assert result.plan.merged, text


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if len(method.ratios) > 1])
def test_one_ratio_for_everything_names_nothing_of_another(name: str):
    """``alpha`` for one block, ``beta`` for all: only that block, unless beta alone has a meaning (its identity)."""
    method = METHODS[name]
    models = sources(method, "sd1")
    first, second = method.ratios
    result = merged(line(name, "", len(models), ratios=((first, "IN01=0.5"), (second, "0.25"))), models)
    merged_blocks = {names("sd1")[key] for key in result.plan.merged}
    if method.identity is None or method.passthrough({**method.identity, second: 0.25}) == 0:
        assert merged_blocks == {"IN01"}
    else:
        assert merged_blocks > {"IN01", "OUT03"}


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in METHODS for layout in ("sdxl", "flux")]
)
def test_key_order_threads_and_pieces_change_no_bit(name: str, layout: str):
    method = METHODS[name]
    models = sources(method, layout)
    for text in (f"{blocks(layout)[1]}=0.5", "0.5, VAE=0.25"):
        done = line(name, text, len(models), seed=3)
        first = read(merged(done, models))
        backward = [dict(reversed(m.items())) for m in models]
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            again = merged(done, backward)
        finally:
            torch.set_num_threads(before)
        for key, entry in again.entries.items():
            cuts = [0, 1, 7, entry.numel] if again.divisible(key) else [0, entry.numel]
            pieces = [again.read(key, i, j) for i, j in itertools.pairwise(cuts)]
            assert same_bits(torch.cat(pieces).view(entry.shape), first[key]), (text, key)


def with_average(layout: str, seed: int, weights: torch.dtype, average: torch.dtype):
    """A checkpoint with a moving average, and the file whose U-Net is that average."""
    plain, other = model(layout, seed, weights), model(layout, seed + 50, average)
    inside = [key for key in plain if key.startswith(UNET)]
    return (
        plain | {ema_key(key): other[key] for key in inside},
        plain | {key: other[key] for key in inside},
    )


@pytest.mark.parametrize("dtypes", itertools.product(FLOATS, FLOATS), ids=str)
@pytest.mark.parametrize("target", ["same", "fp16", "fp32", "bf16"])
def test_swapping_to_the_average_is_merging_files_that_are_the_average(dtypes, target: str):
    pairs = [with_average("sd1", seed, *dtypes) for seed in (1, 2)]
    for text in ("0", "IN00=0.5", "0.5", "1"):
        swapped = merged(line("weighted_sum", text, 2, ema="swap", dtype=target), [p[0] for p in pairs])
        plain = merged(line("weighted_sum", text, 2, ema="drop", dtype=target), [p[1] for p in pairs])
        ours, theirs = read(swapped), read(plain)
        assert ours.keys() == theirs.keys()
        assert all(same_bits(ours[key], theirs[key]) for key in ours), text


def test_a_source_without_an_average_is_reported():
    result = merged(line("weighted_sum", "0.5", 2, ema="swap"), [model("sd1", 1), model("sd1", 2)])
    assert "A has no moving average of" in result.report.text()


@pytest.mark.parametrize("name", METHODS)
def test_nan_in_any_source_is_never_merged_in_silence(name: str):
    models = sources(METHODS[name], "sd1")
    key = UNET + "input_blocks.1.1.norm.weight"
    for number in range(len(models)):
        bad = [dict(m) for m in models]
        bad[number][key] = bad[number][key].clone()
        bad[number][key][2, 3] = float("nan")
        with pytest.raises(MergeError, match=f"{'abc'[number]}: .*norm.weight holds NaN"):
            merged(line(name, "IN01=0.5", len(models), seed=1), bad).read(key)
        kept = merged(line(name, "IN01=0.5", len(models), nan="keep_a", seed=1), bad)
        value = kept.read(key)
        assert value.isfinite().sum() >= value.numel() - (number == 0) * value.numel()
        if number:
            assert value.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_empty_and_scalar_tensors_pass(name: str):
    models = [
        m | {UNET + "middle_block.1.scale": m[UNET + "out.2.weight"][0, 0]}
        for m in sources(METHODS[name], "sd1")
    ]
    models = [m | {UNET + "middle_block.1.none": torch.zeros(0, 5)} for m in models]
    found = read(merged(line(name, "0.5", len(models), seed=1), models))
    assert (
        found[UNET + "middle_block.1.none"].shape == (0, 5)
        and found[UNET + "middle_block.1.scale"].shape == ()
    )


def test_a_line_is_computed_once_however_often_it_is_used(tmp_path):
    """Sixteen doublings and a Fibonacci chain of 400 lines, each with the values of its formula."""
    keys = [
        UNET + "input_blocks.0.0.weight",
        UNET + "output_blocks.0.0.weight",
        UNET + "middle_block.0.weight",
    ]
    for seed, name in enumerate("ab"):
        g = torch.Generator().manual_seed(seed)
        save_file(
            {key: torch.randn(4, 4, 1, 1, generator=g) for key in keys}, tmp_path / f"{name}.safetensors"
        )
    a, b = (load_file(tmp_path / f"{name}.safetensors")[keys[2]] for name in "ab")
    doubling = "x = a + b, 0.5\n" + "".join(f"x = __O{i}__ + __O{i}__, 0.5\n" for i in range(1, 17))
    found = load_file(merge_files(doubling, tmp_path / "o", folders=[tmp_path]).path)[keys[2]]
    assert torch.allclose(found, (a + b) / 2, atol=1e-6)
    chain = "x = a + b, 1\nx = a + b, 0\n" + "".join(
        f"x = __O{i}__ + __O{i + 1}__, 0.5\n" for i in range(1, 399)
    )
    found = load_file(merge_files(chain, tmp_path / "p", folders=[tmp_path]).path)[keys[2]]
    x, y = b, a
    for _ in range(398):
        x, y = y, torch.lerp(x, y, 0.5)
    assert torch.equal(found, y)


def test_models_of_other_architectures_are_refused_whatever_the_weights():
    whole = model("sdxl", 1)
    deep = {
        UNET + f"middle_block.1.transformer_blocks.{n}.attn1.to_q.weight": torch.ones(2, 2) for n in range(10)
    }
    for text in ("0.5", "IN01=0.5"):
        for pair in ((whole | deep, whole), (whole, whole | deep)):
            with pytest.raises(MergeError, match=r"10 tensors that . lacks.*different architectures"):
                merged(line("weighted_sum", text, 2), pair)
        wide = {key: torch.ones(7, 7) if "input_blocks.3" in key else t for key, t in whole.items()}
        with pytest.raises(MergeError, match=r"other shapes.*different architectures"):
            merged(line("weighted_sum", text, 2), (whole, wide))
        with pytest.raises(MergeError, match=r"a is sdxl .*b is sd1 .*different architectures"):
            merged(line("weighted_sum", text, 2), (whole, model("sd1", 2)))
    average = {ema_key(key): t for key, t in whole.items() if key.startswith(UNET)}
    rest = {key: t for key, t in whole.items() if not key.startswith(UNET)}
    with pytest.raises(MergeError, match="b holds its U-Net only as a moving average"):
        merged(line("weighted_sum", "0.5", 2), (whole, average | rest))
    with pytest.raises(MergeError, match=r"moving average|no numbered blocks"):
        merged(line("weighted_sum", "0.5", 2), (average | rest, whole))


@pytest.mark.parametrize(("of_a", "of_b"), [(9, 8), (9, 4), (8, 4), (9, 9), (4, 4)])
def test_input_channels_have_one_rule(of_a: int, of_b: int):
    """Different numbers of channels share the latent's four; equal ones merge whole; A must be the wider one."""
    key = UNET + "input_blocks.0.0.weight"
    models = [model("sd1", 1), model("sd1", 2)]
    for m, width in zip(models, (of_a, of_b), strict=True):
        m[key] = torch.randn(4, width, 3, 3)
    shared = of_a if of_a == of_b else 4
    for text in ("0.5", "1"):
        found = merged(line("weighted_sum", text, 2), models).read(key).view(4, of_a, 3, 3)
        expected = torch.lerp(models[0][key][:, :shared], models[1][key][:, :shared], float(text))
        assert torch.equal(found[:, :shared], expected)
        assert torch.equal(found[:, shared:], models[0][key][:, shared:])
    if of_a > of_b:
        with pytest.raises(MergeError, match=f"b has {of_a} input channels, a has {of_b}"):
            TensorCheckpoint.of("x", {})
            merged(line("weighted_sum", "0.5", 2), [models[1], models[0]])


@pytest.mark.parametrize(("name", "text", "options", "message"), [
    ("sigmoid", "IN01=1.5", (), "o, IN01: sigmoid cannot use these numbers. alpha is 1.5"),
    ("tensor_sum", "IN01=-0.5", (), "o, IN01: tensor_sum cannot use these numbers. alpha is -0.5"),
    ("dare", "0.5", (("drop", 1.0),), "o: dare cannot use these numbers. drop is 1"),
    ("della", "0.5", (("drop", 0.95), ("window", 0.2)), r"drop \+ window / 2 is 1.05"),
    ("ties", "0.5", (("density", 2.0),), "density is 2. It must be from 0 to 1"),
    ("ties", "0.5", (("density", -1.0),), "density is -1"),
    ("extract", "0.5", (("gamma", -1.0),), "gamma is -1. It must be at least 0"),
    ("weighted_sum", "IN01=1e308", (), "o, IN01: weighted_sum cannot use these numbers. alpha is 1e"),
])  # fmt: skip
def test_numbers_a_method_cannot_use_are_refused_before_anything_is_read(name, text, options, message):
    models = sources(METHODS[name], "sd1")
    with pytest.raises(MergeError, match=message):
        merged(line(name, text, len(models), options=options), models)


def test_names_that_address_nothing_warn():
    models = [model("sd1", 1), model("sd1", 2)]
    for text, warned in (
        ("GRAD_V, TIME_EMBED=0.5", "TIME_EMBED"),
        ("GRAD_V, LABEL_EMB=1, OUT=1", "LABEL_EMB, OUT"),
    ):
        words = merged(line("weighted_sum", text, 2), models).report.text()
        assert f"WARNING: {warned} ha" in words and "under key_map mbw no tensor" in words
        assert (
            "WARNING" not in merged(line("weighted_sum", "GRAD_V, CLIP=1, VAE=0.2", 2), models).report.text()
        )
    comfy = merged(line("weighted_sum", "GRAD_V, TIME_EMBED=0.5", 2, key_map="comfy"), models)
    assert "WARNING" not in comfy.report.text()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_selectors_name_single_tensors(layout: str):
    block = blocks(layout)[1]
    models = [model(layout, 1), model(layout, 2)]
    result = merged(line("weighted_sum", "VAE=0", 2, elemental=f"{block}:weight:0.5"), models)
    assert {names(layout)[key] for key in result.plan.merged} == {block}


def test_more_models_than_letters():
    models = [model("sd1", seed) for seed in range(30)]
    result = merged(line("average", "0.5", 3), models[:3])
    given = [TensorCheckpoint.of(f"m{i}", m) for i, m in enumerate(models)]
    many = merged(line("average", "0.5", 7), given)
    assert "model 30: m29" in many.report.text() and result.plan.merged.keys() == many.plan.merged.keys()
    assert all(texts(METHODS[name], "0.5") for name in METHODS)
