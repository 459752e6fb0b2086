"""T5 in ComfyUI against transformers' encoder: masks, padding, cutting, weights, cleaning."""

import logging

import pytest
import torch
from blockwork.cascade import host_t5, host_text
from blockwork.cascade.caption import clean_caption
from blockwork.tests.support import cascade_files
from safetensors.torch import save_file

LONG = " ".join(f"word{i} and a yellow house" for i in range(60))


@pytest.fixture(scope="module")
def weights():
    return cascade_files.t5_state_dict()


@pytest.fixture(scope="module")
def clip(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("t5") / "t5.safetensors"
    save_file(weights, path)
    return host_t5.load_t5(str(path))


@pytest.fixture(scope="module")
def reference(weights):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    model = T5EncoderModel(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"encoder.embed_tokens.weight"}
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def tokens_of(clip, text):
    return [token for token, _ in clip.tokenize(text)["t5xxl"][0]]


def by_transformers(clip, reference, text):
    tokenizer = clip.tokenizer.clip_t5xxl.tokenizer
    batch = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = reference(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return batch.input_ids[0].tolist(), out.last_hidden_state


@pytest.mark.parametrize("text", ["", "a cat", "a photo of a corgi in a red beret, 4k, sharp!", LONG])
def test_states_are_transformers(clip, reference, text):
    ids, expected = by_transformers(clip, reference, text)
    assert tokens_of(clip, text) == ids
    mine = host_text.encode(clip, text)[0][0]
    assert mine.shape == (1, 77, 64)
    torch.testing.assert_close(mine, expected, rtol=0, atol=5e-5)


def test_the_empty_prompt_has_equal_padding_rows(clip):
    (rows,) = host_text.encode(clip, "")[0][0]
    torch.testing.assert_close(rows[1:], rows[1:2].expand(76, -1), rtol=0, atol=1e-6)
    assert not torch.allclose(rows[0], rows[1])


def test_a_long_prompt_is_cut_with_a_warning(clip, caplog):
    with caplog.at_level(logging.WARNING, "blockwork"):
        tokens = tokens_of(clip, LONG)
    assert len(tokens) == 77
    assert tokens[-1] == 1
    assert "77" in caplog.text
    assert "cut off" in caplog.text


def test_weights_change_their_own_tokens(clip):
    plain, weighted = (host_text.encode(clip, text)[0][0][0] for text in ("a cat sat", "a (cat:1.5) sat"))
    changed = (plain - weighted).abs().amax(1) > 1e-6
    ids = tokens_of(clip, "a (cat:1.5) sat")
    assert ids == tokens_of(clip, "a cat sat")
    weights = [weight for _, weight in clip.tokenize("a (cat:1.5) sat")["t5xxl"][0]]
    assert changed.tolist() == [weight != 1.0 for weight in weights]
    assert changed.any()


def test_cores_text_encode_works(clip):
    import nodes as core_nodes

    (conditioning,) = core_nodes.CLIPTextEncode().encode(clip, "a cat")
    assert torch.equal(conditioning[0][0], host_text.encode(clip, "a cat")[0][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_smaller_dtypes(weights, clip, tmp_path, dtype):
    path = tmp_path / "t5.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in weights.items()}, path)
    small = host_t5.load_t5(str(path))
    exact, rough = (host_text.encode(one, "a cat sat")[0][0] for one in (clip, small))
    assert rough.isfinite().all()
    assert (exact - rough).norm() / exact.norm() < (0.5 if dtype.itemsize == 1 else 0.05)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "clip_l.safetensors"
    save_file({"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"clip_l\.safetensors is not a T5 v1.1 encoder"):
        host_t5.load_t5(str(path))


CAPTIONS = [
    "A Photo of a CAT",
    "buy now https://shop.example.com/cat?id=3 www.cats.com best cat",
    "<b>bold</b> cat &amp; dog &quot;quoted&quot;",
    "cat @nickname #12 #1234567 12345678 IMG_1234.jpg photo.png",
    "this-is-my-cute-cat-picture",
    "\u201cfancy\u201d quotes \u2014 and dashes \u2018here\u2019",
    "free shipping worldwide free shipping download free click for more page 12",
    "1920x1080 jc6640 jc6640vc 6640vc231 j2d1a2a 192.168.0.1",
    '***AUSVERKAUFT*** !!! """SALE""" ... (brackets) [more] {x}',
    "a person <person> walking , slowly : now",
    "\u4e2d\u6587 and \u3042",
    "'single quoted'",
    "",
    "caf\u00e9 na\u00efve 100% caf%C3%A9 a+b",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_are_cleaned_as_diffusers_cleans_them(caption, monkeypatch):
    """Diffusers needs bs4 and ftfy: the standard library's parser stands in, and nothing needs mending here."""
    import types

    from diffusers.pipelines.deepfloyd_if import pipeline_if

    monkeypatch.setattr(pipeline_if, "BeautifulSoup", _Soup, raising=False)
    monkeypatch.setattr(pipeline_if, "ftfy", types.SimpleNamespace(fix_text=lambda text: text), raising=False)
    clean = object.__new__(pipeline_if.IFPipeline)._clean_caption
    assert clean_caption(caption) == clean(clean(caption))


class _Soup:
    def __init__(self, text, features):
        from html.parser import HTMLParser

        pieces = []
        parser = HTMLParser(convert_charrefs=True)
        parser.handle_data = pieces.append
        parser.feed(text)
        parser.close()
        self.text = "".join(pieces)
