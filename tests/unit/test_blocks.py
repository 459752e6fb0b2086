"""Block names, key maps, presets and weight texts."""

import gzip
import json
import re
from pathlib import Path

import pytest
from blockwork.blocks import presets
from blockwork.blocks.keymap import KEY_MAPS, block_of
from blockwork.blocks.names import SD1, SDXL, BlockError, layout_of
from blockwork.blocks.weights import number_text, parse

DATA = Path(__file__).parent.parent / "data" / "blocks"
KEYS = json.loads(gzip.decompress((DATA / "checkpoint_keys.json.gz").read_bytes()))
TABLES = {name: json.loads((DATA / f"presets_{name}.json").read_text()) for name in ("sd1", "sdxl")}


def numbered(key):
    """The block by the substring tests that kohya's, bbc-mc's and sd-mecha's scripts share."""
    for pattern, name in ((r"\.input_blocks\.(\d+)\.", "IN"), (r"\.output_blocks\.(\d+)\.", "OUT")):
        if match := re.search(pattern, key):
            return f"{name}{int(match.group(1)):02}"
    return "M00" if ".middle_block." in key else None


def peer_mbw(key, last, xl):
    if "model" not in key:
        return None
    if "model.diffusion_model." not in key:
        return "BASE"
    return "IN00" if "time_embed" in key else last if ".out." in key else numbered(key) or "BASE"


def peer_supermerger(key, last, xl):
    if "weight" not in key and "bias" not in key:
        return None
    if xl and ".label_emb." in key:
        return "IN00"
    return peer_mbw(key, last, xl)


def peer_mecha(key, last, xl):
    if key.startswith("model_ema.") or "model" not in key:
        return None
    if key.startswith("model.diffusion_model."):
        if ".time_embed" in key or (xl and ".label_emb" in key):
            return "BASE"
        return last if ".out." in key else numbered(key) or last
    return "VAE" if xl and key.startswith("first_stage_model.") else "BASE"


def peer_comfy(key, last, xl):
    if key.startswith(("cond_stage_model.", "conditioner.")):
        return "CLIP"
    if not key.startswith("model.diffusion_model."):
        return None
    inside = key.removeprefix("model.diffusion_model.")
    apart = {"time_embed.": "TIME_EMBED", "label_emb.": "LABEL_EMB", "out.": "OUT"}
    return next((name for prefix, name in apart.items() if inside.startswith(prefix)), None) or numbered(key)


@pytest.mark.parametrize("layout, last", [("sd1", "OUT11"), ("sdxl", "OUT08")])
@pytest.mark.parametrize("peer", [peer_mbw, peer_supermerger, peer_mecha, peer_comfy])
def test_every_checkpoint_key_goes_where_the_peer_puts_it(layout, last, peer):
    key_map = peer.__name__.removeprefix("peer_")
    assert len(KEYS[layout]) > 1500
    for key in KEYS[layout]:
        assert block_of(key, layout, key_map) == peer(key, last, layout == "sdxl"), key


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
@pytest.mark.parametrize("key_map", KEY_MAPS)
def test_numbered_blocks_follow_the_module_index(layout, key_map):
    names = {"input_blocks": "IN{:02}", "output_blocks": "OUT{:02}"}
    for key in KEYS[layout]:
        parts = key.split(".")
        if parts[:2] != ["model", "diffusion_model"] or parts[2] not in names:
            continue
        if key_map == "supermerger" and not ("weight" in key or "bias" in key):
            continue
        expected = names[parts[2]].format(int(parts[3]))
        assert block_of(key, layout, key_map) == expected
        assert block_of(key.removeprefix("model."), layout, key_map) == expected  # ComfyUI's own key


