"""Each locale says everything that the English one, which is made from the schemas, says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
OTHERS = ("ja", "zh")
LETTERS = {"ja": ("\u3040", "\u9fff"), "zh": ("\u4e00", "\u9fff")}


def texts(locale: str) -> dict[str, str]:
    """Every text of a locale by its path: ``BlockworkMergeModels/inputs/weights/tooltip``."""

    def walk(value: dict | str, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield path, value
            return
        for name, part in value.items():
            yield from walk(part, f"{path}/{name}" if path else name)

    return dict(walk(json.loads((LOCALES / locale / "nodeDefs.json").read_text(encoding="utf-8")), ""))


def test_every_locale_has_the_same_files():
    names = {path.name: sorted(file.name for file in path.iterdir()) for path in LOCALES.iterdir()}
    assert set(names) == {"en", *OTHERS} and len({tuple(files) for files in names.values()}) == 1


@pytest.mark.parametrize("locale", OTHERS)
def test_a_locale_covers_english(locale):
    english, other = texts("en"), texts(locale)
    assert len(english) > 900
    assert sorted(english.keys() - other.keys()) == [], f"not in locales/{locale}/nodeDefs.json"
    assert sorted(other.keys() - english.keys()) == [], f"left over in locales/{locale}/nodeDefs.json"


@pytest.mark.parametrize("locale", OTHERS)
def test_a_locale_is_written_in_its_language(locale):
    english, other = texts("en"), texts(locale)
    first, last = LETTERS[locale]
    sentences = {path for path in english if path.endswith(("/tooltip", "/description", "/display_name"))}
    untranslated = [path for path in sentences if not any(first <= letter <= last for letter in other[path])]
    assert sorted(untranslated) == []
    if locale == "zh":
        assert not [
            path for path, text in other.items() if any("\u3040" <= letter <= "\u30ff" for letter in text)
        ]
