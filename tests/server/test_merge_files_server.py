"""The file nodes and recipes over the API of a headless ComfyUI."""

import json
from pathlib import Path

import pytest
from refhost import layout
from refhost.client import Client, PromptFailed, PromptRefused
from safetensors.torch import load_file

EXAMPLES = layout.ROOT / "example_workflows" / "api"
MERGES = layout.TESTS_BASE / "output" / "checkpoints" / "merges"


@pytest.fixture(scope="module", autouse=True)
def fresh(server):
    for path in MERGES.glob("*.safetensors") if MERGES.is_dir() else []:
        path.unlink()


def example(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def shown(client: Client, prompt: dict) -> str:
    return "\n".join(text for texts in client.texts(client.run(prompt)).values() for text in texts)


def test_merge_to_file_writes_a_checkpoint_that_a_loader_lists(client: Client):
    words = shown(client, example("merge_file"))
    assert "merged" in words and "pin v1-5-pruned-emaonly-fp16.safetensors = " in words
    listed = client.get("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"]["input"]["required"]
    assert "merges/example_merge.safetensors" in str(listed["ckpt_name"])
    merged = load_file(MERGES / "example_merge.safetensors")
    a = load_file(layout.TESTS_BASE / "models" / "checkpoints" / "sd15_a.safetensors")
    assert merged.keys() == a.keys()


def test_a_recipe_runs_live_to_a_picture(client: Client):
    entry = client.run(example("recipe"))
    assert len(client.images(entry)) == 1
    assert "final: " in str(client.texts(entry))


def test_a_saved_recipe_paints_the_picture_of_the_live_one(client: Client):
    """Preview first, save, load the file: the two pictures are the same to the byte."""
    live = client.images(client.run(example("recipe")))
    client.run(example("recipe_file"))
    loaded = example("recipe")
    del loaded["8"]
    loaded["1"] = {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "merges/example_recipe.safetensors"},
    }
    assert _pixels(client.images(client.run(loaded))[0]) == _pixels(live[0])


def test_a_file_replays_byte_for_byte(client: Client):
    client.run(example("recipe_file"))
    words = shown(client, example("recipe_replay"))
    assert "byte for byte" in words and "pin sd15_c = " in words
    again = MERGES / "example_replayed.safetensors"
    assert again.read_bytes() == (MERGES / "example_recipe.safetensors").read_bytes()


def test_the_recipe_of_a_merge_is_found(client: Client):
    """The example finds GRAD_V in the file of the example merge_file, and its recipe makes that file's weights again."""
    client.run(example("merge_file"))
    entry = client.run(example("find_recipe"))
    assert len(client.images(entry)) == 2  # on the node itself and in Preview Image
    words = str(client.texts(entry))
    assert "within rounding" in words and "0.9167" in words
    merged, again = (load_file(MERGES / f"example_{name}.safetensors") for name in ("merge", "found"))
    for key, tensor in merged.items():
        if tensor.is_floating_point():
            limit = 2**-10 * float(tensor.abs().max()) + 1e-4
            assert float((again[key].float() - tensor.float()).abs().max()) <= limit, key


@pytest.mark.parametrize("name", ["merge_file_compare", "merge_compare_models"])
def test_comparisons_show_a_table_and_a_picture(client: Client, name: str):
    entry = client.run(example(name))
    assert len(client.images(entry)) == 2  # on the node itself and in Preview Image
    table = str(client.texts(entry))
    assert "cosine" in table and "OUT11" in table


def test_a_queue_repeated_is_not_merged_again(client: Client):
    client.run(example("merge_file"))
    before = (MERGES / "example_merge.safetensors").stat().st_mtime_ns
    client.run(example("merge_file"))
    assert (MERGES / "example_merge.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "../outside"}, "Invalid output name"),
        ({"name": ""}, "Invalid output name"),
        ({"weights": "1, 2, 3"}, "3 weights are given"),
        ({"weights": "NO_SUCH"}, "Unknown preset"),
        ({"method": "add_difference"}, "takes 3 models, 2 are given"),
        ({"options": "gamma=2"}, "Cannot read 'gamma=2' in options"),
        ({"elemental": "OUT03:0.5"}, "Blocks:Elements:Ratio"),
    ],
)
def test_a_hostile_user_is_told_what_is_wrong(client: Client, changes: dict, told: str):
    prompt = example("merge_file")
    prompt["1"]["inputs"].update({"name": "merges/never", **changes})
    with pytest.raises((PromptFailed, PromptRefused), match=told):
        client.run(prompt)
    assert not list(MERGES.glob("never*")) and not list(MERGES.glob(".*.part"))


def _pixels(png: bytes) -> bytes:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(png)).tobytes()


def test_no_path_of_this_machine_is_stored(client: Client):
    client.run(example("recipe_file"))
    head = (MERGES / "example_recipe.safetensors").open("rb").read(1 << 16)
    assert str(Path(layout.ROOT)).encode() not in head
