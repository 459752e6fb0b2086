"""LoRA by block with bad files, numbers and names: a clear error, or the report names what is left out."""

import comfy.lora
import folder_paths
import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.lora import host, host_extract, host_report
from blockwork.merge.lora.host import Settings
from blockwork.nodes.lora import MergeLoRA
from blockwork.tests.host.merge.test_lora import (  # noqa: F401
    flux,
    folder,
    tensors_for,
    two_dimensional,
    weights_of,
    with_core,
)
from safetensors.torch import load_file, save_file

NAME = "x.safetensors"
NAMES = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to"


@pytest.fixture(scope="module")
def model(build):
    return build("SD15", 1)


def layers(model, kind: str = "lora") -> dict[str, torch.Tensor]:
    return tensors_for(two_dimensional(model, "lora_unet_input_blocks_4", "attn1"), model, kind)


def every_node(model):
    """What each node does with the file ``NAME``."""
    yield lambda: host.load_by_block(model, None, NAME, 1.0, 1.0, "1")
    yield lambda: host.hook_by_block(model, None, NAME, 1.0, 1.0, "1")
    yield lambda: host_report.lora_report(model, None, NAME)
    yield lambda: host_report.save_by_block(model, None, NAME, "y", "1", Settings())
    yield lambda: host_extract.merge_loras(model, None, (NAME, NAME), ("1", "1"), "y", 2, "fp16", Settings())


def replaced(suffix: str, new):
    return lambda tensors: {name: new(t) if name.endswith(suffix) else t for name, t in tensors.items()}


BROKEN = {
    "half a layer": (lambda t: {n: v for n, v in t.items() if "down" not in n}, "cannot be read as a LoRA"),
    "alpha of three": (replaced("alpha", lambda t: torch.ones(3)), "cannot be read as a LoRA"),
    "NaN": (replaced("up.weight", lambda t: t * float("nan")), "NaN or infinity"),
    "infinite alpha": (replaced("alpha", lambda t: t / 0), "NaN or infinity"),
    "two ranks": (replaced("down.weight", lambda t: t[:2].contiguous()), "of the shapes of this model"),
    "rank 0": (replaced("down.weight", lambda t: t[:0].contiguous()), "of the shapes of this model"),
    "a number for a matrix": (replaced("down.weight", lambda t: torch.tensor(1.0)), "of the shapes of this model"),
    "another width": (replaced("up.weight", lambda t: torch.cat([t, t])), "of the shapes of this model"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_layer_is_a_clear_error_in_every_node(folder, model, case):  # noqa: F811
    change, expected = BROKEN[case]
    save_file(change(layers(model)), folder / NAME)
    for use in every_node(model):
        with pytest.raises(MergeError, match=expected):
            use()
    assert not list(folder.glob("output/**/*.safetensors"))


@pytest.mark.parametrize("content", [None, b"", b"abc" * 100, b"\x08" + bytes(7) + b"not json"])
def test_a_file_that_is_not_a_lora_is_a_clear_error(folder, model, content):  # noqa: F811
    if content is not None:
        (folder / NAME).write_bytes(content)
    for use in every_node(model):
        with pytest.raises(MergeError, match=NAME):
            use()


def test_what_is_not_a_tensor_in_a_pickle_is_skipped(folder, model, monkeypatch):  # noqa: F811
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".pt"}))
    torch.save(layers(model) | {"epoch": 3}, folder / "x.pt")
    report = host.load_by_block(model, None, "x.pt", 1.0, 1.0, "1").report
    assert "IN04" in report
    torch.save([1, 2], folder / "list.pt")
    with pytest.raises(MergeError, match="cannot be read"):
        host.load_by_block(model, None, "list.pt", 1.0, 1.0, "1")


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "diff"])
def test_layers_of_another_shape_are_named_and_not_counted(folder, model, kind):  # noqa: F811
    good = layers(model, kind)
    bad = next(iter(two_dimensional(model, "lora_unet_output_blocks_5", "attn1")))
    whole = tensors_for({bad: two_dimensional(model, "lora_unet_", bad)[bad]}, model, kind)
    wide = {name: torch.cat([t, t]) if t.ndim else t for name, t in whole.items()}
    save_file(good | wide, folder / NAME)
    loaded, _, report, _ = host.load_by_block(model, None, NAME, 1.0, 1.0, "1")
    core, found = with_core(model, good, 1.0), weights_of(loaded)
    assert all(torch.equal(found[key], core[key]) for key in core)
    assert "OUT05" not in report.split("does not change")[0] and "(another shape)" in report


