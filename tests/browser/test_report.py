"""Reports are shown on the nodes that write them."""

import pytest
from refhost.canvas import Canvas

pytestmark = pytest.mark.each_once

ELEMENT = "app.graph.getNodeById(id)?.widgets?.find((w) => w.type === 'BLOCKWORK_REPORT')?.element"


def test_a_report_is_shown_on_its_node(canvas: Canvas, pictures):
    report = canvas.add("BlockworkSaturationReport", (500, 60))
    for number, name in enumerate(("without", "with_threshold")):
        image = canvas.add("EmptyImage", (20, 60 + 240 * number))
        canvas.set_value(image, "color", 0xFF0000 if number else 0x808080)
        canvas.connect(image, 0, report, name)
    before = canvas.save()
    assert canvas.queue()["status"]["status_str"] == "success", (
        "the node ends a graph: nothing has to follow it"
    )
    canvas.page.wait_for_function(f"(id) => {ELEMENT}?.checkVisibility()", arg=report)
    text = canvas.page.evaluate(f"(id) => {ELEMENT}.querySelector('pre').textContent", report)
    assert "saturation" in text
    canvas.look_at(report)
    box = canvas.page.evaluate(f"(id) => {ELEMENT}.getBoundingClientRect().toJSON()", report)
    assert box["width"] > 150 and box["height"] > 60
    canvas.shot(pictures / f"report-{canvas.face}.png")
    saved = {str(node["id"]): node.get("widgets_values") or [] for node in canvas.save()["nodes"]}
    assert saved == {str(node["id"]): node.get("widgets_values") or [] for node in before["nodes"]}
