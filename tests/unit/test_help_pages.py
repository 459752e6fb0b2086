"""Help pages: each node has one in English and one in Japanese, with the same images and the same code words.

ComfyUI's front-end asks for ``docs/<node>/<locale>.md`` and then for ``docs/<node>.md``; links of both count from ``docs``.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
NODES = sorted(json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")))
LINK = re.compile(r"\]\(([^)\s]+)\)")
INPUT_ROW = re.compile(r"^(?:\| |- )(.*`\w+`.*?)(?: \||:)", re.MULTILINE)


def page(node: str, locale: str = "") -> str:
    path = DOCS / node / f"{locale}.md" if locale else DOCS / f"{node}.md"
    return path.read_text(encoding="utf-8")


def test_pages_belong_to_nodes():
    assert sorted(path.stem for path in DOCS.glob("*.md")) == NODES
    assert sorted(path.parent.name for path in DOCS.glob("*/ja.md")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_japanese_page_has_the_facts_of_the_english_one(node):
    english, japanese = page(node), page(node, "ja")
    names = json.loads((ROOT / "locales" / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))[node]
    assert japanese.startswith(f"# {names['display_name']}\n")
    assert sorted(LINK.findall(japanese)) == sorted(LINK.findall(english))
    for link in LINK.findall(japanese):
        assert "://" in link or (DOCS / link).exists(), link
    for row in INPUT_ROW.findall(english):
        for word in re.findall(r"`(\w+)`", row):
            assert f"`{word}`" in japanese or word == "line", word
    assert sum("\u3040" <= letter <= "\u30ff" for letter in japanese) > 50, "not written in Japanese"
