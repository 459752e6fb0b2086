"""Block prompts in a sentence, and the text and timing of injections, without ComfyUI."""

import contextlib
import math
import time

import pytest
import torch
from blockwork.blocks.spec import SpecError, Window, parse
from blockwork.injection import prompt_syntax, timing
from blockwork.injection.concept import SD1
from blockwork.injection.entries import InjectionError, Stretch, injection
from blockwork.injection.prompt_syntax import Variant
from blockwork.injection.report import layer_names, plan_text
from blockwork.injection.sweep import CUSTOM, ORDERS, growth
from blockwork.injection.timing import Clock
from blockwork.tests.support.checked import checked

read = checked(prompt_syntax.read, prompt_syntax.check, SpecError)
NAMES = {sub: block.name for block in SD1.attending for sub in block.sub_blocks}


def sentences(text: str) -> dict[str, str]:
    """The sentence of every block (the last one where the time parts them)."""
    prompt = read(text, SD1)
    found = dict.fromkeys(NAMES.values(), prompt.base)
    for variant in prompt.variants:
        found |= {NAMES[layer]: variant.text for layer in variant.layers}
    return found


def test_dumpunets_example():
    found = sentences("a (~: IN00-OUT11: cute; M00: excellent :~) girl")
    assert found.pop("M00") == "a excellent girl"
    assert set(found.values()) == {"a cute girl"}


def test_the_rest_and_nothing():
    found = sentences("a (~: IN07: red; _: blue :~) car")
    assert found.pop("IN07") == "a red car"
    assert set(found.values()) == {"a blue car"}
    assert read("a (~: IN07: red :~) car", SD1).base == "a  car"
    assert sentences("no brackets at all") == dict.fromkeys(NAMES.values(), "no brackets at all")


def test_several_brackets_combine_block_by_block():
    found = sentences("(~: down: red; _: green :~) (~: coarse: lizard; _: cube :~)")
    assert found["IN01"] == "red cube"
    assert found["IN07"] == "red lizard"
    assert found["OUT03"] == "green lizard"
    assert found["OUT11"] == "green cube"
    assert len(read("(~: down: a; _: b :~) (~: coarse: c; _: d :~)", SD1).variants) == 3


@pytest.mark.parametrize(
    "text", ["a (~: " + "input:" * 2000 + " :~)", "(~:" * 6000, "(" * 20000, "(~ " * 6000, "~)" * 9000]
)
def test_no_prompt_takes_long(text):
    start = time.process_time()
    with contextlib.suppress(SpecError):
        read(text, SD1)
    assert time.process_time() - start < 1.0


def test_word_weights_names_with_colons_and_escapes_pass_through():
    assert sentences("((~: M00: (big:1.3); _: small :~) cat:1.2)")["M00"] == "((big:1.3) cat:1.2)"
    assert sentences("a (~: input:7, output:3-5: x :~)")["OUT04"] == "a x"
    assert sentences("a (~: (16,down,1): ratio 4:3; _: b :~)")["IN08"] == "a ratio 4:3"
    assert sentences(r"a (~: M00: x\; y; _: z :~)")["M00"] == "a x; y"
    assert sentences(r"\(~: not ours") == dict.fromkeys(NAMES.values(), r"\(~: not ours")


def test_weights_windows_and_parts():
    prompt = read("a (~: M00=0.5/k: red; IN07@0-0.4: green; IN07@0.4-1: blue; _: grey :~)", SD1)
    assert prompt.base == "a grey"
    m00, in07 = ("middle", 0, 0), ("input", 7, 0)
    assert set(prompt.variants) == {
        Variant("a red", (m00,), 0.5, "k"),
        Variant("a green", (in07,), window=Window(0, 0.4)),
        Variant("a blue", (in07,), window=Window(0.4, 1)),
    }
    late = read("a (~: M00@s3-5: red :~)", SD1)
    assert late.variants == (Variant("a red", (m00,), window=Window(3, 5, "step")),)


def full_width(text: str) -> str:
    return text.translate({ord(letter): chr(ord(letter) + 0xFEE0) for letter in "(~:;)"})


def test_parts_and_brackets_do_not_hide_each_other():
    """A later alternative takes over only where it meets an earlier one; a weight is its own words'."""
    m00, both = ("middle", 0, 0), "(~: M00/k: dog; M00/v: cat; _: bird :~)"
    assert set(read(f"a {both}", SD1).variants) == {
        Variant("a dog", (m00,), part="k"),
        Variant("a cat", (m00,), part="v"),
    }
    found = sentences("a (~: M00: dog; IN07, _: cat :~)")
    assert found.pop("M00") == "a dog" and set(found.values()) == {"a cat"}
    mixed = read("(~: M00=0.5: red; _: green :~) (~: M00: lizard; _: cube :~)", SD1)
    assert mixed.base == "green cube"
    assert mixed.variants == (Variant("green lizard", (m00,)), Variant("red lizard", (m00,), 0.5))
    keys = read("(~: M00/k: red; _: green :~) (~: M00: lizard; _: cube :~)", SD1)
    assert set(keys.variants) == {
        Variant("red lizard", (m00,), part="k"),
        Variant("green lizard", (m00,), part="v"),
    }


