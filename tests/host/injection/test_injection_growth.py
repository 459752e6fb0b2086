"""Block growth through ComfyUI's own executor: its images, its cache, its interruption."""

import pytest
import torch
from blockwork.injection import host
from blockwork.nodes.injection import InjectIntoBlocks
from blockwork.study import host_cells
from blockwork.tests.support import executor_kit as kit
from blockwork.tests.support.injection_kit import prompt, tiny_model

NODE = "5"
SOCKETS = {
    "model": ("a", 0),
    "positive": ("a", 1),
    "prompt": ("b", 1),
    "negative": ("c", 1),
    "latent_image": ("a", 2),
    "vae": ("a", 3),
}


@pytest.fixture(scope="module", autouse=True)
def things():
    known = dict(kit.core.NODE_CLASS_MAPPINGS)
    kit.register()
    model, vae = kit.tame(tiny_model("sd1")), kit.tiny_vae()
    for seed, name in enumerate("abc", 1):
        kit.THINGS[name] = (model, prompt(seed), {"samples": torch.zeros(1, 4, 8, 8)}, vae)
    kit.THINGS["batch"] = (model, prompt(1), {"samples": torch.zeros(2, 4, 8, 8)}, vae)
    yield
    kit.THINGS.clear()
    kit.KEPT.clear()
    kit.core.NODE_CLASS_MAPPINGS.clear()
    kit.core.NODE_CLASS_MAPPINGS.update(known)


@pytest.fixture(autouse=True)
def no_images_from_another_test():
    host_cells.forget()


def growth_prompt(latent="a", **inputs):
    settings = kit.example("injection_growth")["6"]["inputs"]
    quick = {"within": "coarse", "steps": 2, "cfg": 1.0}
    links = {name: [thing, output] for name, (thing, output) in SOCKETS.items()} | {
        "latent_image": [latent, 2]
    }
    graph = {name: {"class_type": kit.GIVEN, "inputs": {"name": name}} for name in ("a", "b", "c", "batch")}
    graph[NODE] = {"class_type": "BlockworkBlockGrowth", "inputs": {**settings, **quick, **links, **inputs}}
    for output, name in enumerate(("grid", "images", "stages")):
        graph[name] = {"class_type": kit.KEEP, "inputs": {"thing": [NODE, output], "name": name}}
    return graph


def sampled(executor):
    return [node for node in executor.executed() if node and node.endswith("_sample")]


def test_stages_are_what_single_injections_give():
    executor = kit.Executor()
    assert executor.run(growth_prompt())
    images, stages = kit.KEPT["images"].clone(), kit.KEPT["stages"].splitlines()
    assert len(sampled(executor)) == len(images) == len(stages) == 7
    assert stages[0] == "none: no block" and stages[2] == "+ IN08: M00, IN08"
    assert all(not torch.equal(images[n], images[n + 1]) for n in range(6))
    model, own, latent, vae = kit.THINGS["a"]
    ready, injected = InjectIntoBlocks.execute(model, own, kit.THINGS["b"][1], "M00, IN08").result
    for conditioning, stage in ((own, 0), (injected, 2)):
        made = kit.core.KSampler().sample(
            host.prepare(ready), 1, 2, 1.0, "euler", "normal", conditioning, kit.THINGS["c"][1], latent
        )[0]
        assert torch.equal(vae.decode(made["samples"])[0], images[stage])


def test_a_stopped_growth_resumes_and_nothing_is_sampled_twice():
    executor = kit.Executor()
    assert not executor.run(growth_prompt(), stop_after=3)
    first = len(sampled(executor))
    assert executor.run(growth_prompt())
    assert 0 < len(sampled(executor)) <= 7 - (first - 1)
    executor.run(growth_prompt())
    executor.run(growth_prompt(columns=2))
    assert not sampled(executor), "also after a queue that is answered from the cache"
    executor.run(growth_prompt(order="custom", custom="M00\nIN08\nIN01"))
    assert len(sampled(executor)) == 1, "the first stages are the same prompts"


def test_batches_and_latents_of_another_scale():
    executor = kit.Executor()
    executor.run(growth_prompt("batch", order="custom", custom="M00\nup"))
    assert kit.KEPT["images"].shape[0] == 6
    kit.THINGS["scaled"] = (
        *kit.THINGS["a"][:2],
        {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 4},
        kit.THINGS["a"][3],
    )
    graph = growth_prompt("scaled", order="custom", custom="M00")
    graph["scaled"] = {"class_type": kit.GIVEN, "inputs": {"name": "scaled"}}
    executor.run(graph)
    assert kit.KEPT["images"].shape[1] == 16, (
        "16 latent pixels at a quarter are 8 at an eighth, and the VAE doubles them"
    )


def test_bad_growths_stop_before_anything_is_sampled():
    executor = kit.Executor()
    with pytest.raises(RuntimeError, match="with cross-attention"):
        executor.run(growth_prompt(order="custom", custom="M00\nIN99"))
    with pytest.raises(RuntimeError, match="no block to grow by"):
        executor.run(growth_prompt(order="custom", custom=" "))
    assert not sampled(executor)
