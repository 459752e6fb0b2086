"""The Japanese locale names nodes and inputs that exist, in Japanese."""

import json
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[2] / "locales"


def _nodes(language: str) -> dict[str, dict]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_japanese_names_and_descriptions():
    english, japanese = _nodes("en"), _nodes("ja")
    assert japanese and set(japanese) <= set(english)
    for node, words in japanese.items():
        assert words["display_name"] != english[node]["display_name"]
        assert any(ord(letter) > 0x3000 for letter in words["description"]), node


def test_japanese_tooltips_belong_to_inputs():
    english = _nodes("en")
    for node, words in _nodes("ja").items():
        assert set(words.get("inputs", {})) <= set(english[node]["inputs"]), node
