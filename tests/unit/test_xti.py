"""XTI files: four kinds in, one meaning; kohya's keys out; and the density of tokens among words."""

import math
from pathlib import Path

import pytest
import torch
from blockwork.blocks.walk import ModelBlocks
from blockwork.injection import density, xti
from blockwork.injection.concept import LAYERS, SD1, SDXL, SDXL_LAYERS, XTI, XTIError, layer_keys, mix
from safetensors.torch import load_file, save_file


def vectors(count: int = 2, width: int = 768, seed: int = 0) -> list[torch.Tensor]:
    """Embeddings of 16 layers, ``count width`` each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator) for _ in range(16)]


def kohya(layers):
    return dict(zip(LAYERS, layers, strict=True))


def promptplusplus(layers, name="yc"):
    return {f"<{name}-{i}-{j}>": row.clone() for i, layer in enumerate(layers) for j, row in enumerate(layer)}


def prompt_plus(layers, name="<cat>"):
    return {f"{name}-{i}": layer[0].clone() for i, layer in enumerate(layers)}


def equal(one: XTI, layers: list[torch.Tensor]) -> bool:
    return all(torch.equal(one.tokens(i), layer) for i, layer in enumerate(layers))


def test_three_kinds_of_file_say_the_same(tmp_path: Path):
    """T22: kohya (safetensors and pickle), promptplusplus and prompt-plus files of the same vectors read equal."""
    layers = vectors()
    save_file(kohya(layers), tmp_path / "kohya.safetensors")
    torch.save(kohya(layers), tmp_path / "kohya.pt")
    save_file(promptplusplus(layers), tmp_path / "yc.safetensors")
    for name in ("kohya.safetensors", "kohya.pt", "yc.safetensors"):
        assert equal(xti.load(tmp_path / name), layers)
    single = vectors(1)
    torch.save(prompt_plus(single), tmp_path / "p.bin")
    save_file(kohya(single), tmp_path / "k.safetensors")
    assert equal(xti.load(tmp_path / "p.bin"), single)
    assert equal(xti.load(tmp_path / "k.safetensors"), single)
    assert xti.load(tmp_path / "p.bin").name == "p"
    assert xti.load(tmp_path / "p.bin", "cat").name == "cat"


def test_layers_are_ordered_as_numbers():
    """T22: as text, layer 10 comes before layer 2 (and vector 10 before vector 2)."""
    layers = vectors(12, width=4)
    data = dict(sorted(promptplusplus(layers).items()))
    assert [key for key in data][1] == "<yc-0-10>"
    assert equal(xti.read(data, "yc"), layers)
    assert equal(xti.read(dict(sorted(prompt_plus(layers).items())), "cat"), [layer[:1] for layer in layers])


def test_the_common_token_stands_first():
    layers, common = vectors(1), torch.randn(768)
    one = xti.read({**promptplusplus(layers), "<yc>": common}, "yc")
    assert one.common is not None
    assert torch.equal(one.tokens(3), torch.stack([common, layers[3][0]]))


@pytest.mark.parametrize("shape", [(768,), (3, 768)])
def test_plain_textual_inversion_is_the_same_everywhere(shape):
    vector = torch.randn(shape)
    files = (
        {"string_to_param": {"*": vector}, "name": "x", "step": 5},
        {"emb_params": vector},
        {"<cat>": vector},
        {"clip_l": vector},
    )
    for data in files:
        assert equal(xti.read(data, "x"), [vector.reshape(-1, 768)] * 16)


def test_incomplete_and_foreign_files_are_errors(tmp_path: Path):
    """T22: missing layers are named, never filled in."""
    layers = vectors()
    short = kohya(layers)
    del short["MID"], short["OUT07"]
    with pytest.raises(XTIError, match="lacks the layers MID, OUT07"):
        xti.read(short, "x")
    short = promptplusplus(layers)
    del short["<yc-10-0>"], short["<yc-10-1>"]
    with pytest.raises(XTIError, match=r"lacks layer 10 of 0\.\.15"):
        xti.read(short, "x")
    short = promptplusplus(layers)
    del short["<yc-3-0>"]
    with pytest.raises(XTIError, match="vector of layer 3"):
        xti.read(short, "x")
    short = prompt_plus(layers)
    del short["<cat>-15"]
    with pytest.raises(XTIError, match="lacks layer 15"):
        xti.read(short, "x")
    with pytest.raises(XTIError, match="several concepts"):
        xti.read({**promptplusplus(layers), **promptplusplus(layers, "other")}, "x")
    with pytest.raises(XTIError, match="both clip_l and clip_g"):
        xti.read({"clip_g": torch.zeros(1, 1280)}, "x")
    with pytest.raises(XTIError, match="not a known kind"):
        xti.read({"a": torch.zeros(768), "b": torch.zeros(768)}, "x")
    with pytest.raises(XTIError, match="shape"):
        xti.read({**kohya(layers), "MID": torch.zeros(2, 3, 768)}, "x")
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(XTIError, match="cannot be read as an embedding"):
        xti.load(tmp_path / "evil.pt")


def test_save_round_trip(tmp_path: Path):
    """T22: kohya's keys out, equal in; the common token is kept; nothing is overwritten or left half-written."""
    one = xti.read({**promptplusplus(vectors(2)), "<yc>": torch.randn(768)}, "yc")
    path = tmp_path / "sub" / "yc.safetensors"
    xti.save(one, path)
    assert tuple(sorted(load_file(path))) == tuple(sorted(LAYERS))
    assert equal(xti.load(path), [one.tokens(i) for i in range(16)])
    assert xti.save(one, path) == path  # the same again writes nothing
    assert [file.name for file in path.parent.iterdir()] == ["yc.safetensors"]
    other = xti.read(kohya(vectors(1, seed=5)), "x")
    second = xti.save(other, path)
    assert second.name == "yc_00001_.safetensors"
    assert xti.save(other, path) == second and xti.save(one, path) == path
    assert equal(xti.load(path), [one.tokens(i) for i in range(16)])
    assert sorted(file.name for file in path.parent.iterdir()) == ["yc.safetensors", "yc_00001_.safetensors"]


