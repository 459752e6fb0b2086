"""File merges on small files with the real key names: parity, ratios, determinism, lines."""

import gzip
import json
from pathlib import Path

import pytest
import sd_mecha
import torch
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import LAYOUTS
from blockwork.merge.files.run import merge_files
from blockwork.merge.methods import METHODS
from blockwork.tests.support.merge_kit import IDS, UNET, digest, merge, same, tensors, three_files, unet
from refhost import layout
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sd_mecha.extensions import model_configs

RATIOS = (0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1, -0.5, 1.5)
KEYS = json.loads(gzip.decompress((layout.ROOT / "tests/data/blocks/checkpoint_keys.json.gz").read_bytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return three_files(tmp_path)


@pytest.mark.parametrize(("kind", "config"), [("sd1", "sd1-ldm"), ("sdxl", "sdxl-sgm")])
def test_parity_with_sd_mecha(tmp_path: Path, kind: str, config: str):
    """Every key of the real layouts (small shapes), all nine ratios over the blocks, fp16 out, to the bit.

    Apart from the noise schedule and EMA copies, which sd-mecha averages and we keep. Which ratio a key gets is
    the same for both methods, so the second is tried on a part of the keys: sd-mecha takes milliseconds for each.
    """
    known, g = model_configs.resolve(config).keys(), torch.Generator().manual_seed(3)
    kept = ("betas", "alphas_cumprod", "model_ema.")
    keys = [k for k in KEYS[kind] if k in known and not k.endswith("position_ids") and not k.startswith(kept)]
    ratios = {block: RATIOS[i % len(RATIOS)] for i, block in enumerate(LAYOUTS[kind].blocks)}
    outside = {"BASE": 0.75, **({"VAE": 0.75} if kind == "sdxl" else {})}
    alpha = sd_mecha.convert(sd_mecha.literal({**outside, **ratios}, f"{kind}-supermerger_blocks"), config)
    a, b, c = (sd_mecha.model(str(tmp_path / f"{name}.safetensors"), config) for name in "abc")
    text = f"alpha=[{', '.join(map(repr, ratios.values()))}, BASE=0.75, VAE=0.75], key_map=mecha"
    for recipe, theirs, chosen in (
        (f"o = a + b, {text}", sd_mecha.weighted_sum(a, b, alpha=alpha), keys),
        (f"o = a + b + c, {text}", sd_mecha.add_difference(a, b, c, alpha=alpha), keys[::8]),
    ):
        for name in "abc":
            small = {
                key: torch.randn([min(n, 6) for n in known[key].shape], generator=g).half() for key in chosen
            }
            save_file(small, tmp_path / f"{name}.safetensors")
        sd_mecha.merge(
            theirs, output=str(tmp_path / "m.safetensors"), merge_device="cpu", merge_dtype=torch.float32,
            output_dtype=torch.float16, threads=0, check_finite_output=None,
        )  # fmt: skip
        ours, mechas = merge(tmp_path, recipe), load_file(tmp_path / "m.safetensors")
        assert mechas.keys() == ours.keys() and len(ours) == len(chosen) > 100
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


def test_lanes_feed_lanes_as_if_saved_between(folder: Path):
    """One pass over the sources equals writing the first result and merging that."""
    once = merge(folder, "m = a + b, alpha=GRAD_V, dtype=bf16\no = __O1__ + b + c, 0.6", "once")
    merge_files("m = a + b, alpha=GRAD_V, dtype=bf16", folder / "between", folders=[folder])
    assert same(once, merge(folder, "o = between + b + c, 0.6", "twice"))
    assert same(merge(folder, "m = a + b, 0.5\no = __O1__ + c, 0.5", line=0), merge(folder, "m = a + b, 0.5"))


def test_methods_of_many_models_and_surveys(folder: Path):
    a, b, c = (load_file(folder / f"{name}.safetensors") for name in "abc")
    key = UNET + "middle_block.1.proj_in.weight"
    found = merge(folder, "o = a + b + c + a + b + c + a, 1, method=average")
    assert torch.equal(
        found[key],
        METHODS["average"].blend([a[key], b[key], c[key], a[key], b[key], c[key], a[key]], {"alpha": 1.0}),
    )
    cosine = METHODS["cosine_a"]
    merged = [k for k in a if k.startswith((UNET, "cond")) and k != IDS]
    assert cosine.survey and cosine.conclude
    span = cosine.conclude([cosine.survey(a[k], b[k]) for k in merged])
    found = merge(folder, "o = a + b, 0.4, method=cosine_a")
    assert torch.equal(found[key], cosine.blend([a[key], b[key]], {"alpha": 0.4}, span))


def test_elemental_ratios_apply(folder: Path):
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(merge(folder, 'o = a + b, 0.5, elemental="::1"')[vae], tensors(1)[vae])
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
