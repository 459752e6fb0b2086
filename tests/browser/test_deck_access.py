"""The deck for keyboards, fingers, screen readers, palettes and forced colours."""

from itertools import pairwise

import pytest
from blockwork.tests.support.deck import Deck
from refhost.canvas import Canvas

WEIGHTS = "BlockworkBlockWeights"
PALETTES = ("dark", "light", "solarized", "arc", "nord", "github")


@pytest.fixture
def deck(canvas: Canvas) -> Deck:
    deck = Deck(canvas, WEIGHTS)
    deck.text = "GRAD_V"
    canvas.remember()
    return deck


def test_every_control_has_a_name_and_a_role(deck: Deck):
    for opening in ("presets", "shape"):
        deck.press("Shape") if opening == "shape" else deck.find(".bw-picker").click()
        nameless = deck.root.evaluate(
            """(root) => [...root.querySelectorAll('button, input, select, [role=slider], [role=group], [role=toolbar], [role=dialog]')]
                 .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim())).map((e) => e.outerHTML)"""
        )
        deck.page.keyboard.press("Escape")
        assert nameless == []
    bar = deck.bar("IN00")
    assert [bar.get_attribute(f"aria-value{part}") for part in ("now", "text", "min", "max")] == [
        "1",
        "1",
        "0",
        "1",
    ]
    assert bar.get_attribute("role") == "slider"


def test_the_deck_has_few_tab_stops(deck: Deck):
    stops = """(root) => [...root.querySelectorAll('button, input, [tabindex]')].filter((e) => e.tabIndex >= 0 && e.checkVisibility()).length"""
    assert deck.root.evaluate(stops) <= 7
    deck.keys("IN10", "ArrowDown", "ArrowDown", "ArrowDown")
    assert deck.page.evaluate("() => document.activeElement.dataset.key") == "OUT11", (
        "down the left, across M00, down the right"
    )
    deck.keys("IN10", "ArrowDown", "ArrowDown", "ArrowUp", "Delete")
    assert deck.values()[11] == 0 and deck.canvas.decks(), "Delete resets a bar and leaves the node"
    assert deck.root.evaluate(stops) <= 7


def test_targets_are_large_enough(deck: Deck):
    """24 px between the centres of targets (WCAG 2.5.8), at the node's smallest size."""
    deck.canvas.resize(deck.node, (200, 60))
    tops = sorted(
        box["y"] + box["height"] / 2
        for key in ("IN00", "IN01", "IN02", "IN03", "M00")
        if (box := deck.bar(key).bounding_box())
    )
    assert all(below - above >= 23.9 for above, below in pairwise(tops)), tops
    small = deck.root.evaluate(
        """(root) => [...root.querySelectorAll('.bw-toolbar button, .bw-footer button')].map((e) => e.getBoundingClientRect())
             .filter((box) => box.height < 23.9).length"""
    )
    assert small == 0


def test_narrow_decks_keep_their_tools(deck: Deck):
    deck.root.evaluate("(e) => { e.style.width = '260px'; }")
    assert all(
        button.is_visible()
        for button in deck.root.query_selector_all(".bw-toolbar button, .bw-footer button")
    )
    deck.root.evaluate("(e) => { e.style.width = ''; }")


def test_bars_use_the_width(deck: Deck):
    root = deck.root.bounding_box()
    wide = [box["width"] for key in ("IN00", "OUT11", "M00", "IN11") if (box := deck.bar(key).bounding_box())]
    assert root and min(wide) > 0.3 * root["width"], "two bars and their names side by side"


def test_contrast_in_every_palette(deck: Deck, pictures):
    deck.drag("IN05", 0.1, 0.5)
    found = {}
    try:
        for palette in PALETTES:
            deck.canvas.palette(palette)
            found[palette] = deck.contrasts()
            if palette in ("dark", "light"):
                deck.canvas.shot(pictures / f"palette-{palette}-{deck.canvas.face}.png")
    finally:
        deck.canvas.palette("dark")
    assert min(min(ratios.values()) for ratios in found.values()) >= 4.5, found


def test_forced_colours_show_the_bars(deck: Deck, pictures):
    deck.text = ", ".join(["1"] * 12 + ["0"] * 13)
    deck.page.emulate_media(forced_colors="active")
    try:
        deck.canvas.settle()
        fills = [
            deck.bar(key).evaluate(
                "(e) => { const { backgroundColor, width } = getComputedStyle(e, '::before');"
                " return [backgroundColor, parseFloat(width) > e.clientWidth / 2, getComputedStyle(e).borderTopWidth]; }"
            )
            for key in ("IN00", "OUT00")
        ]
        deck.canvas.shot(pictures / f"forced-{deck.canvas.face}.png")
    finally:
        deck.page.emulate_media(forced_colors="none")
    (colour, full, border), (_, empty, _) = fills
    assert full and not empty and border == "1px" and not colour.startswith("rgba(0, 0, 0, 0"), fills