def test_full_width_brackets():
    text = "a (~: IN07: red; _: blue :~) car"
    assert read(full_width(text), SD1) == read(text, SD1)
    words = full_width("x (y): z~")
    assert sentences(f"a (~: M00: {words}; _: b :~)")["M00"] == f"a {words}"


@pytest.mark.parametrize("near", ["(~ M00: dog)", "(~ M00 dog ~)", "(:~ M00: dog ~:)", "[~: M00: dog :~]"])
def test_near_misses_in_full_width(near: str):
    with pytest.raises(SpecError, match=r"looks like a block prompt.*\n.*\n.*\n.*plain parenthesis"):
        read(f"a {full_width(near)} b", SD1)


@pytest.mark.parametrize(
    "text",
    [
        "a word",
        "a (~10 years:1.2) old cat",
        "(a:1.2) ~ (b)",
        r"\(~ M00: not ours ~\)",
        "(~) and :)",
        "(~: M00: (~5:1.1) :~)",
        "(~8 people (blue:1.3)), cute~)",
        "a (~16:9) frame, (~ 3 : 2)",
        "(~_~) [cat:dog:0.5] <lora:a:1>",
        r"a \(~ M00: dog)",
    ],
)
def test_what_is_no_block_prompt_passes(text):
    read(text, SD1)


def test_variants_as_specs():
    """Each variant's blocks as text read back as what it asks for, so another encoder can be used."""
    prompt = read("(~: M00=0.5/k: a; IN07@0-0.4, coarse/v: b; _: c :~) (~: all: d :~)", SD1)
    for variant in prompt.variants:
        spec = parse(variant.blocks_text(SD1), SD1)
        assert tuple(spec.settings) == variant.layers
        assert {setting for settings in spec.settings.values() for setting in settings} == {variant.setting}


@pytest.mark.parametrize(
    ("text", "marked", "message"),
    [
        ("a (~ M00: dog ~) b", "(~ ", "looks like a block prompt"),
        ("a ( ~ : M00: dog :~) b", "( ~ :", "looks like a block prompt"),
        *(
            (f"a {near} b", marked, "looks like a block prompt")
            for near, marked in (
                ("(~ M00: dog)", "(~ "),
                ("(~M00: dog", "(~"),
                ("(~ M00 dog ~)", "(~ "),
                ("(~ M00: dog:1.2)", "(~ "),
                ("(~ M0O: dog)", "(~ "),
                ("(~ input:7 dog)", "(~ "),
                ("(:~ M00: dog ~:)", "(:~"),
                ("[~: M00: dog :~]", "[~:"),
                ("{~: M00: dog :~}", "{~:"),
                ("(~5:1.2) (~~ M00: dog)", "(~"),
            )
        ),
        ("a M00: dog :~] b", ":~]", "looks like the end"),
        ("a (~: M00: sad :( ; _: happy :~)", "(", "not closed"),
        ("a (~: M00: (dog; _: cat :~)", "(", "not closed"),
        ("(~: M00@0-0.5: a; M00@s3-5: b :~)", " M00@s3-5", "in steps and in shares"),
        ("(~: M00@0-0.5: a :~) (~: M00@s3-5: b :~)", "(~: M00@s3-5: b :~)", "in steps and in shares"),
        ("a (~: IN07: red", "(~:", "never closed"),
        ("a :~) b", ":~)", "closes no bracket"),
        ("a (~: IN07: (~: M00: b :~) :~)", "(~:", "do not nest"),
        ("a (~: IN07 red :~)", "IN07 red ", "No colon"),
        ("a (~: :~)", "(~: :~)", "empty"),
        ("a (~: M00: x; IN12: red :~) girl", "IN12", "Unknown block"),
        ("a (~: IN03: red :~) girl", "IN03", "no cross-attention"),
        ("(~: M00=2: a :~) (~: M00=3: b :~)", "(~: M00=3: b :~)", "different weights"),
    ],
)
def test_errors_point_into_the_prompt(text: str, marked: str, message: str):
    with pytest.raises(SpecError, match=message) as caught:
        read(text, SD1)
    lines = str(caught.value).splitlines()
    start = lines[2].index("^")
    assert lines[1].strip() == text.strip()
    assert lines[1][start : start + len(lines[2].strip())] == marked


def sd1_sigma(percent: float) -> float:
    """SD1's noise level at a share of the sampling (scaled linear betas), as ComfyUI has it."""
    if percent <= 0:
        return 999999999.9
    if percent >= 1:
        return 0.0
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    sigmas = ((1 - alphas) / alphas) ** 0.5
    place = (1 - percent) * 999
    low = math.floor(place)
    share = place - low
    return math.exp((1 - share) * math.log(sigmas[low]) + share * math.log(sigmas[min(999, low + 1)]))


