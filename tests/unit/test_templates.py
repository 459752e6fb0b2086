"""Each template explains itself: a note, titled groups, and where released models can be downloaded."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
from refhost import layout, templates

EXAMPLES = layout.ROOT / "example_workflows"
NAMES = templates.names()
START = [name for name in NAMES if "Start here" in templates.title(name)]
MODELS = json.loads((EXAMPLES / "notes" / "models.json").read_text(encoding="utf-8"))
PLACEHOLDER = re.compile(r"\b(TODO|TBD|FIXME|XXX|lorem|placeholder)\b|\.\.\.$|\{\w*\}", re.IGNORECASE)


def template(name: str) -> dict[str, Any]:
    return json.loads(templates.drawn(name).read_text(encoding="utf-8"))


def test_each_template_has_a_note_a_number_a_title_and_a_thumbnail():
    assert sorted(path.stem for path in (EXAMPLES / "notes").glob("*.md")) == sorted(NAMES)
    titles = [templates.title(name) for name in NAMES]
    assert len({title[:2] for title in titles}) == len(NAMES), "two templates have the same number"
    for name, title in zip(NAMES, titles, strict=True):
        assert re.fullmatch(r"\d\d [A-Z][\w .,()-]{8,46}", title), "a file name that every system takes"
        assert templates.drawn(name).exists() and templates.drawn(name, ".jpg").exists(), title
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files == {templates.drawn(name, end).name for name in NAMES for end in (".json", ".jpg")}


def test_texts_name_templates_by_their_titles():
    """A template is listed under its title, so no text of the pack calls it by the name of its source."""
    titles = {templates.title(name) for name in NAMES}
    known = "|".join(name for name in NAMES if name != "recipe")
    sources = re.compile(rf"(?:[`*]|example |_workflows/)(?:{known})(?:\.json)?[`*\]]")
    named = re.compile(r"\*(\d\d [A-Z][^*\n]+)\*|in the example (\d\d [^\]]+)\]")
    found = set()
    for folder in ("docs", "web/docs", "example_workflows/notes", "."):
        pages = (layout.ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
        for page in pages:
            if page.name in ("CHANGELOG.md", "CONTRIBUTING.md"):
                continue
            text = page.read_text(encoding="utf-8")
            assert not sources.findall(text), page
            found |= {first or second for first, second in named.findall(text)}
    assert len(found) > 40 and found <= titles, found - titles


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_one_note(name: str):
    notes = [node for node in template(name)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    [text] = notes[0]["widgets_values"]
    assert text.startswith("# ")
    for part in ("**Needs.** ", "**Try.** ", "**Expect.** "):
        assert text.count(part) == 1, part
    for paragraph in text.split("\n\n")[1:]:
        assert paragraph.endswith(".") and len(paragraph) > 30, paragraph
    assert not PLACEHOLDER.search(text)
    assert "IF and its T5" not in text or "https://huggingface.co/DeepFloyd/" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_two_to_four_groups_that_hold_its_nodes(name: str):
    workflow = template(name)
    groups = workflow["groups"]
    assert 2 <= len(groups) <= 4
    assert (
        len({group["title"] for group in groups}) == len({group["color"] for group in groups}) == len(groups)
    )
    for first, second in combinations(groups, 2):
        (x, y, w, h), (u, v, *_) = first["bounding"], second["bounding"]
        assert x + w <= u or y + h <= v, "the second is right of the first or below it"
    for node in workflow["nodes"]:
        x, y = node["pos"]
        holds = [
            left <= x <= left + width and top <= y <= top + height
            for left, top, width, height in (group["bounding"] for group in groups)
        ]
        assert sum(holds) == (node["type"] != "MarkdownNote"), node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_released_models_say_where_to_download_them(name: str):
    for node in template(name)["nodes"]:
        named = [
            value for value in node.get("widgets_values", []) if isinstance(value, str) and value in MODELS
        ]
        assert node["properties"].get("models", []) == [{"name": value, **MODELS[value]} for value in named]


def test_addresses_end_in_the_name_of_the_file():
    used = {
        item["name"]
        for name in NAMES
        for node in template(name)["nodes"]
        for item in node["properties"].get("models", [])
    }
    assert used == set(MODELS)
    for name, model in MODELS.items():
        assert re.fullmatch(rf"https://huggingface\.co/.+/{re.escape(name)}", model["url"])
        assert model["directory"] in ("checkpoints", "diffusion_models", "text_encoders", "vae", "loras")


def test_five_templates_to_start_with_need_no_model():
    assert [templates.title(name)[:2] for name in START] == ["01", "02", "03", "04", "05"]
    for name in START:
        kinds = {node["class_type"] for node in templates.prompt(name).values()}
        assert (
            kinds & {"BlockworkAtelierLoader", "BlockworkAtelierStages"}
            and "CheckpointLoaderSimple" not in kinds
        )


def test_two_of_them_open_in_app_mode():
    apps = [name for name in START if templates.drawn(name).name.endswith(".app.json")]
    assert len(apps) == 2 and [name for name in NAMES if templates.app(name)] == apps
    for name in apps:
        extra, prompt = template(name)["extra"], templates.prompt(name)
        assert extra["linearMode"] is True
        assert len(extra["linearData"]["inputs"]) > 2
        for node, widget in extra["linearData"]["inputs"]:
            assert not isinstance(prompt[node]["inputs"][widget], list), "a widget, not a link"
        assert [prompt[node]["class_type"] for node in extra["linearData"]["outputs"]] == ["SaveImage"]


def test_placeholder_names_only_where_no_released_file_can_be_offered():
    """IF is behind a licence; LoRAs, embeddings, merges and second models of a family are the user's own."""
    for name in NAMES:
        for node in templates.prompt(name).values():
            for value in node["inputs"].values():
                assert value not in ("sd15_a.safetensors", "sd15_b.safetensors", "sdxl_a.safetensors"), name