@pytest.mark.parametrize(
    "key, mbw, supermerger, mecha, comfy",
    [
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "IN01", "IN01", "IN01", "IN01"),
        ("model.diffusion_model.input_blocks.10.0.in_layers.0.weight", "IN10", "IN10", "IN10", "IN10"),
        ("model.diffusion_model.input_blocks.11.0.in_layers.0.weight", "IN11", "IN11", "IN11", "IN11"),
        ("model.diffusion_model.output_blocks.1.0.in_layers.0.weight", "OUT01", "OUT01", "OUT01", "OUT01"),
        ("model.diffusion_model.output_blocks.11.1.proj_in.weight", "OUT11", "OUT11", "OUT11", "OUT11"),
        ("model.diffusion_model.middle_block.0.in_layers.0.weight", "M00", "M00", "M00", "M00"),
        ("model.diffusion_model.middle_block.1.proj_in.weight", "M00", "M00", "M00", "M00"),
        ("model.diffusion_model.middle_block.2.in_layers.0.weight", "M00", "M00", "M00", "M00"),
        ("model.diffusion_model.time_embed.0.weight", "IN00", "IN00", "BASE", "TIME_EMBED"),
        ("model.diffusion_model.label_emb.0.0.weight", "BASE", "BASE", "OUT11", "LABEL_EMB"),
        ("model.diffusion_model.out.2.weight", "OUT11", "OUT11", "OUT11", "OUT"),
        ("first_stage_model.decoder.conv_in.weight", "BASE", "BASE", "BASE", None),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "BASE", "BASE", "BASE", "CLIP"),
        ("model_ema.diffusion_modelout2weight", "BASE", "BASE", None, None),
        ("model_ema.decay", "BASE", None, None, None),
        ("alphas_cumprod", None, None, None, None),
    ],
)
def test_the_disagreements_of_the_tools(key, mbw, supermerger, mecha, comfy):
    assert [block_of(key, "sd1", key_map) for key_map in KEY_MAPS] == [mbw, supermerger, mecha, comfy]


def test_sdxl_disagreements():
    label = "model.diffusion_model.label_emb.0.0.weight"
    assert [block_of(label, "sdxl", key_map) for key_map in KEY_MAPS] == ["BASE", "IN00", "BASE", "LABEL_EMB"]
    out = "diffusion_model.out.0.bias"
    assert [block_of(out, "sdxl", key_map) for key_map in KEY_MAPS] == ["OUT08", "OUT08", "OUT08", "OUT"]
    vae = "first_stage_model.encoder.conv_in.weight"
    assert [block_of(vae, "sdxl", key_map) for key_map in KEY_MAPS] == ["BASE", "BASE", "VAE", None]


def test_layout_is_read_off_the_keys():
    assert layout_of(KEYS["sd1"]) == SD1
    assert layout_of(KEYS["sdxl"]) == SDXL
    koala = [
        f"diffusion_model.{part}.{i}.0.weight" for part in ("input_blocks", "output_blocks") for i in range(6)
    ]
    assert layout_of(koala).blocks == tuple(
        [f"IN{i:02}" for i in range(6)] + [f"OUT{i:02}" for i in range(6)]
    )
    with pytest.raises(BlockError, match="no numbered blocks"):
        layout_of(["model.diffusion_model.img_in.weight", "cond_stage_model.layers.0.mlp.fc1.weight"])


def test_unknown_layout_and_key_map_are_named():
    with pytest.raises(BlockError, match=r"'sd9'.*sd1"):
        block_of("x", "sd9")
    with pytest.raises(BlockError, match=r"'abc'.*mbw"):
        block_of("x", "sd1", "abc")


@pytest.mark.parametrize("layout, count", [("sd1", 38), ("sdxl", 34)])
def test_closed_forms_equal_the_published_tables(layout, count):
    assert presets.names(layout) == list(TABLES[layout]) and len(TABLES[layout]) == count
    for name, values in TABLES[layout].items():
        assert presets.preset(name, layout) == pytest.approx(values, abs=1e-9), name


def test_preset_errors_suggest():
    with pytest.raises(BlockError, match="Did you mean GRAD_V"):
        presets.preset("grad_v")
    with pytest.raises(BlockError, match="OUT12"):
        presets.preset("OUT12", "sdxl")


def test_transforms():
    v = presets.preset("GRAD_V")
    assert presets.blend(v, presets.preset("GRAD_A"), 0.5) == [0.5] * 25
    assert presets.mirror(presets.preset("OUT12")) == [1.0] * 12 + [0.0] * 13
    assert presets.invert(presets.preset("ALL_A")) == presets.preset("ALL_B")
    assert presets.scale([1.0, 2.0], 0.5, 0.25) == [0.75, 1.25]
    with pytest.raises(BlockError, match="blend 25 weights with 19"):
        presets.blend(v, presets.preset("GRAD_V", "sdxl"), 0.5)


