"""LoRAs in recipes: the file holds what core's loader computes from the same model and LoRA, hashes and names included."""

import comfy.lora
import comfy.sd
import folder_paths
import pytest
import torch
from blockwork.blocks.names import BlockError
from blockwork.merge.errors import MergeError
from blockwork.merge.files import host as files
from blockwork.merge.files.checkpoint import TensorCheckpoint
from blockwork.merge.files.header import Entry
from blockwork.merge.files.run import merge_files, recipe_of
from blockwork.merge.live.host import merge_models
from blockwork.merge.lora import host, host_bake, host_place
from blockwork.merge.recipe.model import Line, LoraTerm
from blockwork.tests.host.merge.test_lora import folder, tensors_for, weights_of  # noqa: F401
from blockwork.tests.support import networks, tiny
from refhost import checkpoints
from safetensors.torch import load_file, save_file

WAN = {"dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 3, "text_dim": 4096}
KLEIN = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 64, "depth": 2, "depth_single_blocks": 3}
KINDS = {"wan": ("Wan 2.1", WAN), "klein": ("Flux.2 klein 4B", KLEIN)}


@pytest.fixture
def models(folder, monkeypatch):  # noqa: F811
    """``models(kind, letter, dtype)`` writes a tiny model file and gives it as a MODEL, as core loads it."""
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(folder / "models")], {".safetensors"})
    )
    (folder / "models").mkdir()

    def make(kind: str, letter: str = "a", dtype: torch.dtype = torch.float32):
        name, changes = KINDS[kind]
        network = tiny.fill(networks.build(name, "cpu", dtype, **changes), ord(letter))
        save_file(network.state_dict(), folder / "models" / f"{letter}.safetensors")
        path = folder / "models" / f"{letter}.safetensors"
        return comfy.sd.load_diffusion_model_state_dict(load_file(path), model_options={"dtype": dtype})

    return make


def modules(model, prefix: str) -> dict:
    """Core's names in one naming for layers of two blocks, weights with two dimensions."""
    state = model.model.state_dict()
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    return {
        name: key
        for name, key in names.items()
        if name.startswith(prefix)
        and not name.endswith((".weight", "bias"))
        and getattr(state.get(host_place.tensor_name(key)), "ndim", 0) == 2
    }


def written(folder, recipe: str) -> dict[str, torch.Tensor]:  # noqa: F811
    path = files.to_file(recipe, "out", overwrite=True).path
    return {f"diffusion_model.{key}": tensor for key, tensor in load_file(path).items()}


def same(live: dict[str, torch.Tensor], file: dict[str, torch.Tensor]) -> None:
    for key, tensor in file.items():
        assert live[key].dtype == tensor.dtype and torch.equal(live[key], tensor), key


@pytest.mark.parametrize(
    ("kind", "prefix", "adapter", "dtype"),
    [
        ("wan", "diffusion_model.", "lora", torch.float32),
        ("wan", "lora_unet_", "dora", torch.bfloat16),
        ("klein", "transformer.", "diffusers", torch.float32),
        ("klein", "lora_unet_", "lokr", torch.float16),
    ],
)
def test_the_file_is_what_the_live_node_computes(folder, models, kind, prefix, adapter, dtype):  # noqa: F811
    model = models(kind, "a", dtype)
    save_file(tensors_for(modules(model, prefix), model, adapter), folder / "x.safetensors")
    text = "B01=0.5, B02=0" if kind == "wan" else "D01=0.5, S00-S01=0"
    once = host.load_by_block(model, None, "x.safetensors", 0.8, 0.8, text).model
    twice = host.load_by_block(once, None, "x.safetensors", -0.25, 0.8, "1").model
    plain, live = weights_of(model), weights_of(twice)
    assert any(not torch.equal(live[key], plain[key]) for key in live)
    same(weights_of(once), written(folder, f"out = a + lora(x, 0.8, [{text}])"))
    same(live, written(folder, f"out = a + lora(x, 0.8, [{text}]) + lora(x.safetensors, -0.25)"))
    same(plain, written(folder, "out = a + lora(x, 1, [0])"))


