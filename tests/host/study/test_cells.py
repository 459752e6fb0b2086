"""Images of finished cells are found again only when nothing that they are computed from has changed."""

import math
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from blockwork.study import host_cells

PART = {"5.0.0.x_decode": {"class_type": "VAEDecode", "inputs": {"samples": ["5.0.0.x_sample", 0]}}}


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Expands a sweep below a loader, and finishes it; whether its image was there before."""
    monkeypatch.setattr(
        folder_paths, "folder_names_and_paths", {"loras": ([str(tmp_path)], {".safetensors"})}
    )
    monkeypatch.setattr(host_cells, "get_executing_context", lambda: SimpleNamespace(node_id="grid"))
    host_cells.forget()

    def run(part=PART, prefix="5.0.0.", **node):
        loader = {"class_type": "Loader", "inputs": {"file": "a.safetensors"}, **node}
        prompt = SimpleNamespace(has_node=lambda name: name == "1", get_node=lambda name: loader)
        _, find = host_cells.expand(prompt, {"model": ["1", 0]}, prefix, "grid")
        found = find(part)
        host_cells.finish([torch.zeros(1, 4, 4, 3) if found is None else found])
        return found is not None

    (tmp_path / "a.safetensors").write_bytes(b"a")
    yield run, tmp_path / "a.safetensors"
    host_cells.forget()


def test_the_same_again_is_found_under_another_prefix(sweep):
    run, _ = sweep
    assert not run()
    assert run()
    renamed = {name.replace("5.0.0", "5.0.1"): {**node, "inputs": {"samples": ["5.0.1.x_sample", 0]}} for name, node in PART.items()}  # fmt: skip
    assert run(renamed, "5.0.1.")


def test_what_changed_is_sampled_again(sweep):
    run, file = sweep
    run()
    assert not run(inputs={"file": "b.safetensors"})
    assert not run(class_type="Other")
    assert not run(is_changed=[1])
    file.write_bytes(b"another")
    assert not run(), "the file has another size"
    for _ in range(2):
        assert not run(is_changed=[math.nan]), "a node that is new each time"
        assert not run(inputs={"thing": object()})


def test_the_images_stay_below_the_limit(sweep, monkeypatch):
    run, _ = sweep
    monkeypatch.setattr(host_cells, "LIMIT", 2 * 4 * 4 * 3 * 4)
    for number in range(4):
        run(inputs={"seed": number})
    assert [run(inputs={"seed": number}) for number in (3, 2, 0)] == [True, True, False]