@pytest.mark.parametrize("split", [0.1, 0.5, 0.75])
def test_abutting_windows_never_both_never_neither(split: float):
    """T17: at 1000 noise levels and at the border itself exactly one of two abutting windows holds."""
    border = sd1_sigma(split)
    for sigma in [*torch.linspace(0.0, 15.0, 1000, dtype=torch.float64).tolist(), border]:
        clock = Clock(sd1_sigma, None, lambda sigma=sigma: sigma)
        assert clock.holds(Window(0, split)) != clock.holds(Window(split, 1))
        assert clock.holds(Window(0, split)) == (sigma > border)


def test_windows_in_steps_follow_the_samplers_sigmas(caplog: pytest.LogCaptureFixture):
    sigmas = [14.0, 7.0, 3.0, 1.0, 0.0]
    for step, sigma in enumerate(sigmas[:-1]):
        clock = Clock(sd1_sigma, sigmas, lambda sigma=sigma: sigma)
        assert [clock.holds(Window(i, i + 1, "step")) for i in range(4)] == [i == step for i in range(4)]
        assert clock.holds(Window(2, 100, "step")) == (step >= 2)
        assert not clock.holds(Window(4, 9, "step"))
    assert "only 4" in caplog.text
    with pytest.raises(InjectionError, match="timed in sampler steps"):
        Clock(sd1_sigma, None, lambda: 1.0).holds(Window(0, 3, "step"))


def test_steps_count_from_the_samplers_own_start_also_upwards():
    """Flip Sigmas gives a rising row: step n is the n-th sigma there too."""
    sigmas = [0.0, 1.0, 3.0, 7.0, 14.0]
    for step, sigma in enumerate(sigmas[:-1]):
        clock = Clock(sd1_sigma, sigmas, lambda sigma=sigma: sigma)
        assert [clock.holds(Window(i, i + 1, "step")) for i in range(4)] == [i == step for i in range(4)]


def test_a_nodes_windows():
    assert timing.windows() == ()
    assert timing.windows(0.2, 1.0, 0, 5) == (Window(0.2, 1.0), Window(0, 5, "step"))
    nan = {"start_percent": math.nan}
    for wrong in ({"start_percent": 0.5, "end_percent": 0.5}, {"first_step": 5, "last_step": 2}, nan):
        with pytest.raises(InjectionError, match="never act"):
            timing.windows(**wrong)


def test_entries_refuse_what_makes_no_sense():
    tokens = Stretch(torch.zeros(1, 77, 768))
    with pytest.raises(InjectionError, match="mode 'lerp'"):
        injection(parse("M00=0.5", SD1), [tokens], mode="concat")
    with pytest.raises(InjectionError, match="reference"):
        injection(parse("M00", SD1), [tokens], mode="add")
    for weight in (math.nan, math.inf):
        with pytest.raises(InjectionError, match=r"weight is (nan|inf)\. Give a number"):
            injection(parse("M00", SD1), [tokens], weight=weight)
    with pytest.raises(InjectionError, match="two prompts at the same time"):
        injection(parse("M00", SD1), [tokens, tokens])
    assert not injection(parse("M00=0", SD1), [tokens]).layers


def test_layer_names_and_plan():
    tokens = [Stretch(torch.zeros(1, 77, 768))]
    assert layer_names(list(SD1.sub_blocks), SD1) == "all blocks"
    one = injection(parse("coarse=0.5@0-0.4, IN01/k", SD1), tokens, mode="lerp", label="lizard")
    text = plan_text([one], SD1)
    assert "1. lizard: lerp 0.5 in IN07, IN08, M00, OUT03, OUT04, OUT05 @0-0.4" in text
    assert "1. lizard: lerp 1 to keys in IN01" in text
    skipping = injection(parse(",".join(["1"] * 25), SD1), tokens)
    assert "skipped, no cross-attention: IN00" in plan_text([skipping], SD1)
    assert "No injections" in plan_text([], SD1)


def test_growth_orders():
    stages = growth("from the middle outward", "coarse", "", SD1)
    assert [label for label, _ in stages] == [
        *("none", "+ M00", "+ IN08", "+ OUT03", "+ IN07", "+ OUT04", "+ OUT05")
    ]
    assert stages[3][1] == "M00, IN08, OUT03"
    for order in ORDERS:
        every = growth(order, "all", "", SD1)
        assert len(every) == 17
        assert len(parse(every[-1][1], SD1).settings) == 16
    custom = growth(CUSTOM, "all", "8\n(16,down,0)-(16,down,1)\n\n32, 64", SD1)
    assert [label for label, _ in custom] == ["none", "+ 8", "+ (16,down,0)-(16,down,1)", "+ 32, 64"]
    with pytest.raises(SpecError):
        growth(CUSTOM, "all", "IN99", SD1)
    with pytest.raises(InjectionError):
        growth(CUSTOM, "all", "  ", SD1)