def test_the_model_of_a_line_is_built_once_for_all_its_loras(folder, models, monkeypatch):  # noqa: F811
    model, built, real = models("wan"), [], host_bake._model
    save_file(tensors_for(modules(model, "diffusion_model."), model, "lora"), folder / "x.safetensors")
    monkeypatch.setattr(host_bake, "_model", lambda source: built.append(source) or real(source))
    written(folder, "out = a + lora(x, 0.8) + lora(x, -0.25)")
    assert len(built) == 1


def test_a_lora_on_a_merge_is_added_before_the_one_rounding(folder, models):  # noqa: F811
    a, b = models("wan", "a", torch.float16), models("wan", "b", torch.float16)
    save_file(tensors_for(modules(a, "diffusion_model."), a, "lora"), folder / "x.safetensors")
    merged = merge_models(a, b, "0.3")[0]
    live = weights_of(host.load_by_block(merged, None, "x.safetensors", 0.8, 0.8, "B00=0").model)
    same(live, written(folder, "out = a + b + lora(x, 0.8, [B00=0]), m_b=0.3, method=each"))
    lines = "m = a + b, m_b=0.3, method=each\nout = __O1__ + lora(x, 0.8, [B00=0])"
    found = written(folder, lines)
    step = {key: tensor.abs().max() * 2e-3 for key, tensor in live.items()}  # the line between rounds to fp16
    assert all((live[key].float() - tensor.float()).abs().max() <= step[key] for key, tensor in found.items())


def test_the_recipe_runs_live_with_the_same_weights(folder, models):  # noqa: F811
    model = models("wan")
    save_file(tensors_for(modules(model, "diffusion_model."), model, "lora"), folder / "x.safetensors")
    recipe = "__L__ = x.safetensors\nout = a + lora(__L__, 0.5, weights=[B01=0])"
    loaded, clip, _, report = files.live(recipe)
    assert clip is None and "B01" in report and "x 0 " in report
    same(loaded.model.state_dict(), written(folder, recipe))


def test_the_file_keeps_the_hash_and_replays(folder, models):  # noqa: F811
    model = models("wan")
    tensors = tensors_for(modules(model, "diffusion_model."), model, "lora")
    save_file(tensors, folder / "x.safetensors")
    (folder / "output" / "diffusion_models").mkdir(parents=True)
    made = files.to_file("out = a + lora(x, 0.5)", "out")
    recipe, metadata = recipe_of(made.path)
    assert dict(recipe.pins).keys() == {"a", "lora(x)"} and metadata["blockwork_recipe"].count("pin") == 2
    assert "already exists" in files.to_file("out = a + lora(x, 0.5)", "out").report
    again, equal, _ = files.replay(
        made.path, folder / "again", resolve=files.find, loras=host_bake.Loras(), own_presets={}
    )
    assert equal and again.path.exists()
    before = files.fingerprint("out = a + lora(x, 0.5)")
    save_file(tensors | {"more": torch.ones(9)}, folder / "x.safetensors")
    assert files.fingerprint("out = a + lora(x, 0.5)") != before
    with pytest.raises(MergeError, match=r"x\S* is not the file this recipe was made with"):
        files.to_file(recipe, "other")