def test_the_tokens_name_is_in_the_file(tmp_path: Path):
    one = xti.read(kohya(vectors()), "cat")
    path = xti.save(one, tmp_path / "some_file.safetensors")
    assert xti.load(path).name == "cat"
    assert xti.load(path, "dog").name == "dog"


def test_classic_files_and_names_that_end_in_a_number(tmp_path: Path):
    """A1111's own .pt (a ParameterDict) is a plain inversion, and so is a lone key ``sks-2``."""
    vector = torch.randn(1, 768)
    classic = {
        "string_to_token": {"*": 265},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(vector)}),
    }
    torch.save(classic, tmp_path / "classic.pt")
    assert equal(xti.load(tmp_path / "classic.pt"), [vector] * 16)
    assert equal(xti.read({"sks-2": vector}, "x"), [vector] * 16)
    assert not xti.is_xti({"sks-2": vector}) and not xti.is_xti({0: vector})


def test_odd_layers_are_errors():
    layers = vectors()
    with pytest.raises(XTIError, match=r"several concepts \(<cat>, <dog>\)"):
        xti.read({**prompt_plus(layers), **prompt_plus(layers, "<dog>")}, "x")
    with pytest.raises(XTIError, match="layers of different widths"):
        xti.read({**kohya(layers), "MID": torch.zeros(1, 640)}, "x")
    with pytest.raises(XTIError, match="not finite in IN04, OUT11"):
        xti.read(
            {
                **kohya(layers),
                "IN04": torch.full((1, 768), torch.nan),
                "OUT11": torch.full((1, 768), torch.inf),
            },
            "x",
        )
    wide = xti.read(kohya(vectors(width=1024)), "wide")
    with pytest.raises(XTIError, match="different text encoders"):
        mix(xti.read(kohya(layers), "x"), wide, (5,))


def test_style_mixing():
    """T22: nothing from B is A, everything from B is B, and the named layers are B's."""
    first = xti.read(kohya(vectors(seed=1)), "a")
    second = xti.read(kohya(vectors(3, seed=2)), "b")
    assert equal(mix(first, second, ()), list(first.layers))
    assert equal(mix(first, second, range(16)), list(second.layers))
    mixed = mix(first, second, (5, 6))
    for layer in range(16):
        source = second if layer in (5, 6) else first
        assert torch.equal(mixed.tokens(layer), source.tokens(layer))
    assert mixed.name == "a"
    shared = xti.read({**promptplusplus(vectors(1, seed=3)), "<yc>": torch.randn(768)}, "c")
    crossed = mix(shared, first, (0,))
    assert torch.equal(crossed.tokens(0), first.tokens(0))
    assert torch.equal(crossed.tokens(1), shared.tokens(1))


def test_which_files_other_loaders_misread():
    layers = vectors()
    assert (
        xti.is_xti(kohya(layers)) and xti.is_xti(promptplusplus(layers)) and xti.is_xti(prompt_plus(layers))
    )
    assert not xti.is_xti({"emb_params": layers[0]}) and not xti.is_xti([layers[0]])


def test_the_formats_layers_are_sd1s():
    assert isinstance(SD1, ModelBlocks)
    assert layer_keys(SD1) == LAYERS and layer_keys(SDXL) == SDXL_LAYERS
    assert len(SDXL.sub_blocks) == 70


