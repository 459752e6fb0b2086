"""File merges of models that core's own quantiser has quantised, in every format of ComfyUI."""

import json

import comfy.quant_ops
import comfy.utils
import pytest
import torch
from blockwork.merge.compare import compare
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files, replay
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.tests.support import quantised_kit as kit
from safetensors import safe_open
from safetensors.torch import load_file, save_file

EPSILON = 1e-2  # steps: float32 arithmetic against float64, where the step is smallest
DOUBLE = "double_blocks.{}.img_attn.qkv.weight"
QUANTISED = [DOUBLE.format(n) for n in range(3)] + [f"single_blocks.{n}.linear1.weight" for n in range(3)]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """A transformer of three double and three single blocks with a few tensors each."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=g) * 0.05).to(torch.bfloat16)

    found = {"img_in.weight": draw(64, 32), "final_layer.linear.weight": draw(32, 64)}
    for n in range(3):
        found[DOUBLE.format(n)] = draw(160, 128)
        found[f"double_blocks.{n}.img_attn.qkv.bias"] = draw(160)
        found[f"double_blocks.{n}.img_mlp.2.weight"] = draw(64, 64)
        found[f"single_blocks.{n}.linear1.weight"] = draw(64, 192)
        found[f"single_blocks.{n}.norm.query_norm.scale"] = draw(64)
    return found


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a", "b"), 1):
        save_file(tensors(seed), tmp_path / f"{name}.safetensors")
    return tmp_path


def put(folder, name: str, form: str, seed: int) -> dict[str, torch.Tensor]:
    """A quantised file; its state dict."""
    state = kit.quantised(tensors(seed), form, QUANTISED)
    save_file(state, folder / f"{name}.safetensors")
    return state


def run(folder, recipe: str, **more) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of the merged file, and the report."""
    merged = merge_files(recipe, folder / "out", folders=[folder], overwrite=True, **more)
    return load_file(merged.path), merged.report


@pytest.mark.parametrize("form", kit.FORMS)
def test_a_merge_is_within_half_a_step_of_the_dequantised_merge(folder, form):
    """One block weighted: its weights have new codes and scales, all others are A's byte for byte."""
    a, b = (put(folder, f"q{name}", form, seed) for seed, name in enumerate("ab", 1))
    found, report = run(folder, "o = qa + qb, alpha=[D01=0.3]")
    assert found.keys() == a.keys()
    for key in QUANTISED:
        if key.startswith("double_blocks.1."):
            exact = kit.plain(a, key) * 0.7 + kit.plain(b, key) * 0.3
            assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON
            wanted = kit.quantised({key: exact}, form, [key])  # core's quantiser, to nearest
            scale = key.removesuffix("weight") + "weight_scale"
            assert found[scale].shape == wanted[scale].shape and found[scale].dtype == wanted[scale].dtype
            same = torch.isclose(found[scale].float(), wanted[scale].float(), rtol=1e-6)
            assert float(same.float().mean()) > 0.999  # a scale of a block is rounded to float8 in turn
        else:
            assert kit.equal(kit.parts(found, key), kit.parts(a, key))
    bias = "double_blocks.1.img_attn.qkv.bias"
    assert torch.equal(found[bias], torch.lerp(a[bias].float(), b[bias].float(), 0.3).bfloat16())
    assert f"A is quantised (6 tensors {form.replace('fp8_e5m2', 'fp8_e5m2 scaled')})" in report
    assert "copied byte for byte: 5 tensors" in report and "new scales: 1 tensors" in report


def test_a_file_of_core_without_a_merge_is_the_same_file(folder):
    for form in kit.FORMS:
        a = put(folder, "qa", form, 1)
        found, _ = run(folder, "o = qa + b, 0")
        assert all(kit.equal(kit.parts(found, key), kit.parts(a, key)) for key in a)


