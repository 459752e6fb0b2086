"""The Japanese locale says everything that the English one, which is made from the schemas, says."""

import json
from collections.abc import Iterator
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[2] / "locales"


def texts(locale: str) -> dict[str, str]:
    """Every text of a locale by its path: ``BlockworkMergeModels/inputs/weights/tooltip``."""

    def walk(value: dict | str, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield path, value
            return
        for name, part in value.items():
            yield from walk(part, f"{path}/{name}" if path else name)

    return dict(walk(json.loads((LOCALES / locale / "nodeDefs.json").read_text(encoding="utf-8")), ""))


def test_japanese_covers_english():
    english, japanese = texts("en"), texts("ja")
    assert len(english) > 900
    assert sorted(english.keys() - japanese.keys()) == [], "not in locales/ja/nodeDefs.json"
    assert sorted(japanese.keys() - english.keys()) == [], "left over in locales/ja/nodeDefs.json"


def test_japanese_is_written_in_japanese():
    english, japanese = texts("en"), texts("ja")
    sentences = {path for path in english if path.endswith(("/tooltip", "/description", "/display_name"))}
    untranslated = [
        path for path in sentences if not any("\u3040" <= letter <= "\u9fff" for letter in japanese[path])
    ]
    assert sorted(untranslated) == []
