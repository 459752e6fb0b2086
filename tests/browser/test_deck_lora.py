"""The deck of a LoRA: blocks that the file does not change are hatched, and LoRA Report tints the bars."""

import subprocess

import pytest
from blockwork.tests.support.deck import Deck
from refhost import layout
from refhost.canvas import Canvas

MAKE = """
import sys
from pathlib import Path
from refhost.pack import load_pack, use_comfyui
use_comfyui()
load_pack()
import torch
from blockwork.tests.support import networks, tiny
from safetensors.torch import save_file

base = Path(sys.argv[1])
network = networks.build("Wan 2.1", "cpu", torch.bfloat16, dim=128, ffn_dim=64, num_heads=1, num_layers=4, text_dim=4096)
tensors = {}
for block, size in (("1", 0.1), ("3", 0.05)):
    name = f"diffusion_model.blocks.{block}.self_attn.q"
    tensors[f"{name}.lora_up.weight"] = torch.full((128, 1), size)
    tensors[f"{name}.lora_down.weight"] = torch.ones(1, 128)
(base / "loras").mkdir(parents=True, exist_ok=True)
save_file(tensors, base / "loras" / "deck_lora.safetensors")
save_file(tiny.fill(network, 1).state_dict(), base / "diffusion_models" / "deck_wan.safetensors")
"""
MODEL, LORA = "deck_wan.safetensors", "deck_lora.safetensors"
TOUCHED = ["B01", "B03"]


@pytest.fixture
def files(canvas: Canvas) -> None:
    models = layout.HOST / f"browser-tests-{canvas.version}" / "models"
    if not (models / "diffusion_models" / MODEL).exists():
        subprocess.run(
            [layout.venv_bin("python"), "-c", MAKE, models],
            check=True,
            cwd=layout.ROOT / "tools",
            timeout=300,
        )


def _keys(deck: Deck, selector: str) -> list[str]:
    return [bar.get_attribute("data-key") or "" for bar in deck.root.query_selector_all(f".bw-u {selector}")]


def test_a_lora_hatches_and_tints_its_deck(canvas: Canvas, files, pictures):
    loader = canvas.add("UNETLoader", (20, 60))
    canvas.set_value(loader, "unet_name", MODEL)
    lora = canvas.add("BlockworkLoadLoRA", (360, 60))
    canvas.set_value(lora, "lora_name", LORA)
    canvas.connect(loader, 0, lora, "model")
    deck = Deck(canvas, node=lora)
    canvas.connect(lora, 2, canvas.add("PreviewAny", (20, 260)), "source")
    assert canvas.queue()["status"]["status_str"] == "success"
    deck.wait("root.querySelector('.bw-untouched')")
    assert _keys(deck, ".bw-bar") == ["B00", *TOUCHED[:1], "B02", TOUCHED[1]]
    assert _keys(deck, ".bw-untouched") == ["B00", "B02"]
    assert "does not change" in (deck.bar("B00").get_attribute("title") or "")
    assert "does not change" not in (deck.bar("B01").get_attribute("title") or "")
    deck.text = "B00=0.5"
    assert _keys(deck, ".bw-untouched") == ["B00", "B02"], "a slider move keeps the hatching"
    report = canvas.add("BlockworkLoRAReport", (900, 60))
    canvas.set_value(report, "lora_name", LORA)
    canvas.connect(loader, 0, report, "model")
    assert canvas.queue()["status"]["status_str"] == "success"
    deck.wait("root.classList.contains('bw-measured')")
    share = "(e) => Number(e.style.getPropertyValue('--measured'))"
    shares = {key: deck.bar(key).evaluate(share) for key in ("B00", "B01", "B02", "B03")}
    assert shares["B00"] == shares["B02"] == 0 and shares["B01"] == 1 and 0.2 < shares["B03"] < 1
    assert "Change by the LoRA: 1" in (deck.bar("B01").get_attribute("title") or "")
    canvas.look_at(lora)
    canvas.shot(pictures / f"deck-lora-{canvas.face}.png")
    canvas.page.evaluate(
        "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'lora_name').callback('other')",
        lora,
    )
    assert _keys(deck, ".bw-untouched") == [], "another file was chosen"


def test_texts_of_lora_block_weight(canvas: Canvas):
    deck = Deck(canvas, "BlockworkLoadLoRA")
    zeros, ones = ["0"] * 6, ["1"] * 6
    deck.text = "MIDD, OUT03=R"
    assert deck.find(".bw-error").inner_text() == ""
    assert deck.painted()[:8] == ["0"] * 5 + ["1", "0", "1"] and deck.painted()[16] == "R"
    assert deck.bar("OUT03").get_attribute("aria-valuetext") == "R: Set at run time"
    assert deck.bar("OUT03").get_attribute("aria-disabled") == "true"
    deck.keys("IN04", "End")
    assert deck.text == "MIDD, OUT03=R, IN04=1"
    deck.press("Mirror")
    assert deck.text == "MIDD, OUT03=R, IN04=1" and deck.find(".bw-said").inner_text() == "Set at run time"
    deck.press("Reset")
    assert set(deck.painted()) == {"1"} and "R" not in deck.text
    deck.text = "AB"
    for name, value in (("a", 0.5), ("b", -0.25)):
        canvas.page.evaluate(
            "([id, name, v]) => { const w = app.graph.getNodeById(id).widgets.find((w) => w.name === name); w.value = v; w.callback(v); }",
            [deck.node, name, value],
        )
    deck.wait("root.querySelector('[data-key=BASE].bw-bar').dataset.value === '0.5'")
    assert deck.painted()[:3] == ["0", "-0.25", "-0.25"] and deck.painted()[-1] == "0.5"
    assert deck.find(".bw-preset-name").inner_text() == "AB"
    deck.text = "SDXL-MIDALL"
    assert deck.painted() == [*zeros, "0", "0", "0", "1", *zeros, "0", "0", "0"]
    deck.text = "ALL"
    assert deck.painted() == [*ones, *ones, *ones, *ones, "1"]
    deck.text = "R"
    assert set(deck.painted()) == {"R"}
    deck.keys("IN04", "End")
    assert deck.text == "R", "a bar that only a run knows is not moved"
    deck.find(".bw-picker").click()
    canvas.page.keyboard.type("OUTD")
    assert deck.find(".bw-card").get_attribute("title") == "OUTD\nLoRA Block Weight"
    canvas.page.keyboard.press("Enter")
    assert deck.text == "OUTD" and deck.find(".bw-preset-name").inner_text() == "OUTD"
    assert deck.painted()[15:21] == ["0", "1", "1", "1", "1", "0"]