@pytest.mark.parametrize(
    "line",
    [
        "MINE\t" + ",".join(["0.25"] * 25),
        "MINE:" + ",".join(["0.25"] * 25),
        "MINE," + ",".join(["0.25"] * 25),
        "MINE: " + ", ".join(["0.25"] * 25),
    ],
)
def test_preset_files_in_every_form(tmp_path, line):
    path = tmp_path / "own.tsv"
    path.write_text(f"preset_name\tpreset_weights\n# a comment\n\n{line}\nXL\t{','.join(['1.'] * 19)}\n")
    assert presets.load_file(path) == {"MINE": [0.25] * 25, "XL": [1.0] * 19}


@pytest.mark.parametrize(
    "line, message",
    [
        ("BAD\t1,2,3", "line 2, preset 'BAD': 3 numbers"),
        ("BAD\t1" + ",x" * 18, "line 2, preset 'BAD': 'x' is not a number"),
    ],
)
def test_bad_preset_files_name_the_line(tmp_path, line, message):
    path = tmp_path / "own.tsv"
    path.write_text(f"OK\t{','.join(['1'] * 25)}\n{line}\n")
    with pytest.raises(BlockError, match=message):
        presets.load_file(path)


def test_bad_lines_can_be_collected_instead(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(b"\x83\x7f\t1,2\nBAD\tR,R\nOK\t" + b",".join([b"1"] * 25))
    bad = {}
    assert list(presets.load_file(path, bad)) == ["OK"]
    assert "BAD" in bad and len(bad) == 2


def test_forms_of_weights():
    values = tuple(presets.preset("GRAD_V"))
    numbers = ", ".join(map(number_text, values))
    assert parse("GRAD_V").values == parse(numbers).values == parse(f"MY: {numbers}").values == values
    assert parse(f"MY\t0.5, {numbers}").of("BASE", 9) == 0.5
    assert parse(f"0.5, {numbers}, 0.25").of("VAE", 9) == 0.25
    assert parse("0.3").values == (0.3,) * 25
    assert parse("1., 0." + ", 0.5" * 23).values[:2] == (1.0, 0.0)
    mixed = parse("GRAD_V, IN_00=0.75, OUT03-OUT05=.2, BASE=1, TIME_EMBED=-1")
    assert (mixed.of("IN00", 9), mixed.of("OUT04", 9), mixed.of("BASE", 9), mixed.of("TIME_EMBED", 9)) == (
        0.75,
        0.2,
        1,
        -1,
    )
    assert parse("M00=1", default=0.5).of("IN00", 9) == 0.5
    assert parse("MINE", own_presets={"MINE": [0.1] * 26}).of("BASE", 9) == 0.1
    assert parse("GRAD_V", "sdxl").values == tuple(presets.preset("GRAD_V", "sdxl"))
    for count, layout in ((19, "sdxl"), (20, "sdxl"), (21, "sdxl"), (25, "sd1"), (26, "sd1")):
        assert len(parse(", ".join(["0.5"] * count), layout).text().split(",")) == count


@pytest.mark.parametrize(
    "name", ["GRAD_V", "0.1234567891", "GRAD_V, BASE=0.5", "GRAD_V, VAE=0.5", "ALL_A, OUT=2, BASE=1, VAE=0"]
)
def test_weights_print_and_parse_back_equal(name):
    weights = parse(name)
    assert parse(weights.text()) == weights


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "No weights are given"),
        (", ".join(["1"] * 24), "24 weights are given. Expected for sd1: 25"),
        (", ".join(["1"] * 19), "19 weights are given. Expected for sd1: 25"),
        (", ".join(["nan"] * 25), "must be finite"),
        ("1e999", "must be finite"),
        ("IN00=inf", "must be finite"),
        ("1,,2", "two commas in a row"),
        ("IN00=x", "'x' is not a number"),
        ("IN04:0.75", "with =, as in IN04=0.75"),
        ("OUT03-OUT05: 0.5", "its weight with ="),
        ("BASE:1", "its weight with ="),
        ("IN12=1", "Unknown block 'IN12' for sd1"),
        ("OUT05-OUT03=1", "Write OUT03-OUT05"),
        ("NOTHING_LIKE_IT", "Unknown preset"),
    ],
)
def test_bad_weights_say_what_was_expected(text, message):
    with pytest.raises(BlockError, match=message):
        parse(text)
