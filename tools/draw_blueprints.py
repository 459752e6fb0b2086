"""Writes subgraphs/NAME.json, blueprints of common chains, by letting the real front-end fold an example's nodes.

A blueprint is an example workflow with all but the named nodes taken away and those folded into one subgraph.
"""

import json
import sys
from dataclasses import dataclass

from playwright.sync_api import sync_playwright
from refhost import layout, templates
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.server import Server


@dataclass(frozen=True)
class Blueprint:
    """A chain of node types out of an example workflow."""

    title: str
    example: str
    types: tuple[str, ...]


BLUEPRINTS = {
    "merge_two_checkpoints_by_block": Blueprint(
        "Merge Two Checkpoints by Block",
        "merge_by_block",
        ("BlockworkBlockWeights", "BlockworkMergeModels", "BlockworkMergeCLIP"),
    ),
}
FOLD = """([types, title]) => { const chosen = app.graph.nodes.filter((node) => types.includes(node.type));
  app.canvas.selectItems(chosen); const { subgraph, node } = app.graph.convertToSubgraph(app.canvas.selectedItems);
  subgraph.name = title; node.title = title;
  for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
  node.pos = [0, 0]; return JSON.stringify(app.graph.rootGraph?.serialize?.() ?? app.graph.serialize()); }"""


def fold(canvas: Canvas, blueprint: Blueprint) -> dict:
    """The blueprint as a workflow of one subgraph node."""
    canvas.load(json.loads(templates.drawn(blueprint.example).read_text(encoding="utf-8")))
    return json.loads(canvas.page.evaluate(FOLD, [list(blueprint.types), blueprint.title]))


def main() -> int:
    folder = layout.ROOT / "subgraphs"
    folder.mkdir(exist_ok=True)
    with Server(layout.HOST / "draw") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=list(ARGUMENTS))
        canvas = Canvas(browser, server.url).open()
        for name, blueprint in BLUEPRINTS.items():
            text = json.dumps(fold(canvas, blueprint), indent=1, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
