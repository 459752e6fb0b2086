"""What saved workflows rely on: ids, order, types and defaults of every node, and that every node is explained.

``tests/host/schemas/<node_id>.json`` is frozen. After an intended change run with BLOCKWORK_ACCEPT=1, which
rewrites the snapshots, the English locale and the list of nodes; read the diff before committing it.
"""

import asyncio
import json
import os
import re
from pathlib import Path

import blockwork
import folder_paths
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"
LIST = ROOT / "docs" / "nodes.md"
ACCEPT = os.environ.get("BLOCKWORK_ACCEPT") == "1"


def all_nodes():
    extension = asyncio.run(blockwork.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


NODES = all_nodes()


@pytest.fixture(autouse=True)
def no_model_files(monkeypatch):
    """File lists differ from machine to machine; the schema must not."""
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: [])


def frozen(node) -> dict:
    """The part of a schema that a saved workflow or API prompt depends on."""
    info = node.GET_NODE_INFO_V1()
    inputs = {
        group: {
            name: [spec[0], {k: v for k, v in (spec[1] if len(spec) > 1 else {}).items() if k != "tooltip"}]
            for name, spec in specs.items()
        }
        for group, specs in info["input"].items()
        if group != "hidden"
    }
    kept = ("name", "input_order", "output", "output_name", "output_is_list", "output_node", "category")
    return {"input": inputs, **{key: info[key] for key in kept}}


def every_input(node):
    schema = node.GET_SCHEMA()
    return list(schema.inputs or [])


@pytest.mark.parametrize("node_id", NODES)
def test_schema_is_what_saved_workflows_expect(node_id):
    path = SCHEMAS / f"{node_id}.json"
    text = json.dumps(frozen(NODES[node_id]), indent=1, default=str) + "\n"
    if ACCEPT:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"no snapshot for {node_id}: run with BLOCKWORK_ACCEPT=1"
    assert json.loads(path.read_text()) == json.loads(text)


def test_no_node_has_vanished():
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(NODES)


@pytest.mark.parametrize("node_id", NODES)
def test_node_is_explained(node_id):
    schema = NODES[node_id].GET_SCHEMA()
    assert re.fullmatch(r"Blockwork[A-Za-z0-9]+", node_id)
    assert schema.category.startswith("blockwork/")
    assert schema.display_name and schema.description and schema.search_aliases
    for entry in every_input(NODES[node_id]):
        assert entry.id.isidentifier(), entry.id
        assert entry.tooltip, f"{node_id}.{entry.id} has no tooltip"
    for output in schema.outputs:
        assert output.tooltip, f"the output {output.display_name or output.id} of {node_id} has no tooltip"
    page = ROOT / "web" / "docs" / f"{node_id}.md"
    assert page.is_file(), f"no help page {page.name}"
    text = page.read_text(encoding="utf-8")
    for entry in every_input(NODES[node_id]):
        assert f"`{entry.id}`" in text, f"{page.name} does not mention `{entry.id}`"
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert shown, f"{page.name} has no picture; tools/draw_help_pictures.py takes one"
    for picture in shown:
        assert (page.parent / picture).is_file(), f"{page.name} shows {picture}, which is not there"


def test_every_seed_takes_what_the_front_end_draws():
    for node_id, node in NODES.items():
        for entry in node.GET_SCHEMA().inputs:
            if entry.id == "seed":
                assert entry.max >= 2**53, node_id  # it draws numbers up to 2**50


def test_help_pictures_are_small():
    sizes = [path.stat().st_size for path in (ROOT / "web" / "docs").rglob("*.jpg")]
    assert sum(sizes) < 1_500_000 and max(sizes) < 120_000


def test_no_help_page_is_left_over():
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(NODES)


def english() -> dict:
    """The English locale, which says nothing that the schemas do not say."""
    locale = {}
    for node_id, node in NODES.items():
        schema = node.GET_SCHEMA()
        entry: dict = {"display_name": schema.display_name, "description": schema.description}
        entry["inputs"] = {
            i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in every_input(node)
        }
        entry["outputs"] = {
            str(number): {"name": output.display_name or output.io_type}
            | ({"tooltip": output.tooltip} if output.tooltip else {})
            for number, output in enumerate(schema.outputs or [])
        }
        locale[node_id] = entry
    return locale


def test_english_locale_is_current():
    text = json.dumps(english(), indent=1) + "\n"
    if ACCEPT:
        LOCALE.parent.mkdir(parents=True, exist_ok=True)
        LOCALE.write_text(text)
    assert json.loads(LOCALE.read_text()) == json.loads(text)


def node_list() -> str:
    """The page that lists every node, by category, with its description and a link to its help page."""
    pages = {}
    for node_id, node in NODES.items():
        schema = node.GET_SCHEMA()
        line = f"| [{schema.display_name}](../web/docs/{node_id}.md) | {schema.description} |"
        pages.setdefault(schema.category.removeprefix("blockwork/"), []).append(line)
    text = "# Nodes\n\nAll nodes by category; each name links to the help page. This page is written by `tests/host/test_contract.py`.\n"
    for category, lines in pages.items():
        text += "\n## " + category + "\n| node | what it does |\n|---|---|\n" + "\n".join(lines) + "\n"
    return text


def test_node_list_is_current():
    if ACCEPT:
        LIST.write_text(node_list(), encoding="utf-8")
    assert LIST.read_text(encoding="utf-8") == node_list()


def test_python_sources_are_ascii_and_safe_to_read_anywhere():
    for path in ROOT.rglob("*.py"):
        if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts):
            path.read_bytes().decode("ascii")
