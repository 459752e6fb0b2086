"""The packed archive in a bare ComfyUI, without the repository: nodes, help, locales, templates, and one that runs."""

import json
import urllib.parse
from pathlib import Path

import pytest
from blockwork.tests.support.archive import ROOT, packed, unpack
from refhost.client import Client
from refhost.server import PACK, Server


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    base: Path = tmp_path_factory.mktemp("bare")
    pack = base / "custom_nodes" / PACK
    unpack(pack)
    with Server(base, with_pack=False, packs={PACK: pack}) as running:
        yield Client(running.url)


def test_the_archive_is_a_whole_installation(installed: Client, example):
    files = packed()
    known = {name for name in installed.get("/object_info") if name.startswith("Blockwork")}
    translations = installed.get("/i18n")
    for locale in ("en", "ja", "zh"):
        written = json.loads((ROOT / "locales" / locale / "nodeDefs.json").read_text(encoding="utf-8"))
        assert translations[locale]["nodeDefs"].items() >= written.items() and known == written.keys(), locale

    pages = f"/extensions/{PACK}/docs"
    for node in known:
        assert installed.get_bytes(f"{pages}/{node}.md") and installed.get_bytes(f"{pages}/{node}/ja.md")
    pictures = sorted(name for name in files if name.startswith("web/docs/pictures/"))
    for name in pictures:
        assert installed.get_bytes(f"/extensions/{PACK}/{name.removeprefix('web/')}")

    templates = installed.get("/workflow_templates")[PACK]
    drawn = {Path(name) for name in files if name.startswith("example_workflows/") and name.count("/") == 1}
    assert sorted(templates) == sorted(path.stem for path in drawn if path.suffix == ".json")
    for path in drawn:
        assert installed.get_bytes(f"/api/workflow_templates/{PACK}/{urllib.parse.quote(path.name)}")

    entry = installed.run(example("demo_merge"))
    assert installed.images(entry)
