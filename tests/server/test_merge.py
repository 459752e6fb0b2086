"""Merging through the queue of a real ComfyUI: the example workflow, the cache, memory, errors."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refhost.client import PromptFailed, PromptRefused, executed_nodes


def picture(client, entry):
    """The picture that the example's SaveImage node wrote."""
    return np.asarray(Image.open(io.BytesIO(client.images(entry, "11")[0])), dtype=np.float32)


def resident_bytes(pid):
    """Anonymous resident memory of a process; file pages of mapped checkpoints come and go and are not counted."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1)) * 1024


def test_the_pack_loads_without_a_warning(server):
    log = server.log.read_text(encoding="utf-8").partition("To see the GUI go to")[0]
    assert re.search(r"[\d.]+ seconds: .*custom_nodes.*blockwork", log), log
    ours = [line for line in log.splitlines() if "blockwork" in line.lower()]
    assert not [line for line in ours if re.search("warn|error|fail|cannot", line, re.IGNORECASE)], ours


def test_merge_example_runs_and_is_cached_the_second_time(client, example):
    prompt = example("merge_by_block")
    entry = client.run(prompt)
    assert picture(client, entry).shape == (64, 64, 3)
    assert "636 of 682 tensors merged." in client.texts(entry)["13"][0]
    assert executed_nodes(client.run(prompt)) == set()


def test_two_ratios_example_runs(client, example):
    prompt = example("merge_two_ratios")
    entry = client.run(prompt)
    assert picture(client, entry).shape == (64, 64, 3)
    assert "0.7 A + 0.4 B" in client.texts(entry)["13"][0]


def test_one_slider_reruns_the_merge_and_what_hangs_on_it(client, example):
    prompt = example("merge_by_block")
    client.run(prompt)
    prompt["3"]["inputs"]["weights"] = "GRAD_V, IN04=0.1"
    assert executed_nodes(client.run(prompt)) == {"3", "4", "9", "10", "11", "12", "13"}


def test_extremes_give_the_pictures_of_the_models_themselves(client, example):
    """ALL_A is A and ALL_B is B, to the pixel; neither model is changed by having been merged."""
    merged = example("merge_by_block")
    merged["6"]["inputs"]["clip"] = merged["7"]["inputs"]["clip"] = ["1", 1]
    alone = {name: example("merge_by_block") for name in ("1", "2")}
    for loader, prompt in alone.items():
        prompt["9"]["inputs"]["model"] = [loader, 0]
        prompt["6"]["inputs"]["clip"] = prompt["7"]["inputs"]["clip"] = ["1", 1]
    before = {loader: picture(client, client.run(prompt)) for loader, prompt in alone.items()}
    for preset, loader in (("ALL_A", "1"), ("ALL_B", "2"), ("0.5", None)):
        merged["3"]["inputs"]["weights"] = preset
        got = picture(client, client.run(merged))
        for name, expected in before.items():
            assert np.array_equal(got, expected) == (name == loader), (preset, name)
    for loader, prompt in alone.items():
        prompt["9"]["inputs"]["denoise"] = 0.999999  # a new run, not the cache
        assert np.abs(picture(client, client.run(prompt)) - before[loader]).max() <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads anonymous memory from /proc")
def test_twenty_changes_leave_memory_flat(client, server, example):
    prompt = example("merge_by_block")
    prompt["9"]["inputs"]["steps"] = 1
    levels = []
    for number in range(20):
        prompt["3"]["inputs"]["weights"] = f"GRAD_V, IN05={number / 20}"
        client.run(prompt)
        levels.append(resident_bytes(server.pid))
    growth = max(levels[10:]) - max(levels[:10])
    assert growth < 100e6, [f"{level / 1e6:.0f}" for level in levels]


def test_sdxl_merges_too(client, example, sdxl_checkpoints):
    prompt = example("merge_by_block")
    prompt["1"]["inputs"]["ckpt_name"] = "sdxl_a.safetensors"
    prompt["2"]["inputs"]["ckpt_name"] = "sdxl_b.safetensors"
    prompt["3"]["inputs"]["layout"] = "sdxl"
    del prompt["5"]
    prompt["6"]["inputs"]["clip"] = prompt["7"]["inputs"]["clip"] = ["1", 1]
    entry = client.run(prompt)
    assert np.isfinite(picture(client, entry)).all()
    assert "OUT08" in client.texts(entry)["13"][0] and "OUT09" not in client.texts(entry)["13"][0]


def test_vae_scale_and_difference_nodes_run(client, example):
    prompt = example("merge_by_block")
    prompt["20"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15_c.safetensors"}}
    prompt["21"] = {
        "class_type": "BlockworkAddDifference",
        "inputs": {"model_a": ["4", 0], "model_b": ["2", 0], "model_c": ["20", 0], "weights": "0.25"},
    }
    prompt["22"] = {
        "class_type": "BlockworkScaleBlocks",
        "inputs": {"model": ["21", 0], "weights": "IN04=0.75"},
    }
    prompt["23"] = {
        "class_type": "BlockworkMergeVAE",
        "inputs": {"vae_a": ["1", 2], "vae_b": ["2", 2], "ratio": 0.5},
    }
    prompt["9"]["inputs"]["model"] = ["22", 0]
    prompt["10"]["inputs"]["vae"] = ["23", 0]
    prompt["24"] = {"class_type": "PreviewAny", "inputs": {"source": ["22", 1]}}
    entry = client.run(prompt)
    assert np.isfinite(picture(client, entry)).all()
    assert "IN04       0.75 A" in client.texts(entry)["24"][0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"3": {"weights": "1, 2, 3"}}, "3 weights are given. Expected for sd1: 25"),
        ({"3": {"weights": ", ".join(["nan"] * 25)}}, "finite"),
        ({"3": {"weights": "GRAD_X"}}, "Did you mean GRAD_V"),
        ({"4": {"weights": "IN12=1"}}, "Unknown block 'IN12' for sd1"),
    ],
)
def test_bad_weights_stop_the_prompt_with_a_clear_message(client, example, change, message):
    """What no model can take is refused before the queue, the rest when the model is known."""
    prompt = example("merge_by_block")
    for node, inputs in change.items():
        prompt[node]["inputs"] |= inputs
    with pytest.raises((PromptFailed, PromptRefused), match=message):
        client.run(prompt)


def test_a_truncated_file_is_an_error_and_the_server_goes_on(client, server, example):
    folder = server.base / "models" / "checkpoints"
    whole = (folder / "sd15_b.safetensors").read_bytes()[:1_000_000]
    (folder / "sd15_truncated.safetensors").write_bytes(whole)
    prompt = example("merge_by_block")
    prompt["2"]["inputs"]["ckpt_name"] = "sd15_truncated.safetensors"
    with pytest.raises(PromptFailed, match="CheckpointLoaderSimple"):
        client.run(prompt)
    (folder / "sd15_truncated.safetensors").unlink()
    assert client.images(client.run(example("merge_by_block")))
