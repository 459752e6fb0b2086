"""File merges on small files with the real key names: parity, determinism, policies, metadata, safety."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import sd_mecha
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import LAYOUTS
from blockwork.merge.checkpoint import FileCheckpoint
from blockwork.merge.errors import MergeError
from blockwork.merge.files import match_name, merge_files, recipe_of, replay
from blockwork.merge.methods import METHODS
from blockwork.merge.recipe import parse
from blockwork.merge.recipe_scan import RecipeError
from refhost import layout
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sd_mecha.extensions import model_configs

IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
UNET = "model.diffusion_model."
RATIOS = (0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1, -0.5, 1.5)
KEYS = json.loads(gzip.decompress((layout.ROOT / "tests/data/blocks/checkpoint_keys.json.gz").read_bytes()))


def tensors(seed: int, dtype=torch.float16, width: int = 4) -> dict[str, torch.Tensor]:
    """A checkpoint with a tensor or two per block."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g).to(dtype)

    found = {UNET + "input_blocks.0.0.weight": draw(320, width, 3, 3)}
    for number in range(1, 12):
        found[UNET + f"input_blocks.{number}.1.transformer_blocks.0.attn2.to_q.weight"] = draw(48, 64)
    for number in range(12):
        found[UNET + f"output_blocks.{number}.0.in_layers.2.weight"] = draw(16, 32, 3, 3)
        found[UNET + f"output_blocks.{number}.0.in_layers.2.bias"] = draw(16)
    found[UNET + "middle_block.1.proj_in.weight"] = draw(200, 300)
    found[UNET + "time_embed.0.weight"] = draw(64, 32)
    found[UNET + "out.2.weight"] = draw(4, 32, 3, 3)
    found["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = draw(300, 64)
    found["first_stage_model.decoder.conv_in.weight"] = draw(16, 4, 3, 3)
    found["model_ema.diffusion_modeloutweight"] = draw(9)
    found["model_ema.diffusion_modelout2weight"] = draw(4, 32, 3, 3)
    found["betas"] = torch.linspace(0, 1, 1000)
    found[IDS] = torch.arange(77)[None]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc", 1):
        save_file(
            tensors(seed),
            tmp_path / f"{name}.safetensors",
            metadata={"format": "pt", "author": f"maker of {name}"},
        )
    return tmp_path


def merge(folder: Path, recipe: str, name: str = "out", **kwargs) -> dict[str, torch.Tensor]:
    return load_file(merge_files(recipe, folder / name, folders=[folder], overwrite=True, **kwargs).path)


def same(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)


def unet(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in found.items() if key.startswith(UNET)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("kind", "config"), [("sd1", "sd1-ldm"), ("sdxl", "sdxl-sgm")])
def test_parity_with_sd_mecha(tmp_path: Path, kind: str, config: str):
    """Every key of the real layouts (small shapes), all nine ratios over the blocks, fp16 out, to the bit.

    Apart from the noise schedule and EMA copies, which sd-mecha averages and we keep.
    """
    known, g = model_configs.resolve(config).keys(), torch.Generator().manual_seed(3)
    kept = ("betas", "alphas_cumprod", "model_ema.")
    keys = [k for k in KEYS[kind] if k in known and not k.endswith("position_ids") and not k.startswith(kept)]
    for name in "abc":
        small = {key: torch.randn([min(n, 6) for n in known[key].shape], generator=g).half() for key in keys}
        save_file(small, tmp_path / f"{name}.safetensors")
    ratios = {block: RATIOS[i % len(RATIOS)] for i, block in enumerate(LAYOUTS[kind].blocks)}
    outside = {"BASE": 0.75, **({"VAE": 0.75} if kind == "sdxl" else {})}
    alpha = sd_mecha.convert(sd_mecha.literal({**outside, **ratios}, f"{kind}-supermerger_blocks"), config)
    a, b, c = (sd_mecha.model(str(tmp_path / f"{name}.safetensors")) for name in "abc")
    text = f"alpha=[{', '.join(map(repr, ratios.values()))}, BASE=0.75, VAE=0.75], key_map=mecha"
    for recipe, theirs in (
        (f"o = a + b, {text}", sd_mecha.weighted_sum(a, b, alpha=alpha)),
        (f"o = a + b + c, {text}", sd_mecha.add_difference(a, b, c, alpha=alpha)),
    ):
        sd_mecha.merge(
            theirs, output=str(tmp_path / "m.safetensors"), merge_device="cpu", merge_dtype=torch.float32,
            output_dtype=torch.float16, threads=0, check_finite_output=None,
        )  # fmt: skip
        ours, mechas = merge(tmp_path, recipe), load_file(tmp_path / "m.safetensors")
        assert mechas.keys() == ours.keys() and len(ours) > 1000
        different = [key for key in mechas if not torch.equal(ours[key], mechas[key])]
        assert not different, (recipe[:40], len(different), different[:3])


def test_each_key_gets_the_ratio_of_its_block(folder: Path):
    ratios = [0.03 * (i + 1) for i in range(25)]
    found = merge(folder, f"o = a + b, alpha=[{', '.join(map(str, ratios))}, BASE=0.9, CLIP=0.8, VAE=0.7]")
    a, b = (load_file(folder / f"{name}.safetensors") for name in "ab")
    by_block = dict(zip(LAYOUTS["sd1"].blocks, ratios, strict=True))
    for key in found:
        block = block_of(key, "sd1")
        alpha = by_block.get(block or "", 0.9)
        alpha = 0.8 if key.startswith("cond_stage") else 0.7 if key.startswith("first_stage") else alpha
        if key.startswith(("model_ema", "betas")) or key == IDS:
            alpha = 0.0
        assert torch.equal(found[key], METHODS["weighted_sum"].blend([a[key], b[key]], {"alpha": alpha})), key


def test_identity_laws(folder: Path):
    """ALL_A gives A to the byte of every tensor, ALL_B B's U-Net, and so on."""
    a, b = (load_file(folder / f"{name}.safetensors") for name in "ab")
    assert same(merge(folder, "o = a + b, alpha=ALL_A"), a)
    assert same(merge(folder, "o = a + b, 0"), a)
    assert same(merge(folder, "o = a + b, m_a=1, m_b=0, method=each"), a)
    assert same(merge(folder, "o = a + b + b, 0.7"), a)
    all_b = merge(folder, "o = a + b, alpha=ALL_B")
    assert same(unet(all_b), unet(b))
    assert same(
        {k: v for k, v in all_b.items() if k not in unet(b)}, {k: v for k, v in a.items() if k not in unet(a)}
    )
    assert same(merge(folder, "o = a + a, 0.4"), a)


def test_vae_text_encoder_and_base_are_three_ratios(folder: Path):
    """One number merges U-Net and text encoder; the VAE is A's unless VAE says otherwise."""
    a, b = (load_file(folder / f"{name}.safetensors") for name in "ab")
    text, vae = (
        next(k for k in a if k.startswith(p))
        for p in ("cond_stage_model.transformer.text_model.embeddings.t", "first_stage")
    )
    found = merge(folder, "o = a + b, 0.25")
    assert torch.equal(found[vae], a[vae]) and torch.equal(found[text], torch.lerp(a[text], b[text], 0.25))
    found = merge(folder, "o = a + b, alpha=GRAD_V")
    assert torch.equal(found[text], a[text])
    found = merge(folder, "o = a + b, alpha=[GRAD_V, BASE=0.5]")
    assert torch.equal(found[text], torch.lerp(a[text], b[text], 0.5))
    found = merge(folder, "o = a + b, alpha=[0.5, CLIP=1, VAE=1]")
    assert torch.equal(found[text], b[text]) and torch.equal(found[vae], b[vae])


@pytest.mark.parametrize("recipe", [
    "o = a + b, alpha=GRAD_V",
    "m = a + b, alpha=GRAD_V, dtype=bf16\no = __O1__ + c, alpha=[COSINE, BASE=0.3], method=each, m_a=0.5, m_b=0.6".replace("alpha=[COSINE, BASE=0.3], ", ""),
    "o = a + b + c, 0.8, method=ties, density=0.4",
    "o = a + b, 0.5, method=cosine_a",
    "o = a + b, 0.5, method=slerp, dtype=fp32",
    "o = a + b, 0.7, method=dare, drop=0.5, seed=3",
])  # fmt: skip
def test_same_bytes_whatever_threads_chunks_and_key_order(folder: Path, recipe: str):
    digests = set()
    for threads in (1, 2, 4):
        for chunk in (64, 10007, 1 << 20):
            merged = merge_files(
                recipe, folder / "o", folders=[folder], overwrite=True, threads=threads, chunk=chunk
            )
            digests.add(digest(merged.path))
    with safe_open(
        folder / "o.safetensors", "pt"
    ) as opened:  # the data section, apart from hashes in the header
        before = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    for name in "abc":  # the same tensors, written in the reverse order
        rewrite_reversed(folder / f"{name}.safetensors")
    merged = merge_files(recipe, folder / "o", folders=[folder], overwrite=True)
    assert len(digests) == 1
    assert data_section(merged.path) == data_section_of(before, merged.path)


def rewrite_reversed(path: Path) -> None:
    """Put the tensors of a file in the opposite order (safetensors' own writer would sort them back)."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata, out, body = header.pop("__metadata__", {}), {}, b""
    for key, info in sorted(header.items(), key=lambda item: -item[1]["data_offsets"][0]):
        piece = data[slice(*info["data_offsets"])]
        out[key] = {**info, "data_offsets": [len(body), len(body) + len(piece)]}
        body += piece
    text = json.dumps({"__metadata__": metadata, **out}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def data_section(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def data_section_of(found: dict[str, torch.Tensor], like: Path) -> bytes:
    header = json.loads(like.read_bytes()[8 : 8 + int.from_bytes(like.read_bytes()[:8], "little")])
    header.pop("__metadata__")
    ordered = sorted(header, key=lambda key: header[key]["data_offsets"])
    return b"".join(found[key].contiguous().view(-1).view(torch.uint8).numpy().tobytes() for key in ordered)


def test_the_file_is_aligned_and_in_safetensors_order(folder: Path):
    path = merge_files("o = a + b, 0.5, dtype=bf16", folder / "o", folders=[folder]).path
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    widths = {"I64": 8, "F32": 4, "F16": 2, "BF16": 2}
    assert length % 8 == 0
    assert all(info["data_offsets"][0] % widths[info["dtype"]] == 0 for info in header.values())
    assert len(load_file(path)) == len(tensors(1))


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", ["same", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"])
def test_dtypes(tmp_path: Path, source: torch.dtype, target: str):
    for seed, name in enumerate("ab"):
        save_file(tensors(seed, source), tmp_path / f"{name}.safetensors")
    found = merge(tmp_path, f"o = a + b, 0.25, dtype={target}")
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    kinds = {
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp8_e4m3": torch.float8_e4m3fn,
    }
    wanted = source if target == "same" else kinds.get(target, torch.float8_e5m2)
    matrix, bias = UNET + "middle_block.1.proj_in.weight", UNET + "output_blocks.0.0.in_layers.2.bias"
    exact = 0.75 * a[matrix].double() + 0.25 * b[matrix].double()
    assert found[matrix].dtype == wanted
    if wanted == torch.float32:
        assert torch.allclose(found[matrix].double(), exact, rtol=3e-7, atol=1e-7)
    else:
        wrong = (found[matrix].double() != exact.to(wanted).double()).double().mean()
        assert wrong <= (0.02 if source == torch.float32 else 0)
    assert found[bias].dtype == (source if target.startswith("fp8") else wanted)
    assert found["betas"].dtype == torch.float32 and found[IDS].dtype == torch.int64


def test_mixed_sources_and_overflow_is_told(tmp_path: Path):
    a, b = tensors(1, torch.float32), tensors(2)
    key = UNET + "middle_block.1.proj_in.weight"
    a[key][0, :3] = 1e6
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    merged = merge_files("o = a + b, 0.5, dtype=fp16", tmp_path / "o", folders=[tmp_path])
    assert load_file(merged.path)[key][0, 0].isinf()
    assert "beyond the range of float16: 3 elements in 1 tensors" in merged.report


@pytest.mark.parametrize(("method", "extra"), [("weighted_sum", ""), ("each", ""), ("add_difference", "+ c")])
def test_nine_channels_merge_in_the_first_four(tmp_path: Path, method: str, extra: str):
    key = UNET + "input_blocks.0.0.weight"
    for seed, (name, width) in enumerate({"a": 9, "b": 4, "c": 4}.items()):
        save_file(tensors(seed, width=width), tmp_path / f"{name}.safetensors")
    ratios = "m_a=0.3, m_b=0.7" if method == "each" else "alpha=0.7"
    merged = merge_files(f"o = a + b {extra}, {ratios}, method={method}", tmp_path / "o", folders=[tmp_path])
    found = load_file(merged.path)[key]
    sources = [load_file(tmp_path / f"{name}.safetensors")[key] for name in ("abc" if extra else "ab")]
    numbers = {"m_a": 0.3, "m_b": 0.7} if method == "each" else {"alpha": 0.7}
    assert torch.equal(found[:, 4:], sources[0][:, 4:])
    assert torch.equal(found[:, :4], METHODS[method].blend([s[:, :4] for s in sources], numbers))
    assert "merged in the first 4 channels" in merged.report
    with pytest.raises(MergeError, match="put the inpainting or instruct-pix2pix model first"):
        merge_files("o = b + a, 0.5", tmp_path / "o2", folders=[tmp_path])


def test_missing_extra_and_differently_shaped_keys_are_told(folder: Path):
    b = load_file(folder / "b.safetensors")
    vae = "first_stage_model.decoder.conv_in.weight"
    text = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    del b[vae]
    b[text] = b[text][:200].clone()
    b["model.diffusion_model.extra.weight"] = torch.ones(3)
    save_file(b, folder / "b.safetensors")
    merged = merge_files("o = a + b, alpha=[0.5, VAE=0.5]", folder / "o", folders=[folder])
    found, a = load_file(merged.path), load_file(folder / "a.safetensors")
    assert found.keys() == a.keys() and torch.equal(found[vae], a[vae]) and torch.equal(found[text], a[text])
    assert f"kept from A, b lacks them: 1 ({vae})" in merged.report
    assert f"the shapes differ: 1 ({text})" in merged.report
    assert "left out, only b has them: 1" in merged.report
    assert "model.diffusion_model.extra.weight" in merge(folder, "o = a + b, 0.5, extra_keys=copy")
    b[UNET + "middle_block.1.proj_in.weight"] = torch.ones(7, 7)
    save_file(b, folder / "b.safetensors")
    with pytest.raises(MergeError, match="models are of different kinds"):
        merge_files("o = a + b, 0.5", folder / "o2", folders=[folder])


def test_nan_is_an_error_or_a_stays(folder: Path):
    b, key = load_file(folder / "b.safetensors"), UNET + "middle_block.1.proj_in.weight"
    b[key][3, 5], b[key][4, 6] = float("nan"), float("inf")
    save_file(b, folder / "b.safetensors")
    for recipe in ("o = a + b, 0.5", "o = a + b, 1", "o = a + b, m_a=1, m_b=0.25, method=each"):
        with pytest.raises(MergeError, match=f"b: {key} holds NaN or infinity"):
            merge_files(recipe, folder / "o", folders=[folder])
        assert sorted(path.name for path in folder.iterdir()) == [
            "a.safetensors",
            "b.safetensors",
            "c.safetensors",
        ]
    a = load_file(folder / "a.safetensors")
    for alpha in (0.5, 1):
        merged = merge_files(
            f"o = a + b, {alpha}, nan=keep_a", folder / "o", folders=[folder], overwrite=True
        )
        found = load_file(merged.path)[key]
        assert found[3, 5] == a[key][3, 5] and found[4, 6] == a[key][4, 6] and found.isfinite().all()
        good = torch.isfinite(b[key])
        assert torch.equal(
            found[good], METHODS["weighted_sum"].blend([a[key], b[key]], {"alpha": alpha})[good]
        )
        assert "A's value kept: 2 elements" in merged.report
    assert same(merge(folder, "o = a + b, 0"), a)  # B is not even read where it has no share


@pytest.mark.parametrize("broken", [
    torch.arange(77, dtype=torch.float32)[None] * 0.9999,
    torch.arange(77, dtype=torch.float16)[None],
    torch.zeros(1, 77, dtype=torch.int64),
])  # fmt: skip
def test_position_ids_are_repaired(folder: Path, broken: torch.Tensor):
    a = load_file(folder / "a.safetensors")
    a[IDS] = broken
    save_file(a, folder / "a.safetensors")
    merged = merge_files("o = a + b, 0.5, dtype=fp16", folder / "o", folders=[folder])
    found = load_file(merged.path)[IDS]
    assert (
        found.dtype == torch.int64
        and torch.equal(found, torch.arange(77)[None])
        and "reset to 0, 1, 2" in merged.report
    )
    del a[IDS]
    position = IDS.replace("position_ids", "position_embedding.weight")
    save_file({**a, position: torch.ones(77, 8).half()}, folder / "bare.safetensors")
    assert IDS not in merge(folder, "o = bare + b, 0.5")
    assert torch.equal(merge(folder, "o = bare + b, 0.5, position_ids=reset")[IDS], torch.arange(77)[None])
    kept = merge(folder, "o = a + b, 0.5, position_ids=skip")[IDS]
    assert kept.dtype == broken.dtype and torch.equal(kept, broken)


def test_markers_ema_prune_and_baked_vae(folder: Path):
    a = load_file(folder / "a.safetensors")
    a["v_pred"], a["logit_scale"] = torch.zeros(0), torch.tensor(4.6)
    a["model_ema.diffusion_modeloutputblocks"] = torch.ones(3)
    average = "model_ema." + (UNET + "out.2.weight").removeprefix("model.").replace(".", "")
    a[average] = torch.full((4, 32, 3, 3), 0.125).half()
    save_file(a, folder / "a.safetensors")
    merged = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    found = load_file(merged.path)
    assert found["v_pred"].shape == (0,) and torch.equal(found[average], a[average])
    assert "A carries the marker v_pred, b does not" in merged.report
    assert not any(key.startswith("model_ema") for key in merge(folder, "o = a + b, 0.5, ema=drop"))
    swapped = merge(folder, "o = a + b, alpha=ALL_A, ema=swap")
    assert torch.equal(swapped[UNET + "out.2.weight"], a[average])
    pruned = merge(folder, "o = a + b, 0.5, prune=yes")
    assert (
        "v_pred" in pruned
        and "betas" not in pruned
        and not any(key.startswith("model_ema") for key in pruned)
    )
    save_file(
        {"decoder.conv_in.weight": torch.full((16, 4, 3, 3), 7.0), "encoder.x": torch.ones(2)},
        folder / "nice.safetensors",
    )
    baked = merge_files(
        "o = a + b, 0.5, dtype=fp16, vae=nice", folder / "o", folders=[folder], overwrite=True
    )
    assert (load_file(baked.path)["first_stage_model.decoder.conv_in.weight"] == 7).all()
    assert "VAE baked in from nice: 1 tensors" in baked.report


def test_lanes_feed_lanes_as_if_saved_between(folder: Path):
    """One pass over the sources equals writing the first result and merging that."""
    once = merge(folder, "m = a + b, alpha=GRAD_V, dtype=bf16\no = __O1__ + b + c, 0.6", "once")
    merge_files("m = a + b, alpha=GRAD_V, dtype=bf16", folder / "between", folders=[folder])
    assert same(once, merge(folder, "o = between + b + c, 0.6", "twice"))
    assert same(merge(folder, "m = a + b, 0.5\no = __O1__ + c, 0.5", lane=0), merge(folder, "m = a + b, 0.5"))


def test_methods_of_many_models_and_surveys(folder: Path):
    a, b, c = (load_file(folder / f"{name}.safetensors") for name in "abc")
    key = UNET + "middle_block.1.proj_in.weight"
    found = merge(folder, "o = a + b + c + a + b + c + a, 1, method=average")
    assert torch.equal(
        found[key],
        METHODS["average"].blend([a[key], b[key], c[key], a[key], b[key], c[key], a[key]], {"alpha": 1.0}),
    )
    with pytest.raises(RecipeError, match="takes 2 to 7 models"):
        parse("o = " + " + ".join("a" * 8) + ", 1, method=average")
    cosine = METHODS["cosine_a"]
    merged = [k for k in a if k.startswith((UNET, "cond")) and k != IDS]
    assert cosine.survey and cosine.conclude
    span = cosine.conclude([cosine.survey(a[k], b[k]) for k in merged])
    found = merge(folder, "o = a + b, 0.4, method=cosine_a")
    assert torch.equal(found[key], cosine.blend([a[key], b[key]], {"alpha": 0.4}, span))


def test_elemental_ratios_apply(folder: Path):
    found = merge(folder, 'o = a + b, 0.5, elemental="OUT03-OUT05:in_layers:0.25, OUT04:bias:1"')
    a, b = (load_file(folder / f"{name}.safetensors") for name in "ab")
    for number, name, alpha in (
        (2, "weight", 0.5),
        (3, "weight", 0.25),
        (4, "weight", 0.25),
        (4, "bias", 1.0),
    ):
        key = UNET + f"output_blocks.{number}.0.in_layers.2.{name}"
        assert torch.equal(found[key], METHODS["weighted_sum"].blend([a[key], b[key]], {"alpha": alpha}))


def test_metadata_tells_everything_and_no_path(folder: Path):
    recipe = f"__A__ = {folder / 'a.safetensors'}\nmix = __A__ + b, 0.5"
    merged = merge_files(recipe, folder / "sub" / "o", folders=[folder])
    told, metadata = recipe_of(merged.path)
    hashes = {name: digest(folder / f"{name}.safetensors") for name in "ab"}
    assert dict(told.pins) == {"a.safetensors": hashes["a"], "b": hashes["b"]} and told == merged.recipe
    models = json.loads(metadata["sd_merge_models"])
    assert set(models) == set(hashes.values()) and models[hashes["b"]]["name"] == "b"
    assert json.loads(metadata["sd_merge_recipe"])["primary_model_hash"] == hashes["a"]
    assert (
        metadata["blockwork_a.author"] == "maker of a"
        and metadata["modelspec.merged_from"] == "a.safetensors, b"
    )
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert json.loads(metadata["blockwork_versions"])["torch"] == torch.__version__
    head = merged.path.read_bytes()[: 8 + int.from_bytes(merged.path.read_bytes()[:8], "little")]
    assert str(folder).encode() not in head and b"/tmp" not in head


def test_sources_of_sources_are_kept(folder: Path):
    merge_files("m = a + b, 0.5", folder / "m", folders=[folder])
    merged = merge_files("o = m + b, 0.5", folder / "o", folders=[folder])
    models = json.loads(recipe_of(merged.path)[1]["sd_merge_models"])
    assert {model["name"] for model in models.values()} == {"m", "a", "b"}
    assert replay(merged.path, folder / "again", folders=[folder])[1]


def test_replay_reproduces_the_file_byte_for_byte(folder: Path):
    recipe = "m = a + b, alpha=MINE\no = __O1__ + c, 0.3, method=dare, seed=9, dtype=fp16"
    merged = merge_files(
        recipe, folder / "o", folders=[folder], own_presets={"MINE": [0.01 * i for i in range(25)]}
    )
    again, equal, words = replay(merged.path, folder / "again", folders=[folder])  # without the user's preset
    assert equal and digest(again.path) == digest(merged.path) and "byte for byte" in words
    with pytest.raises(MergeError, match="write the replay under another name"):
        replay(merged.path, merged.path, folders=[folder], overwrite=True)
    with pytest.raises(MergeError, match="carries no recipe"):
        replay(folder / "a.safetensors", folder / "again2", folders=[folder])


def test_replay_refuses_other_sources_and_sees_changed_files(folder: Path):
    merged = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    raw = bytearray(merged.path.read_bytes())
    raw[-1] ^= 1
    (folder / "changed.safetensors").write_bytes(raw)
    _, equal, words = replay(folder / "changed.safetensors", folder / "again", folders=[folder])
    assert not equal and "changed after it was merged" in words
    save_file(tensors(77), folder / "b.safetensors")
    with pytest.raises(MergeError, match="b is not the file this recipe was made with"):
        replay(merged.path, folder / "again3", folders=[folder])
    assert not (folder / "again3.safetensors").exists()


def test_an_existing_file_is_safe(folder: Path):
    first = merge_files("o = a + b, 0.5", folder / "o", folders=[folder])
    stamp = first.path.stat().st_mtime_ns
    assert "was there already" in merge_files("o = a + b, 0.5", folder / "o", folders=[folder]).report
    assert first.path.stat().st_mtime_ns == stamp
    with pytest.raises(MergeError, match="exists already and is another merge"):
        merge_files("o = a + b, 0.6", folder / "o", folders=[folder])
    for name in ("a", "link"):
        if name == "link":
            (folder / "link.safetensors").symlink_to(folder / "b.safetensors")
        with pytest.raises(MergeError, match="is the source"):
            merge_files(
                "o = a + b, 0.5",
                folder / name,
                folders=[folder],
                files={"a": folder / "a.safetensors", "b": folder / "b.safetensors"},
                overwrite=True,
            )
    assert same(load_file(folder / "a.safetensors"), tensors(1)) and same(
        load_file(folder / "b.safetensors"), tensors(2)
    )


def test_stopping_half_way_leaves_nothing(folder: Path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        merge_files("o = a + b, 0.5", folder / "o", folders=[folder], on_progress=stop)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


SLOW = """
import sys, time
sys.path.insert(0, {tools!r})
from refhost.pack import load_pack
load_pack()
from blockwork.merge import lane
from blockwork.merge.files import merge_files
{more}
read = lane.MergedCheckpoint.read
def slow(self, *args):
    print("reading", flush=True)
    time.sleep(0.02)
    return read(self, *args)
lane.MergedCheckpoint.read = slow
merge_files("o = a + b, 0.5", {out!r}, folders=[{folder!r}], threads=1)
"""


def script(folder: Path, more: str = "") -> list[str]:
    text = SLOW.format(tools=str(layout.ROOT / "tools"), out=str(folder / "o"), folder=str(folder), more=more)
    return [sys.executable, "-c", textwrap.dedent(text)]


@pytest.mark.skipif(
    not hasattr(os, "O_TMPFILE"), reason="only systems with nameless files survive SIGKILL cleanly"
)
def test_killed_half_way_leaves_nothing(folder: Path):
    process = subprocess.Popen(script(folder), stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


def test_a_full_disk_is_a_clear_error(folder: Path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))"
    done = subprocess.run(script(folder, limit), capture_output=True, text=True)
    assert "MergeError: cannot write o.safetensors (0.00 GB): File too large" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]


def test_bad_files_are_refused(folder: Path):
    raw = (folder / "b.safetensors").read_bytes()
    cases = {
        "cut": (raw[:-100], "is cut off: 100 bytes are missing"),
        "long": (raw + b"xx", "has 2 bytes too many"),
        "stub": (raw[:40], "cut off inside its header"),
        "text": (b"not a model at all, sorry", "no safetensors file"),
        "empty": (b"", "no safetensors file"),
    }
    for name, (content, told) in cases.items():
        (folder / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(MergeError, match=told):
            merge_files(f"o = a + {name}, 0.5", folder / "o", folders=[folder])
    (folder / "p.ckpt").write_bytes(b"pickle")
    with pytest.raises(MergeError, match="pickle"):
        FileCheckpoint(folder / "p.ckpt")
    a = load_file(folder / "a.safetensors")
    save_file({**a, UNET + "middle_block.1.proj_in.scale_weight": torch.ones(())}, folder / "q.safetensors")
    with pytest.raises(MergeError, match="quantised"):
        merge_files("o = q + b, 0.5", folder / "o", folders=[folder])
    save_file(
        {k: v for k, v in a.items() if "input_blocks.1" not in k and ".9." not in k},
        folder / "xl.safetensors",
    )
    with pytest.raises(MergeError, match="different architectures"):
        merge_files("o = a + xl, 0.5", folder / "o", folders=[folder])
    with pytest.raises(MergeError, match="no model called 'nowhere'"):
        merge_files("o = a + nowhere, 0.5", folder / "o", folders=[folder])
    with pytest.raises(MergeError, match="no file is bound to __X__"):
        merge_files("o = a + __X__, 0.5", folder / "o", folders=[folder])
    assert not (folder / "o.safetensors").exists()


def test_models_without_a_unet_merge_with_one_number(tmp_path: Path):
    for seed, name in enumerate("ab"):
        g = torch.Generator().manual_seed(seed)
        save_file(
            {"double_blocks.0.img_attn.qkv.weight": torch.randn(30, 10, generator=g).half()},
            tmp_path / f"{name}.safetensors",
        )
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    found = merge(tmp_path, "o = a + b, 0.3")
    key = next(iter(found))
    assert torch.equal(found[key], torch.lerp(a[key], b[key], 0.3))
    with pytest.raises(MergeError, match="one number for the whole model works on any"):
        merge(tmp_path, "o = a + b, alpha=GRAD_V")


def test_one_block_attenuation_grid_as_files(folder: Path):
    """25 files, each A with one block times 0.75 in fp32, everything else A's very bits."""
    a = load_file(folder / "a.safetensors")
    for block in LAYOUTS["sd1"].blocks:
        found = merge(folder, f"o = a, alpha={block}=0.75")
        for key, tensor in a.items():
            inside = key.startswith(UNET) and block_of(key, "sd1") == block
            assert torch.equal(found[key], (tensor.float() * 0.75).half() if inside else tensor), key
        through_each = merge(folder, f"O=each, {block[:-2]}_A_{block[-2:]}=0.75, Model_A=a, Model_B=b")
        assert same(through_each, found)


def test_names_as_recipes_write_them():
    known = ["sd15_a.safetensors", "sub/mix.safetensors", "other/mix.safetensors", "sub/only.safetensors"]
    assert match_name("sd15_a", known) == match_name("sd15_a.ckpt [abc123]", known) == known[0]
    assert match_name("only", known) == match_name("sub\\only.safetensors", known) == known[3]
    assert match_name("other/mix", known) == known[2]
    with pytest.raises(MergeError, match="could be"):
        match_name("mix", known)