@pytest.mark.parametrize("strengths", [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_strength_that_is_not_finite_is_refused(folder, model, strengths):  # noqa: F811
    save_file(layers(model), folder / NAME)
    for use in (host.load_by_block, host.hook_by_block):
        with pytest.raises(MergeError, match="strength is"):
            use(model, None, NAME, *strengths, "1")


@pytest.mark.parametrize(("weights", "elemental"), [("1e300", ""), ("IN04=-1e13", ""), ("1", "IN04::1e300")])
def test_a_weight_that_overflows_is_refused(folder, model, weights, elemental):  # noqa: F811
    save_file(layers(model), folder / NAME)
    for use in (host.load_by_block, host.hook_by_block):
        with pytest.raises(MergeError, match="The weight of IN04 is"):
            use(model, None, NAME, 1.0, 1.0, weights, Settings(elemental=elemental))


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/x", "a\0b", "", ".", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(folder, model, prefix):  # noqa: F811
    save_file(layers(model), folder / NAME)
    with pytest.raises(MergeError, match="name"):
        host_report.save_by_block(model, None, NAME, prefix, "1", Settings())
    assert {path.name for path in folder.rglob("*.safetensors")} == {NAME}


def test_numbers_beyond_the_file_s_dtype_are_refused(folder, model, build):  # noqa: F811
    save_file(layers(model), folder / NAME)
    with pytest.raises(MergeError, match="too large for"):
        host_extract.merge_loras(model, None, (NAME, NAME), ("1e9", "1"), "y", 0, "fp16", Settings())
    tuned = build("SD15", 1)
    with torch.no_grad():
        tuned.model.diffusion_model.input_blocks[1][0].in_layers[2].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(MergeError, match="NaN or infinity"):
        host_extract.extract(tuned, model, "y", 4, 1.0, "fp32")
    assert not list(folder.glob("output/**/*.safetensors"))


def test_a_layer_with_a_bias_only_has_its_block_s_weight(folder, model):  # noqa: F811
    key = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.bias"
    tensors = {f"{NAMES}_out_0.diff_b": torch.ones(model.model.state_dict()[key].shape)}
    save_file(tensors, folder / NAME)
    hooks = host.hook_by_block(model, None, NAME, 1.0, 1.0, "IN04=0.5").hooks
    assert [hook.strength_model for hook in hooks.hooks] == [0.5]
    path, _ = host_report.save_by_block(model, None, NAME, "y", "IN04=0.5", Settings())
    assert torch.equal(load_file(path)[f"{NAMES}_out_0.diff_b"], 0.5 * tensors[f"{NAMES}_out_0.diff_b"])


def test_a_merge_names_what_it_leaves_out(folder, model):  # noqa: F811
    text = {f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": torch.ones(4, 4) for part in ("up", "down")}  # fmt: skip
    save_file(layers(model) | text, folder / NAME)
    _, report = host_extract.merge_loras(model, None, (NAME, NAME), ("1", "1"), "y", 0, "fp16", Settings())
    assert "are left out" in report and "lora_te_text_model" in report
    save_file(text, folder / "te.safetensors")
    with pytest.raises(MergeError, match="connect the clip"):
        host.load_by_block(model, None, "te.safetensors", 1.0, 1.0, "1")


def test_a_merge_adds_low_rank_and_full_differences_of_one_layer(folder, model):  # noqa: F811
    names = two_dimensional(model, "lora_unet_input_blocks_4", "attn1")
    low, full = tensors_for(names, model, "lora"), tensors_for(names, model, "diff", 2)
    save_file(low, folder / NAME)
    save_file(full, folder / "full.safetensors")
    path, _ = host_extract.merge_loras(
        model, None, (NAME, "full.safetensors"), ("1", "0.5"), "y", 0, "fp32", Settings()
    )
    both, base = with_core(model, load_file(path), 1.0), weights_of(model)
    first, second = with_core(model, low, 1.0), with_core(model, full, 0.5)
    for key in {key for key in both if not torch.equal(second[key], base[key])}:
        wanted = first[key] + second[key] - base[key]
        # Three float32 sums in another order.
        assert (both[key] - wanted).norm() <= 1e-6 * (base[key].norm() + wanted.norm()), key


def test_a_merge_keeps_full_differences_of_slices_and_biases_apart(folder):  # noqa: F811
    model = flux()
    state, core_names = model.model.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {})
    slices = {
        name: key
        for name, key in core_names.items()
        if name.startswith("transformer.transformer_blocks.0.attn.to_")
        and not isinstance(key, str)
        and key[1]
    }
    assert len(slices) == 3
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"{name}.diff": torch.randn(state[key[0]].narrow(*key[1]).shape, generator=generator)
        for name, key in slices.items()
    }
    tensors["diffusion_model.img_in.diff_b"] = torch.randn(
        state["diffusion_model.img_in.bias"].shape, generator=generator
    )
    save_file(tensors, folder / NAME)
    path, _ = host_extract.merge_loras(model, None, (NAME, NAME), ("1", "0"), "y", 0, "fp32", Settings())
    wanted, found = with_core(model, tensors, 1.0), with_core(model, load_file(path), 1.0)
    base = weights_of(model)
    assert sum(not torch.equal(wanted[key], base[key]) for key in base) == 2
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_merge_runs_again_when_a_file_changes(folder, model):  # noqa: F811
    save_file(layers(model), folder / NAME)
    before = MergeLoRA.fingerprint_inputs(lora_a=NAME, lora_b=NAME, weights="1", weights_b="1")
    save_file(layers(model) | {"more": torch.ones(9)}, folder / NAME)
    assert MergeLoRA.fingerprint_inputs(lora_a=NAME, lora_b=NAME, weights="1", weights_b="1") != before


def test_the_report_names_elemental_entries_without_effect(folder, model):  # noqa: F811
    save_file(layers(model), folder / NAME)
    settings = Settings(elemental="IN04:attn1:0.5, IN99:attn1:0, IN04:nonsense:0")
    for use in (host.load_by_block, host.hook_by_block):
        report = use(model, None, NAME, 1.0, 1.0, "1", settings).report
        assert "No patch matches these entries of elemental: 2, 3." in report
    assert "elemental" not in host.load_by_block(model, None, NAME, 1.0, 1.0, "1").report


@pytest.mark.parametrize("kind", ["glora", "oft", "boft", "tucker"])
def test_adapters_of_another_shape_are_named_and_the_others_loaded(folder, model, kind, caplog):  # noqa: F811
    key = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    rows, columns = model.model.state_dict()[f"{key}.weight"].shape
    wrong = {
        "glora": {f"{NAMES}_q.{part}.weight": torch.ones(rows + 1, 2) for part in ("a1", "a2", "b1", "b2")},
        "oft": {f"{NAMES}_q.oft_blocks": torch.ones(3, rows, rows)},
        "boft": {f"{NAMES}_q.oft_blocks": torch.ones(2, 3, rows, rows), f"{NAMES}_q.alpha": torch.tensor(1.0)},
        "tucker": {
            f"{NAMES}_q.lora_up.weight": torch.ones(rows, 2), f"{NAMES}_q.lora_down.weight": torch.ones(2, columns),
            f"{NAMES}_q.lora_mid.weight": torch.ones(2, 3, 3, 3),
        },
    }[kind]  # fmt: skip
    good = {
        f"{NAMES}_k.lora_up.weight": torch.ones(rows, 1),
        f"{NAMES}_k.lora_down.weight": torch.ones(1, columns),
    }
    save_file(wrong | good, folder / NAME)
    loaded, _, report, _ = host.load_by_block(model, None, NAME, 1.0, 1.0, "1")
    assert list(loaded.patches) == [key.replace("to_q", "to_k") + ".weight"]
    assert f"{key}.weight (another shape)" in report
    host_report.lora_report(model, None, NAME)
    assert "ERROR" not in caplog.text, "core was given a patch that it cannot apply"