def test_names_are_those_that_comfyui_lists(folder, models):  # noqa: F811
    model = models("wan")
    save_file(
        tensors_for(modules(model, "diffusion_model."), model, "lora"), folder / "my, lora (v2).safetensors"
    )
    assert written(folder, 'out = a + lora("my, lora (v2)", 0.5)')
    outside = folder.parent / "outside.safetensors"
    save_file({"a": torch.ones(1)}, outside)
    for name in ("nothing", str(outside), "../outside"):
        with pytest.raises(MergeError, match="There is no LoRA called"):
            files.to_file(f"out = a + lora({name}, 0.5)", "bad")
    save_file({"lora_unet_other.lora_up.weight": torch.ones(2, 2)}, folder / "other.safetensors")
    with pytest.raises(MergeError, match="has no tensors for this model"):
        files.to_file("out = a + lora(other)", "bad")
    with pytest.raises(MergeError, match="ComfyUI is needed"):
        merge_files("out = a + lora(other)", folder / "bad", folders=[folder / "models"])
    assert not list(folder.rglob("bad*"))


def test_presets_of_the_user_are_written_out(folder, models, monkeypatch):  # noqa: F811
    model = models("wan")
    save_file(tensors_for(modules(model, "diffusion_model."), model, "lora"), folder / "x.safetensors")
    own = {"MINE": [0.5, 0.0, 1.0]}
    for module in (files, host, host_bake):
        monkeypatch.setattr(module, "own_presets", lambda: own)
    first = written(folder, "out = a + lora(x, 0.8, [MINE, B02=0.25])")
    term = recipe_of(next(folder.rglob("out.safetensors")))[0].lines[0].loras[0]
    assert term.weights == "B00=0.5, B01=0, B02=1, B02=0.25"
    own.clear()
    same(first, written(folder, f"out = a + lora(x, 0.8, [{term.weights}])"))


def test_bad_weights_are_refused_before_the_prompt_is_queued():
    for weights in ("NO_PRESET", "MIDD, 0.5", "IN04=nan"):
        with pytest.raises(BlockError):
            files.check_recipe(f"out = a + lora(x, 0.8, [{weights}])")
    files.check_recipe("out = a + lora(x, 0.8, [MIDD, IN04=R])")


@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_text_encoders_are_found_in_the_file_s_own_names(folder, family):  # noqa: F811
    """The full-size files of both families, by their names and shapes alone: no weight is held."""
    kind = {"SD15": checkpoints.SD15, "SDXL": checkpoints.Kind("SDXL", (1, 2, 4))}[family]
    shapes = {key: tuple(tensor.shape) for key, tensor in checkpoints._shapes(kind).items()}
    source = TensorCheckpoint(
        "a", {key: Entry(torch.float32, shape) for key, shape in shapes.items()}, lambda key: None
    )
    layer = "text_model_encoder_layers_3"
    tensors = {}
    for name, size in {
        f"lora_te{'1' if family == 'SDXL' else ''}_{layer}_mlp_fc1": (3072, 768),
        **(
            {f"lora_te2_{layer}_self_attn_{letter}_proj": (1280, 1280) for letter in "qkv"}
            if family == "SDXL"
            else {}
        ),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (640, 640),
    }.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(size[0], 2)
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, size[1])
    save_file(tensors, folder / "x.safetensors")
    line = Line("out", ("a",), loras=(LoraTerm("x", 0.5, "BASE=0.5, IN04=0.25"),))
    added = host_bake.Loras().place("x", line.loras[0], line, source)
    unet = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    first = {"SD15": "cond_stage_model", "SDXL": "conditioner.embedders.0"}[family]
    fc1 = f"{first}.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    fused = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    assert set(added.keys) == {unet, fc1} | ({fused} if family == "SDXL" else set())

    def change(key: str, name: str, strength: float) -> None:
        found = added.apply(key, torch.zeros(shapes[key]))
        wanted = [
            tensors[f"{one}.lora_up.weight"] @ tensors[f"{one}.lora_down.weight"] for one in name.split()
        ]
        assert torch.equal(found, torch.cat([strength * one for one in wanted]))

    change(unet, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 0.125)
    change(fc1, f"lora_te{'1' if family == 'SDXL' else ''}_{layer}_mlp_fc1", 0.25)
    if family == "SDXL":
        change(fused, " ".join(f"lora_te2_{layer}_self_attn_{letter}_proj" for letter in "qkv"), 0.25)
