"""Whole sweeps through ComfyUI's own executor on tiny models: its cache, its progress, interruption, SDXL."""

import folder_paths
import pytest
import torch
from blockwork.study import host_cells
from blockwork.study.sweep import parse_sweep
from blockwork.tests.support import executor_kit as kit

SWEEP = "5"
CELLS = ("unmodified", "IN04_0.75", "M00_0.75", "OUT04_0.75")


@pytest.fixture(scope="module", autouse=True)
def things(build, tmp_path_factory):
    known, temp = dict(kit.core.NODE_CLASS_MAPPINGS), folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    kit.register()
    generator = torch.Generator().manual_seed(0)

    def conditioning(width, pooled):
        text = torch.randn(1, 77, width, generator=generator)
        return [[text, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]

    latent, vae = {"samples": torch.zeros(1, 4, 16, 16)}, kit.tiny_vae()
    sdxl = build("SDXL", 1, adm_in_channels=1536 + 64)
    kit.THINGS["sd1"] = (kit.tame(build("SD15", 1)), conditioning(768, 768), latent, vae)
    kit.THINGS["sdxl"] = (kit.tame(sdxl), conditioning(64, 64), latent, vae)
    yield
    kit.THINGS.clear()
    kit.KEPT.clear()
    kit.core.NODE_CLASS_MAPPINGS.clear()
    kit.core.NODE_CLASS_MAPPINGS.update(known)
    folder_paths.set_temp_directory(temp)


@pytest.fixture(autouse=True)
def no_images_from_another_test():
    host_cells.forget()


def sweep_prompt(model="sd1", **inputs):
    """The example workflow's sweep, on a tiny model."""
    settings = kit.example("block_sweep")[SWEEP]["inputs"]
    sockets = {"model": 0, "positive": 1, "negative": 1, "latent_image": 2, "vae": 3}
    settings |= {name: ["1", output] for name, output in sockets.items()}
    quick = {"blocks": "IN04, M00, OUT04", "seeds": "1, 2", "cell_size": 32, "steps": 2, "cfg": 1.0}
    prompt = {
        "1": {"class_type": kit.GIVEN, "inputs": {"name": model}},
        SWEEP: {"class_type": "BlockworkBlockSweep", "inputs": {**settings, **quick, **inputs}},
    }
    for output, name in enumerate(("picture", "plot", "report")):
        prompt[name] = {"class_type": kit.KEEP, "inputs": {"thing": [SWEEP, output], "name": name}}
    return prompt


def pictures(cells, seeds):
    return [f"{cell}_{seed}" for cell in cells for seed in seeds]


@pytest.mark.parametrize("model, number", [("sd1", 25), ("sdxl", 19)])
def test_a_whole_study_with_progress(model, number):
    """Every block once, each moves the picture, and the front-end is told of every picture done."""
    executor = kit.Executor()
    assert executor.run(sweep_prompt(model, blocks="ALL", seeds="1"))
    names = [cell.name for cell in parse_sweep(model, "ALL", "0.75", "1").cells]
    assert len(names) == number + 1 and executor.sampled() == pictures(names, [1])
    lines = kit.KEPT["report"].splitlines()[2:]
    assert len(lines) == number and all(float(line.split()[-1]) > 0 for line in lines)

    states = executor.progress()
    done = [
        sum(
            s["state"] == "finished" and s["display_node_id"] == SWEEP
            for n, s in nodes.items()
            if n.endswith("_decode")
        )
        for nodes in states
    ]
    assert done == sorted(done) and set(done) == set(range(number + 2))
    sampler = next(node for node in executor.executed() if node.endswith(f"{names[-1]}_1_sample"))
    steps = [(nodes[sampler]["value"], nodes[sampler]["max"]) for nodes in states if sampler in nodes]
    assert (
        steps == sorted(steps, key=lambda step: step[0] / step[1]) and (1, 2) in steps and steps[-1] == (2, 2)
    )


def test_again_nothing_is_sampled_and_what_is_added_is_all_that_is():
    executor = kit.Executor()
    assert executor.run(sweep_prompt()) and executor.sampled() == pictures(CELLS, [1, 2])
    first = kit.KEPT["picture"]
    executor.run(sweep_prompt(blocks="IN04, M00, OUT04, OUT11", seeds="1, 2, 3"))
    assert sorted(executor.sampled()) == sorted([*pictures(CELLS, [3]), *pictures(["OUT11_0.75"], [1, 2, 3])])
    executor.run(sweep_prompt(blocks="IN04, M00, OUT04, OUT11", seeds="1, 2, 3"))
    assert executor.executed() == []
    told = [
        data["output"]
        for event, data in executor.messages
        if event == "executed" and data["display_node"] == SWEEP
    ]
    assert [len(one["blockwork_sweep"][0]["cells"]) for one in told] == [5], (
        "the view comes from the cache too"
    )
    again = kit.KEPT["picture"]
    executor.run(sweep_prompt(blocks="IN04, M00, OUT04, OUT11", seeds="1, 2, 3", cell_size=33))
    assert executor.sampled() == [] and kit.KEPT["picture"].shape != again.shape
    executor.run(sweep_prompt())
    assert executor.sampled() == [] and torch.equal(kit.KEPT["picture"], first)


def test_a_stopped_sweep_goes_on_where_it_stopped():
    executor, prompt = kit.Executor(), sweep_prompt()
    assert not executor.run(prompt, stop_after=3)
    assert executor.sampled() == pictures(CELLS, [1, 2])[:4]
    assert executor.run(prompt) and executor.sampled() == pictures(CELLS, [1, 2])[3:]
    stopped = kit.KEPT["picture"]
    assert kit.Executor().run(prompt) and torch.equal(kit.KEPT["picture"], stopped)


def test_another_workflow_in_between_does_not_lose_the_images():
    """Images sampled after another workflow, for the same sweep again, and for one block more."""
    executor = kit.Executor()
    executor.run(sweep_prompt(blocks="IN04", seeds="1"))
    executor.run(sweep_prompt("sdxl", blocks="M00", seeds="7"))
    found = []
    for blocks in ("IN04", "IN04", "IN04, OUT11"):
        executor.run(sweep_prompt(blocks=blocks, seeds="1"))
        found.append(len(executor.sampled()))
    assert found == [0, 0, 1]


def test_a_sweep_samples_as_a_ksampler_and_as_samplercustom_do():
    """The unmodified cell is the user's own KSampler's picture; a SAMPLER with SIGMAS gives the same again."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustom

    kit.core.NODE_CLASS_MAPPINGS |= {
        n.GET_SCHEMA().node_id: n for n in (BasicScheduler, KSamplerSelect, SamplerCustom)
    }
    prompt = sweep_prompt(sampler_name="euler", blocks="IN04", seeds="7")
    names = (
        "model",
        "positive",
        "negative",
        "latent_image",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "denoise",
    )
    settings = {name: prompt[SWEEP]["inputs"][name] for name in names}
    prompt["20"] = {"class_type": "KSampler", "inputs": {**settings, "seed": 7}}
    prompt["21"] = {"class_type": "VAEDecode", "inputs": {"samples": ["20", 0], "vae": ["1", 3]}}
    prompt["alone"] = {"class_type": kit.KEEP, "inputs": {"thing": ["21", 0], "name": "alone"}}
    executor = kit.Executor()
    executor.run(prompt)
    grid = kit.KEPT["picture"][0]
    alone = (kit.KEPT["alone"][0].clamp(0, 1) * 255).to(torch.uint8) / 255
    assert any(
        torch.equal(grid[y : y + 32, x : x + 32], alone)
        for y, x in (grid[: 1 - 32, : 1 - 32] == alone[0, 0]).all(dim=-1).nonzero().tolist()
    )

    prompt["22"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    sigmas = {"model": ["1", 0], "scheduler": "normal", "steps": 2, "denoise": 1.0}
    prompt["23"] = {"class_type": "BasicScheduler", "inputs": sigmas}
    prompt[SWEEP]["inputs"] |= {"sampler": ["22", 0], "sigmas": ["23", 0], "steps": 17}
    executor.run(prompt)
    assert torch.equal(kit.KEPT["picture"][0], grid) and any("IN04" in name for name in executor.sampled())


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"seeds": "one"}, "'one' is not a seed or a range of seeds"),
        ({"blocks": "IN12"}, "Unknown block 'IN12' for sd1"),
        ({"ratios": "0.5, 0.5"}, "is given twice"),
        ({"share_a": "0.5"}, "Connect model_b"),
        ({"page": "../x"}, "not a name for a file"),
        ({"page": "x" * 300}, "not a name for a file"),
    ],
)
def test_bad_sweeps_stop_before_anything_is_sampled(inputs, message):
    executor = kit.Executor()
    with pytest.raises(RuntimeError, match=message):
        executor.run(sweep_prompt(**inputs))
    assert executor.sampled() == []
