"""The workflows drawn for the canvas are those of the committed prompts and schemas."""

import draw_workflows
from refhost.client import Client


def test_drawn_workflows_are_current(client: Client):
    wanted = draw_workflows.drawings(client.get("/object_info"))
    assert wanted
    assert draw_workflows.stale(wanted) == [], "run tools/draw_workflows.py and commit what it writes"
