"""One model at a time: nothing of an earlier stage is left when the next is loaded, whatever happened."""

import gc
import os
import time
import weakref
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.model_patcher
import folder_paths
import psutil
import pytest
import torch
from blockwork.cascade import host_cascade, host_files, host_load, host_memory, host_t5
from blockwork.cascade.host_cascade import Job, Stage, run_cascade
from blockwork.cascade.host_memory import Ledger, alone
from blockwork.tests.support import cascade_files

CPU = torch.device("cpu")
GIB = 1024**3


def patcher(size):
    """A loaded model of ``size`` bytes, every page of it touched."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(int(size), dtype=torch.uint8), requires_grad=False)
    return comfy.model_patcher.ModelPatcher(module, load_device=CPU, offload_device=CPU)


def resident():
    return psutil.Process().memory_info().rss


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The small cascade in a models folder that ComfyUI looks into."""
    cascade_files.make_files(tmp_path)
    for folder in ("text_encoders", "diffusion_models"):
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], {".safetensors"})
        )
    folder_paths.filename_list_cache.clear()
    yield tmp_path
    folder_paths.filename_list_cache.clear()


JOB = Job(t5=cascade_files.T5_FILE, prompt="a cat", width=16, height=16)
STAGES = [
    Stage(cascade_files.STAGE_FILES["I"], spacing="2,1"),
    Stage(cascade_files.STAGE_FILES["II"], spacing="2,1", cfg=4.0),
    Stage(cascade_files.STAGE_FILES["III"], spacing="2", cfg=4.0, scale=2.0),
]


@pytest.fixture
def witnesses(monkeypatch):
    """Weak references to every model the cascade loads, and a check at each load that none is left."""
    seen = []

    def watched(module, name):
        original = getattr(module, name)

        def load(*args, **kwargs):
            assert comfy.model_management.current_loaded_models == []
            assert [ref for ref in seen if ref() is not None] == []
            loaded = original(*args, **kwargs)
            seen.append(weakref.ref(getattr(loaded, "patcher", loaded).model))
            return loaded

        monkeypatch.setattr(host_cascade, name, load)

    watched(host_t5, "load_t5")
    watched(host_load, "prepared_stage")
    return seen


def test_the_cascade_holds_one_model_at_a_time(models, witnesses):
    result = run_cascade(JOB, STAGES)
    assert [tuple(picture.shape) for picture in result.images] == [
        (1, 3, 16, 16),
        (1, 3, 64, 64),
        (1, 3, 128, 128),
    ]
    assert len(witnesses) == 4
    assert all(ref() is None for ref in witnesses)
    assert comfy.model_management.current_loaded_models == []
    assert [entry.label for entry in result.ledger.entries] == ["T5", "stage I", "stage II", "stage III"]
    assert all(entry.weights > 0 and entry.ram_peak >= entry.ram_before for entry in result.ledger.entries)


def test_it_is_reproducible_and_follows_its_seed(models):
    first, again = (run_cascade(JOB, STAGES[:2]).images[-1] for _ in range(2))
    assert torch.equal(first, again)
    other = run_cascade(Job(t5=JOB.t5, prompt="a cat", width=16, height=16, seed=1), STAGES[:2]).images[-1]
    assert not torch.equal(first, other)


def test_t5_is_not_loaded_again_for_another_seed(models, witnesses):
    """Its states are kept by file, time stamp and text; a changed file or a new text loads it."""
    job = replace(JOB, seed=1)
    first = run_cascade(JOB, STAGES[:1])
    assert len(witnesses) == 2
    again, other = run_cascade(JOB, STAGES[:1]), run_cascade(job, STAGES[:1])
    assert len(witnesses) == 4, "T5 was loaded again"
    assert torch.equal(first.images[0], again.images[0])
    assert not torch.equal(first.images[0], other.images[0])
    assert again.ledger.text().splitlines()[0].startswith("T5: not loaded")
    run_cascade(replace(JOB, prompt="a dog"), STAGES[:1])
    assert len(witnesses) == 6
    os.utime(models / "text_encoders" / JOB.t5)
    run_cascade(JOB, STAGES[:1])
    assert len(witnesses) == 8


def test_the_settings_node_can_say_an_empty_prompt(models):
    from blockwork.nodes.cascade_whole import CascadeStage, CascadeUpscaler

    stage = CascadeStage.execute(STAGES[1].file, "2,1", 4.0, prompt="", own_prompts=True).args[0]
    assert (stage.prompt, stage.negative) == ("", "")
    stage = CascadeStage.execute(STAGES[1].file, "2,1", 4.0, prompt="").args[0]
    assert (stage.prompt, stage.negative) == (None, None)
    upscaler = CascadeUpscaler.execute("x4", 2, 9.0, own_prompts=True).args[0]
    assert (upscaler.prompt, upscaler.negative) == ("", "")
    plain, empty = (
        run_cascade(JOB, [STAGES[0], replace(STAGES[1], prompt=prompt)]).images for prompt in (None, "")
    )
    assert torch.equal(plain[0], empty[0])
    assert not torch.equal(plain[1], empty[1])


def test_vram_peak_counts_pages_that_torch_does_not(monkeypatch):
    """Dynamically loaded weights are outside torch's counters; the driver's count has them."""
    counts = iter([3, 3, 9, 5])
    monkeypatch.setattr(host_memory, "_on_cuda", lambda: True)
    monkeypatch.setattr(host_memory, "vram_in_use", lambda: next(counts, 5) * host_memory.MIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2 * host_memory.MIB)
    ledger = Ledger()
    alone(ledger, "stage", lambda: patcher(1), lambda model: time.sleep(0.3))
    assert ledger.entries[0].vram_peak == 6 * host_memory.MIB
    assert "VRAM peak 6 MiB" in ledger.text()