def test_sdxl_has_a_vector_per_block_and_text_encoder(tmp_path: Path):
    """The keys of SDXL come back as written; a plain embedding is the same in all blocks; odd ones are errors."""
    generator = torch.Generator().manual_seed(0)
    small, large = (
        tuple(torch.randn(2, width, generator=generator) for _ in SDXL_LAYERS) for width in (768, 1280)
    )
    one = XTI("cat", small, large=large)
    path = xti.save(one, tmp_path / "cat.safetensors")
    assert set(load_file(path)) == {f"{e}.{layer}" for e in ("clip_l", "clip_g") for layer in SDXL_LAYERS}
    back = xti.load(path)
    assert back.widths == (768, 1280) and back.keys == SDXL_LAYERS and xti.is_xti(load_file(path))
    for layer in range(11):
        assert torch.equal(back.tokens(layer), small[layer])
        assert torch.equal(back.tokens(layer, 1), large[layer])
    plain = xti.read({"clip_l": small[0], "clip_g": large[0]}, "x")
    assert all(torch.equal(plain.tokens(n, 1), large[0]) for n in range(11))
    mixed = mix(one, plain, (3, 4))
    assert torch.equal(mixed.tokens(3, 1), large[0]) and torch.equal(mixed.tokens(5, 1), large[5])
    data = load_file(path)
    del data["clip_g.OUT03"]
    with pytest.raises(XTIError, match=r"lacks the layers clip_g\.OUT03; an XTI has all 11"):
        xti.read(data, "x")
    with pytest.raises(XTIError, match=r"another number of vectors for clip_l than for clip_g in MID"):
        xti.read({**load_file(path), "clip_l.MID": torch.zeros(1, 768)}, "x")
    with pytest.raises(XTIError, match="different text encoders"):
        mix(one, xti.read(kohya(vectors()), "y"), ())


def test_density_is_the_formula():
    """The kernel density against a sum written out, and against a grid that must integrate to one."""
    generator = torch.Generator().manual_seed(0)
    words, tokens = (
        torch.randn(50, 3, generator=generator).double(),
        torch.randn(4, 3, generator=generator).double(),
    )
    h = 0.7
    got = density.log_density(density.squared_distances(tokens, words), 3, h)
    for i, token in enumerate(tokens):
        kernels = [math.exp(-((token - word) ** 2).sum().item() / (2 * h * h)) for word in words]
        expected = math.log(sum(kernels) / len(words) / (2 * math.pi * h * h) ** 1.5)
        assert got[i].item() == pytest.approx(expected, abs=1e-12)
    axis = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    flat = density.log_density(density.squared_distances(axis, words[:, :1]), 1, h)
    assert (flat.exp().sum() * 16 / 4000).item() == pytest.approx(1.0, abs=1e-6)


def test_density_of_a_training_is_the_same_formula():
    """Differentiable, in fp32 and with copies counted once: equal up to the rounding of 16 squared differences."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = torch.randn(50, 16, generator=generator).repeat(3, 1)[:120]
    tokens = torch.randn(4, 16, generator=generator, requires_grad=True)
    words = density.WordDensity(vocabulary)
    got = words(tokens)
    wanted = density.log_density(density.squared_distances(tokens, vocabulary), 16, words.bandwidth)
    assert torch.allclose(got.double(), wanted, rtol=1e-5)
    assert words.bandwidth == density.read_density([tokens.detach()], vocabulary).bandwidth
    gradient = torch.autograd.grad(got.sum(), tokens)[0]
    assert torch.allclose(
        gradient, torch.autograd.grad(wanted.sum(), tokens)[0].float(), rtol=1e-3, atol=1e-5
    )
    at_a_word = words(vocabulary[:1].clone().requires_grad_(True))
    assert at_a_word.isfinite().all()


def test_density_tells_words_from_strangers():
    generator = torch.Generator().manual_seed(0)
    vocabulary = torch.randn(2000, 16, generator=generator)
    word_like, stranger = torch.randn(1, 16, generator=generator), torch.full((1, 16), 5.0)
    reading = density.read_density([word_like, stranger], vocabulary)
    assert reading.values[0][0] > reading.low > reading.values[1][0]
    assert 0.2 < reading.bandwidth < 1.5
    assert density.read_density([word_like], vocabulary, 0.5).bandwidth == 0.5


@pytest.mark.parametrize("copies", [0, 30, 200])
def test_the_bandwidth_is_the_best_of_the_grid(copies, monkeypatch):
    """Of all sixty, and few of them are worked out."""
    words = torch.randn(200, 64, generator=torch.Generator().manual_seed(4)).double()
    squared, counts = density._left_out(torch.cat([words, words[:copies]]))
    bounded, worked_out, log_density = [], [], density.log_density

    def counted(squared, width, bandwidth, counts=None):
        (worked_out if squared.shape[1] > 1 else bounded).append(bandwidth)
        return log_density(squared, width, bandwidth, counts)

    monkeypatch.setattr(density, "log_density", counted)
    found = density._most_likely(squared, counts, 64)
    assert len(worked_out) < density.BANDWIDTHS / 3 and len(bounded) == density.BANDWIDTHS
    assert found == max(bounded, key=lambda h: log_density(squared, 64, h, counts).median().item())


def test_density_of_a_vocabulary_with_copies():
    """Tokens that training never touched are often copies of one another: their distance is 0."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = torch.randn(40, 8, generator=generator).repeat(5, 1)
    assert density.read_density([vocabulary[:1]], vocabulary).bandwidth > 0
    with pytest.raises(ValueError, match="are the same"):
        density.read_density([torch.ones(1, 8)], torch.ones(20, 8))
    with pytest.raises(ValueError, match="1024 numbers wide"):
        density.read_density([torch.ones(1, 1024)], torch.randn(20, 768))
