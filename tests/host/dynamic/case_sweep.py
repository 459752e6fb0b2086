"""A Block Sweep through ComfyUI's own executor, on both loading paths."""

import kit
import pytest
import torch
from blockwork.study import host_cells
from blockwork.tests.support import executor_kit


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The image of a sweep that scales blocks of one model."""
    import folder_paths

    import nodes

    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", dict(nodes.NODE_CLASS_MAPPINGS))
    folder_paths.set_temp_directory(str(tmp_path))
    executor_kit.register()

    def image() -> torch.Tensor:
        host_cells.forget()
        latent, vae = {"samples": torch.zeros(1, 4, 8, 8)}, executor_kit.tiny_vae()
        model = executor_kit.tame(kit.unet())
        executor_kit.THINGS["base"] = (model, kit.prompts(model)[0], latent, vae)
        settings = executor_kit.example("block_sweep")["5"]["inputs"]
        sockets = {"model": 0, "positive": 1, "negative": 1, "latent_image": 2, "vae": 3}
        settings |= {name: ["1", output] for name, output in sockets.items()}
        settings |= {"blocks": "IN04, OUT05", "seeds": "1", "cell_size": 32, "steps": 1, "cfg": 1.0}
        prompt = {
            "1": {"class_type": executor_kit.GIVEN, "inputs": {"name": "base"}},
            "5": {"class_type": "BlockworkBlockSweep", "inputs": settings},
            "6": {"class_type": executor_kit.KEEP, "inputs": {"thing": ["5", 0], "name": "picture"}},
        }
        executor = executor_kit.Executor()
        assert executor.run(prompt)
        assert executor.sampled() == ["unmodified_1", "IN04_0.75_1", "OUT05_0.75_1"]
        return executor_kit.KEPT.pop("picture")

    yield image
    executor_kit.THINGS.clear()


def test_both_paths_give_the_same_image(run):
    plain, dynamic = kit.both(run)
    assert torch.equal(plain, dynamic)