@pytest.mark.parametrize("form", ["fp8_scaled", "int8_convrot", "nvfp4"])
def test_a_plain_file_with_a_quantised_one(folder, form):
    """The result has the form of A: bf16 with bf16, codes with codes."""
    q = put(folder, "q", form, 2)
    a = tensors(1)
    found, report = run(folder, "o = a + q, 0.25")
    assert found.keys() == a.keys() and "B is quantised" in report
    for key in QUANTISED:
        exact = torch.lerp(a[key].float(), kit.plain(q, key), 0.25)
        assert found[key].dtype == torch.bfloat16
        assert ((found[key].float() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-7).all()
    found, _ = run(folder, "o = q + a, 0.25")
    for key in QUANTISED:
        exact = torch.lerp(kit.plain(q, key), a[key].float(), 0.25)
        assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_quantised_file_in_a_plain_dtype(folder, dtype):
    a, b = put(folder, "qa", "int8_convrot", 1), put(folder, "qb", "mxfp8", 2)
    found, report = run(folder, f"o = qa + qb, 0.5, dtype={dtype}")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    assert found.keys() == tensors(1).keys() and all(value.dtype == kind for value in found.values())
    for key in QUANTISED:
        exact = (kit.plain(a, key).double() + kit.plain(b, key).double()) / 2
        error = (found[key].double() - exact).abs()
        assert (error <= exact.abs() * torch.finfo(kind).eps / 2 + 1e-7).all()
    assert f"Converted: 6 tensors int8_convrot to {str(kind).removeprefix('torch.')}" in report


@pytest.mark.parametrize("form", ["plain", "nvfp4", "fp8_scaled"])
def test_output_as_fp8_scaled(folder, form):
    """The matrices inside blocks of a plain file; of a quantised file exactly those that are quantised."""
    a = put(folder, "qa", form, 1) if form != "plain" else tensors(1)
    found, report = run(
        folder, f"o = {'a' if form == 'plain' else 'qa'} + b, alpha=[D00=0.5], dtype=fp8_scaled"
    )
    wanted = {key for key in a if key.endswith(".weight") and key[:5] in ("doubl", "singl")}
    wanted = set(QUANTISED) if form != "plain" else wanted
    assert {key for key in found if key.endswith(".comfy_quant")} == {
        key.removesuffix("weight") + "comfy_quant" for key in wanted
    }
    for key in wanted:
        values = a[key].float() if form == "plain" else kit.plain(a, key)
        exact = (
            torch.lerp(values, tensors(2)[key].float(), 0.5)
            if ".0." in key[:16] and key[0] == "d"
            else values
        )
        assert kit.stored_kind(found, key) == "float8_e4m3fn"
        assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON
        if form == "fp8_scaled" and not key.startswith("double_blocks.0."):
            assert kit.equal(kit.parts(found, key), kit.parts(a, key))
    assert found["img_in.weight"].dtype == torch.bfloat16 and "fp8_scaled" in report


def test_the_three_notations_are_read_alike(folder):
    """comfy_quant beside each weight, the metadata of all, and the older scaled_fp8 mark."""
    state = put(folder, "modern", "fp8_scaled", 1)
    bare = {key: value for key, value in state.items() if not key.endswith("comfy_quant")}
    layers = {key.removesuffix(".weight"): {"format": "float8_e4m3fn"} for key in QUANTISED}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(bare, folder / "table.safetensors", metadata=metadata)
    old = {key.replace("weight_scale", "scale_weight"): value for key, value in bare.items()}
    old |= {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    old |= {DOUBLE.format(0).removesuffix("weight") + "scale_input": torch.full((), 0.5)}
    save_file(old, folder / "old.safetensors")
    wanted, _ = run(folder, "o = modern + b, alpha=[D01=0.5, S=0.1]")
    table, _ = run(folder, "o = table + b, alpha=[D01=0.5, S=0.1]")
    assert table.keys() == wanted.keys() and all(kit.equal({"": table[k]}, {"": wanted[k]}) for k in wanted)
    found, _ = run(folder, "o = old + b, alpha=[D01=0.5, S=0.1]")
    core, _ = comfy.utils.convert_old_quants(load_file(folder / "old.safetensors"))
    assert found.keys() == core.keys()
    for key, value in found.items():
        if key.endswith("comfy_quant"):  # core's own description
            assert bytes(value.tolist()) == bytes(core[key].tolist())
        else:
            other = core[key] if key.endswith("input_scale") else wanted[key]
            assert kit.equal({"": value}, {"": other})


def test_taken_tensors_keep_the_codes_of_the_model_they_come_from(folder):
    a, b = put(folder, "qa", "int8_convrot", 1), put(folder, "qb", "int8_convrot", 2)
    found, _ = run(folder, "o = qa + qb, alpha=[D01=1]")
    for key in QUANTISED:
        assert kit.equal(kit.parts(found, key), kit.parts(b if ".1." in key and key[0] == "d" else a, key))
    other = put(folder, "qf", "fp8_scaled", 2)
    found, _ = run(folder, "o = qa + qf, alpha=[D01=1]")
    assert float(kit.off(found, QUANTISED[1], kit.plain(other, QUANTISED[1])).max()) <= 0.5 + EPSILON
    b[QUANTISED[1].removesuffix("weight") + "weight_scale"][3] = float("nan")
    save_file(b, folder / "qb.safetensors")
    with pytest.raises(MergeError, match="holds NaN"):
        run(folder, "o = qa + qb, alpha=[D01=1]")
    kept, report = run(folder, "o = qa + qb, alpha=[D01=1], nan=keep_a")
    assert "A's values kept" in report and kit.plain(kept, QUANTISED[1]).isfinite().all()


def test_lines_of_a_recipe_pass_on_unrounded_weights(folder):
    a, b = put(folder, "qa", "fp8_scaled", 1), put(folder, "qb", "nvfp4", 2)
    found, _ = run(folder, "x = qa + qb, 0.5\no = __O1__ + b, alpha=[S00-S02=0.5]")
    for key in QUANTISED:
        exact = torch.lerp(kit.plain(a, key), kit.plain(b, key), 0.5)
        if key.startswith("single"):
            exact = torch.lerp(exact, tensors(2)[key].float(), 0.5)
        assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON


def test_methods_that_read_whole_tensors(folder):
    a, b = put(folder, "qa", "mxfp8", 1), put(folder, "qb", "int8_convrot", 2)
    for key in ("a", "b"):
        state = a if key == "a" else b
        plain = {
            name: kit.plain(state, name) if name in QUANTISED else value for name, value in state.items()
        }
        save_file({k: v for k, v in plain.items() if k in tensors(1)}, folder / f"p{key}.safetensors")
    found, _ = run(folder, "o = qa + qb, 0.5, method=slerp")
    wanted, _ = run(folder, "o = pa + pb, 0.5, method=slerp")
    for key in QUANTISED:
        assert float(kit.off(found, key, wanted[key]).max()) <= 0.5 + EPSILON


def test_bytes_do_not_depend_on_threads_and_pieces(folder):
    for form in ("int8_convrot", "nvfp4", "fp8_scaled"):
        put(folder, "qa", form, 1)
        put(folder, "qb", form, 2)
        ways = [
            {"threads": 1, "chunk": 1 << 20},
            {"threads": 3, "chunk": 999},
            {"threads": 2, "chunk": 50_000},
        ]
        found = [run(folder, "o = qa + qb, 0.3", **way)[0] for way in ways]
        for other in found[1:]:
            assert all(kit.equal({"": other[key]}, {"": found[0][key]}) for key in found[0])
    merge_files("o = qa + qb, 0.3", folder / "one", folders=[folder])
    assert replay(folder / "one.safetensors", folder / "two", folders=[folder])[1]


def test_smoothed_inputs_belong_to_the_weight(folder):
    """ModelOpt's pre_quant_scale multiplies the layer's input, so that the layer's matrix is the weight times it."""
    key, states = QUANTISED[0], {}
    for seed, name in enumerate("ab", 1):
        states[name] = put(folder, f"q{name}", "nvfp4", seed)
        states[name][key.removesuffix("weight") + "pre_quant_scale"] = torch.rand(128) + 0.5
        save_file(states[name], folder / f"q{name}.safetensors")
    scales = [states[name][key.removesuffix("weight") + "pre_quant_scale"] for name in "ab"]
    exact = (kit.plain(states["a"], key) * scales[0] + kit.plain(states["b"], key) * scales[1]) / 2
    found, _ = run(folder, "o = qa + qb, 0.5")
    assert float(kit.off(found, key, exact / scales[0]).max()) <= 0.5 + EPSILON
    plain, _ = run(folder, "o = qa + qb, 0.5, dtype=fp32")
    assert torch.allclose(plain[key], exact, rtol=1e-5, atol=1e-7)


def test_comparing_files_reads_dequantised_weights(folder):
    put(folder, "qa", "int8_convrot", 1)
    files = [FileCheckpoint(folder / f"{name}.safetensors") for name in ("a", "qa", "b")]
    near, far = compare(files[0], files[1]), compare(files[0], files[2])
    assert near.blocks["D00"].relative < 0.02 < 1 < far.blocks["D00"].relative
    assert near.blocks["D00"].numel == far.blocks["D00"].numel and not near.only_b


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("layout", "format float3"),
        ("json", "not a JSON object"),
        ("scale", "format float8_e4m3fn"),
        ("codes", "format float8_e4m3fn"),
        ("experts", "format float8_e4m3fn"),
        ("group", "format int8_tensorwise"),
        ("weight", "the weight it describes is missing"),
    ],
)
def test_wrong_descriptions_are_refused_by_name(folder, what, told):
    state = put(folder, "q", "fp8_scaled", 1)
    key, stem = QUANTISED[0], QUANTISED[0].removesuffix("weight")
    description: dict[str, object] = {"format": "float8_e4m3fn"}
    if what == "layout":
        description = {"format": "float3"}
    elif what == "experts":
        description["num_experts"] = 4
    elif what == "group":
        description, state[key] = {"format": "int8_tensorwise", "convrot": True}, state[key].view(torch.int8)
    text = b"[]" if what == "json" else json.dumps(description).encode()
    state[stem + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if what == "scale":
        state[stem + "weight_scale"] = torch.ones(7)
    elif what == "codes":
        state[key] = state[key].view(torch.uint8)
    elif what == "weight":
        del state[key]
    save_file(state, folder / "q.safetensors")
    with pytest.raises(MergeError, match=f"q is quantised in a form.*{told}.*Use the fp16"):
        run(folder, "o = a + q, 0.5")


def test_every_format_of_core_is_tested():
    assert {form for form, _, _ in kit.FORMS.values()} == set(comfy.quant_ops.QUANT_ALGOS)


def test_the_result_says_what_it_is(folder):
    put(folder, "qa", "fp8_scaled", 1)
    run(folder, "o = qa + b, 0.5")
    with safe_open(folder / "out.safetensors", "pt") as file:
        assert "_quantization_metadata" not in file.metadata()