def test_a_stage_may_have_its_own_prompt(models):
    plain = run_cascade(JOB, STAGES[:2]).images
    changed = run_cascade(
        JOB, [STAGES[0], Stage(cascade_files.STAGE_FILES["II"], "2,1", 4.0, prompt="a dog")]
    ).images
    assert torch.equal(plain[0], changed[0])
    assert not torch.equal(plain[1], changed[1])


@pytest.mark.parametrize(
    "accident", [RuntimeError("broken"), comfy.model_management.InterruptProcessingException()]
)
def test_nothing_is_left_after_an_accident_in_the_middle_of_a_stage(models, witnesses, accident, monkeypatch):
    import latent_preview

    prepare = latent_preview.prepare_callback

    def sabotaged(model, steps, *args):
        callback = prepare(model, steps, *args)

        def fail_in_stage_two(step, x0, *rest):
            if x0.shape[-1] == 64 and step == 1:
                raise accident
            callback(step, x0, *rest)

        return fail_in_stage_two

    monkeypatch.setattr(latent_preview, "prepare_callback", sabotaged)
    with pytest.raises(type(accident)) as caught:
        run_cascade(JOB, STAGES)
    assert len(witnesses) == 3  # T5, stage I, stage II
    assert all(ref() is None for ref in witnesses), "held although the error is still being looked at"
    assert caught.value is accident
    assert comfy.model_management.current_loaded_models == []


def test_an_interrupt_between_stages(models, witnesses):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_cascade(JOB, STAGES)
    gc.collect()
    assert all(ref() is None for ref in witnesses)


@pytest.mark.parametrize("missing", ["t5", "stage", "none chosen"])
def test_missing_files_are_reported_before_anything_is_loaded(models, witnesses, missing):
    job, stages = JOB, STAGES
    if missing == "t5":
        job = Job(t5="t5xxl.safetensors", prompt="a cat")
    else:
        stages = [STAGES[0], Stage("IF-II-L.safetensors" if missing == "stage" else "")]
    with pytest.raises(FileNotFoundError) as caught:
        run_cascade(job, stages)
    words = {
        "t5": ("t5xxl.safetensors", "google/t5-v1_1-xxl", "Apache 2.0", "models/text_encoders"),
        "stage": ("IF-II-L.safetensors", "DeepFloyd IF licence", "models/diffusion_models", str(models)),
        "none chosen": ("none is in", "DeepFloyd IF licence", "models/diffusion_models"),
    }[missing]
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert witnesses == []


def test_files_are_checked_before_the_queue(models):
    assert host_files.check(host_files.STAGES, cascade_files.STAGE_FILES["I"]) is True
    assert host_files.check(host_files.STAGES, None) is True  # linked: known when it runs
    assert "DeepFloyd IF licence" in host_files.check(host_files.STAGES, "nowhere.safetensors")


def test_peak_memory_is_the_largest_models_alone():
    """Models of 256, 180 and 128 MiB, three times over, one run of them stopped by an error."""
    sizes = {"T5": 0.25, "I": 0.175, "II": 0.125}
    held: list[weakref.ref] = []

    def load(size):
        model = patcher(size * GIB)
        held.append(weakref.ref(model))
        comfy.model_management.load_models_gpu([model])
        return model

    def break_off(model):
        raise RuntimeError("broken off")

    gc.collect()
    baseline = resident()
    for number in range(3):
        ledger = Ledger()
        for label, size in sizes.items():
            assert all(ref() is None for ref in held)
            if number == 1 and label == "I":
                with pytest.raises(RuntimeError, match="broken off"):
                    alone(ledger, label, partial(load, size), break_off)
            else:
                alone(ledger, label, partial(load, size), lambda model: model.model.weight[:8].clone())
            assert comfy.model_management.current_loaded_models == []
        assert max(entry.ram_peak for entry in ledger.entries) - baseline <= 1.15 * sizes["T5"] * GIB
        assert ledger.entries[-1].ram_after - baseline <= 0.15 * sizes["T5"] * GIB
        assert [entry.weights for entry in ledger.entries] == [int(size * GIB) for size in sizes.values()]


def test_loading_a_stage_takes_its_size_once(tmp_path):
    """The weights stay the file's own pages: loading does not hold them twice."""
    from blockwork.cascade.unet_config import UNetConfig

    config = UNetConfig(
        in_channels=3, out_channels=6, widths=(256, 640), layers=(1, 1), attention=("none", "joint"),
        middle_attention="joint", time_dim=640, text_dim=64, context_dim=64, projects_text=True,
        super_resolution=False,
    )  # fmt: skip
    from safetensors.torch import save_file

    path = tmp_path / "large.safetensors"
    state_dict = cascade_files.stage_state_dict(config)
    size = sum(tensor.nbytes for tensor in state_dict.values())
    save_file(state_dict, path)
    del state_dict
    gc.collect()
    ledger = Ledger()
    alone(
        ledger,
        "stage",
        lambda: host_load.prepared_stage(str(path)),
        lambda model: [parameter.sum() for parameter in model.model.parameters()],
    )
    (entry,) = ledger.entries
    assert entry.weights == pytest.approx(size, rel=0.01)
    assert entry.ram_peak - entry.ram_before <= 1.25 * size + 32 * host_memory.MIB


def test_the_report_has_a_line_per_model():
    ledger = Ledger()
    for label, size in (("T5", 3), ("stage I", 2)):
        alone(ledger, label, lambda size=size: patcher(size * host_memory.MIB), lambda model: None)
    lines = ledger.text().splitlines()
    assert lines[0].startswith("T5: weights 3.0 MiB, RAM ")
    assert lines[-1] == "largest model T5 with 3.0 MiB; together they would be 5.0 MiB"
    assert Ledger().text() == ""
