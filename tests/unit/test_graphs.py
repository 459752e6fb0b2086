"""The layout of example workflows: links, widgets, places."""

import json
from typing import Any

import pytest
from refhost.graphs import GraphError, draw, inputs_of, widget_values

SCHEMAS: dict[str, Any] = {
    "Load": {
        "input": {"required": {"name": [["a", "b"], {}]}},
        "output": ["MODEL", "CLIP"],
        "output_name": ["MODEL", "CLIP"],
        "display_name": "Load",
    },
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "cfg": ["FLOAT", {"default": 7.0}],
            },
            "optional": {
                "weights": ["STRING", {"default": "0", "widgetType": "BLOCKWORK_WEIGHTS"}],
                "text": ["STRING", {"forceInput": True}],
                "mode": ["COMBO", {"options": ["x", "y"]}],
            },
        },
        "input_order": {"required": ["model", "seed", "cfg"], "optional": ["text", "mode", "weights"]},
        "output": ["LATENT"],
        "output_name": ["LATENT"],
        "display_name": "Sample",
    },
    "Text": {"input": {}, "output": ["STRING"], "output_name": ["STRING"], "display_name": "Text"},
}
PROMPT: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"name": "b"}, "_meta": {"title": "Model A"}},
    "2": {"class_type": "Load", "inputs": {"name": "a"}, "_meta": {"title": "Load"}},
    "5": {"class_type": "Text", "inputs": {}},
    "3": {"class_type": "Sample", "inputs": {"model": ["1", 0], "seed": 7, "weights": ["5", 0]}},
    "4": {"class_type": "Sample", "inputs": {"model": ["2", 0], "text": ["5", 0], "mode": "y"}},
}


def test_inputs_come_in_the_front_end_s_order():
    assert [(item.name, item.widget) for item in inputs_of(SCHEMAS["Sample"])] == [
        ("model", None), ("seed", "INT"), ("cfg", "FLOAT"), ("text", None), ("mode", "COMBO"),
        ("weights", "BLOCKWORK_WEIGHTS"),
    ]  # fmt: skip


def test_widget_values_by_position_with_the_seed_s_control():
    inputs = inputs_of(SCHEMAS["Sample"])
    assert widget_values(inputs, {"seed": 7, "weights": "1"}) == [7, "fixed", 7.0, "x", "1"]
    assert widget_values(inputs, {"weights": ["5", 0], "mode": "y"}) == [0, "fixed", 7.0, "y", "0"]


def test_links_agree_on_both_ends():
    workflow = draw("w", PROMPT, SCHEMAS)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(workflow["links"]) == 4
    for link, source, out, target, slot, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[source]["outputs"][out]["type"] == kind
    wired = {
        (s, o, nodes[t]["type"], nodes[t]["inputs"][i]["name"]) for _, s, o, t, i, _ in workflow["links"]
    }
    assert (5, 0, "Sample", "weights") in wired and (1, 0, "Sample", "model") in wired
    assert workflow["last_link_id"] == 4 and workflow["last_node_id"] == 5


def test_nodes_stand_left_of_what_they_feed_and_do_not_overlap():
    nodes = draw("w", PROMPT, SCHEMAS)["nodes"]
    by_id = {node["id"]: node for node in nodes}
    for source, target in ((1, 3), (2, 4), (5, 3), (5, 4)):
        assert by_id[source]["pos"][0] + by_id[source]["size"][0] < by_id[target]["pos"][0]
    for first in nodes:
        for second in nodes:
            if first is not second:
                apart = [
                    first["pos"][axis] + first["size"][axis] < second["pos"][axis]
                    or second["pos"][axis] + second["size"][axis] < first["pos"][axis]
                    for axis in (0, 1)
                ]
                assert any(apart)


def test_titles_only_where_they_say_more():
    nodes = {node["id"]: node for node in draw("w", PROMPT, SCHEMAS)["nodes"]}
    assert nodes[1]["title"] == "Model A" and "title" not in nodes[2]


def test_the_same_prompt_is_drawn_the_same():
    assert json.dumps(draw("w", PROMPT, SCHEMAS)) == json.dumps(draw("w", PROMPT, SCHEMAS))
    assert draw("w", PROMPT, SCHEMAS)["id"] != draw("v", PROMPT, SCHEMAS)["id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_type": "Gone", "inputs": {}}, "unknown type 'Gone'"),
        ({"class_type": "Load", "inputs": {"nmae": "a"}}, "no input nmae"),
        ({"class_type": "Sample", "inputs": {"model": ["9", 0]}}, "'9', which is not there"),
        ({"class_type": "Sample", "inputs": {"model": ["1", 2]}}, "output 2 of 1, which has 2"),
        ({"class_type": "Sample", "inputs": {"model": ["3", 0]}}, "circle"),
    ],
)
def test_prompts_that_do_not_fit(change: dict[str, Any], message: str):
    with pytest.raises(GraphError, match=message):
        draw("w", {**PROMPT, "3": change}, SCHEMAS)
