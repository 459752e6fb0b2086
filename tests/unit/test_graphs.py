"""The layout of example workflows: links, widgets, places."""

import json
from typing import Any

import pytest
from refhost.graphs import GraphError, draw, inputs_of, widget_values
from refhost.places import Box, arrange

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


def test_every_node_stands_in_one_group():
    workflow = draw("w", PROMPT, SCHEMAS)
    assert [group["title"] for group in workflow["groups"]] == ["Blockwork", "Sampling"]
    for node in workflow["nodes"]:
        assert sum(_inside(node, group) for group in workflow["groups"]) == 1, node["type"]


def test_a_decoded_image_that_is_sampled_again_stays_with_the_sampling():
    types = {
        "a": "KSampler",
        "b": "VAEDecode",
        "c": "VAEEncode",
        "d": "KSampler",
        "e": "VAEDecode",
        "f": "SaveImage",
    }
    boxes = {key: Box(key, kind, (300, 100)) for key, kind in types.items()}
    for source, target in ("ab", "bc", "cd", "de", "ef"):
        boxes[target].sources.append(source)
    arrange(boxes)
    assert [box.group for box in boxes.values()] == ["Sampling"] * 4 + ["Output"] * 2


def test_merged_text_encoders_come_before_the_prompts():
    types = {"a": "CheckpointLoaderSimple", "b": "BlockworkMergeCLIP", "c": "CLIPTextEncode", "d": "KSampler"}
    boxes = {key: Box(key, kind, (300, 100)) for key, kind in types.items()}
    for source, target in ("ab", "bc", "cd"):
        boxes[target].sources.append(source)
    assert [group["title"] for group in arrange(boxes)] == ["Models", "Merge", "Prompts", "Sampling"]


def test_a_note_stands_left_of_the_groups():
    workflow = draw("w", PROMPT, SCHEMAS, note="# Title\n\nText")
    note = next(node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert note["id"] == workflow["last_node_id"] == 6
    assert note["pos"][0] + note["size"][0] < min(group["bounding"][0] for group in workflow["groups"])


def test_models_are_named_on_the_node_that_loads_them():
    models = {"b": {"url": "https://example.org/b", "directory": "loras"}}
    nodes = {node["id"]: node for node in draw("w", PROMPT, SCHEMAS, models=models)["nodes"]}
    assert nodes[1]["properties"]["models"] == [{"name": "b", **models["b"]}]
    assert "models" not in nodes[2]["properties"]


def _inside(node: dict[str, Any], group: dict[str, Any]) -> bool:
    return all(
        group["bounding"][axis] < node["pos"][axis]
        and node["pos"][axis] + node["size"][axis] < group["bounding"][axis] + group["bounding"][axis + 2]
        for axis in (0, 1)
    )


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
