"""XTI in a prompt: all layers in one CLIP call, each layer's context exactly its own."""

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders
import folder_paths
import pytest
import torch
from blockwork.injection import host, host_encode, host_xti, xti
from blockwork.injection.concept import LAYERS, SD1, XTI, mix
from blockwork.injection.entries import InjectionError
from blockwork.nodes.injection_split import InjectBlockPrompts, SplitBlockPrompt
from blockwork.tests.support.injection_kit import predictions, prompt, tiny_model, worst
from comfy import supported_models_base
from safetensors.torch import save_file

TEXT = "a photo of <cat> next to a (<dog>:1.3), studio light"


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    before = folder_paths.folder_names_and_paths[host_xti.FOLDER]
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = ([str(folder)], before[1])
    yield folder
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = before


@pytest.fixture(scope="module")
def clip(embeddings):
    """SD1's text encoder as ComfyUI builds it, with two layers and random weights."""
    torch.manual_seed(0)
    target = supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    options = {"clip_l_model_config": {"num_hidden_layers": 2}}
    made = comfy.sd.CLIP(target, embedding_directory=[str(embeddings)], model_options=options)
    with torch.no_grad():
        for name, weight in made.cond_stage_model.named_parameters():
            weight.copy_(torch.randn(weight.shape) * (0.02 if weight.ndim > 1 else 0.1))
            if name.endswith("weight") and weight.ndim == 1:
                weight.add_(1.0)
    return made


def concept(name, seed, count=2):
    generator = torch.Generator().manual_seed(seed)
    return XTI(name, tuple(torch.randn(count, 768, generator=generator) * 0.02 for _ in LAYERS))


def count_calls(clip, monkeypatch):
    calls = []
    inner = clip.cond_stage_model.clip_l.transformer
    forward = inner.forward

    def counted(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(inner, "forward", counted)
    return calls


# A batch of 16 prompts may take another kernel than a batch of one, which sums in another order. A sum of n
# products then differs by at most 2 n u of the sum of their sizes (u = 2^-24). Between the embedding and the
# output stand two layers of 8 sums each (q, k, v, scores, values, out, two of the MLP) with n <= 3072, and with
# these weights a layer does not enlarge a relative error by more than its number of sums.
OTHER_KERNEL = 2 * 2 * 8 * 3072 * 2**-24


def test_one_call_equals_sixteen(clip, monkeypatch):
    """T22: 16 layers in one CLIP call: the same call's rows bit for bit, each prompt alone up to rounding."""
    concepts = [concept("cat", 1), concept("dog", 2, 3)]
    tokens = [host_xti.layer_tokens(clip, TEXT, concepts, layer) for layer in range(16)]
    calls = count_calls(clip, monkeypatch)
    together = host_xti.encode_layers(clip, tokens)
    assert len(calls) == 1
    joined = clip.encode_from_tokens({"l": [section for one in tokens for section in one["l"]]})
    assert torch.equal(torch.cat([one[0][0] for one in together], dim=1), joined)
    for layer in (0, 6, 15):
        alone = clip.encode_from_tokens(tokens[layer])
        assert worst(together[layer][0][0], alone) < OTHER_KERNEL
        assert worst(together[layer - 1][0][0], alone) > 10 * OTHER_KERNEL


def test_a_plain_inversion_is_cores_own(clip, embeddings):
    """A textual inversion gives what ComfyUI's embedding: gives, weights included."""
    vectors = torch.randn(2, 768) * 0.02
    save_file({"emb_params": vectors}, embeddings / "plain.safetensors")
    one = xti.load(embeddings / "plain.safetensors")
    core = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of (embedding:plain:1.3) , red"))
    tokens = [host_xti.layer_tokens(clip, "a photo of (<plain>:1.3) , red", [one], i) for i in range(16)]
    ours = host_xti.encode_layers(clip, tokens)
    assert torch.equal(ours[0][0][0], core[0][0])
    assert all(conditioning is ours[0] for conditioning in ours)


def test_every_layer_attends_to_its_own(clip, model):
    """The encoded prompt injects layer by layer: every layer sees its own row of the one CLIP call."""
    concepts = [concept("cat", 1), concept("dog", 2)]
    change, base = host_xti.encode(model, clip, TEXT, concepts)
    seen = {}

    def spy(n, k, v, options):
        seen[(*options["block"], options["block_index"])] = (k, v)
        return n, k, v

    prepared = host.prepare(model)
    prepared.set_model_attn2_patch(spy)
    predictions(prepared, change.on(base), prompt(2), cfg=1.0)
    tokens = [host_xti.layer_tokens(clip, TEXT, concepts, layer) for layer in range(16)]
    expected = host_xti.encode_layers(clip, tokens)
    for layer, sub_block in enumerate(SD1.sub_blocks):
        keys, values = seen[sub_block]
        assert torch.equal(keys, expected[layer][0][0]) and torch.equal(values, expected[layer][0][0])


def test_all_layers_from_one_is_that_one(clip, model):
    """T22: style mixing with all layers from A samples as A; with two from B it does not."""
    first, second = concept("cat", 1), concept("other", 5)

    def sampled(one):
        change, base = host_xti.encode(model, clip, "a <cat>", [one])
        return predictions(host.prepare(model), change.on(base), prompt(2)).predictions[0][0]

    alone = sampled(first)
    assert torch.equal(sampled(mix(first, second, ())), alone)
    assert worst(sampled(mix(first, second, host_xti.mixed_layers("IN08, M00", first))), alone) > 1e-3


def test_layers_of_different_lengths(clip):
    """A layer whose embeddings push the prompt over a section boundary is encoded at its own length."""
    one = concept("cat", 1, 1)
    long = XTI("cat", (*one.layers[:3], torch.randn(90, 768) * 0.02, *one.layers[4:]))
    tokens = [host_xti.layer_tokens(clip, "a <cat>", [long], layer) for layer in range(16)]
    encoded = host_xti.encode_layers(clip, tokens)
    assert [conditioning[0][0].shape[1] for conditioning in encoded] == [77] * 3 + [154] + [77] * 12


def test_repeated_uses_and_words_around(clip):
    """Each use of <name> gets all its vectors; the other tokens stay those of the text."""
    one = concept("cat", 1)
    tokens = host_xti.layer_tokens(clip, "<cat>, and <cat>", [one], 4)["l"][0]
    rows = [token for token, _ in tokens if isinstance(token, torch.Tensor)]
    assert len(rows) == 4
    assert all(torch.equal(row, one.tokens(4)[i % 2]) for i, row in enumerate(rows))
    words = [token for token, _ in tokens if not isinstance(token, torch.Tensor)]
    expected = [token for token, _ in clip.tokenize(", and")["l"][0]]
    assert words[: len(expected) - 4] == expected[: len(expected) - 4]


def test_wrong_uses_are_errors(clip, model):
    with pytest.raises(InjectionError, match="does not use <cat>"):
        host_xti.encode(model, clip, "a cat", [concept("cat", 1)])
    with pytest.raises(InjectionError, match="same name"):
        host_xti.encode(model, clip, "a <cat>", [concept("cat", 1), concept("cat", 2)])
    with pytest.raises(InjectionError, match="it is for SD1 or SD2, and this model"):
        host_xti.encode(tiny_model("sdxl"), clip, "a <cat>", [concept("cat", 1)])
    narrow = XTI("cat", tuple(torch.zeros(1, 1024) for _ in LAYERS))
    with pytest.raises(InjectionError, match="1024 wide"):
        host_xti.encode(model, clip, "a <cat>", [narrow])
    wrong = ("../outside", "", "/etc/x", "sub/", "a/../../x", "~/x", "a\0b", "x" * 300, ".", "a/./b", "C:x")
    for name in wrong:
        with pytest.raises(InjectionError, match="not a valid file name"):
            host_xti.save_path(name)


def test_core_takes_one_layer_only(clip, embeddings, model, caplog):
    """T22's guard: ComfyUI's embedding: uses the first layer of an XTI file; our nodes say so."""
    one = concept("cat", 1)
    xti.save(one, embeddings / "trap.safetensors")
    taken = comfy.sd1_clip.load_embed("trap", [str(embeddings)], 768, "clip_l")
    assert torch.equal(taken, one.layers[0])
    folder_paths.filename_list_cache.clear()
    assert host_xti.embedded_xti("a embedding:trap, (embedding:trap:1.2) and embedding:none") == ["trap"]
    assert "Load XTI" in caplog.text
    _, _, resolved = host_encode.encode_block_prompt(model, clip, "a (~: M00: embedding:trap; _: dog :~)")
    assert "embedding:trap is an XTI file" in resolved


def test_vocabulary(clip):
    (words,) = host_xti.vocabularies(clip)
    assert words.shape == (49408, 768)


def test_block_prompts_for_any_encoder(clip, model, caplog):
    """Split, encode, inject equals Block Prompt Encode; what only other encoders understand is warned about."""
    text = "a (~: M00=0.5/k: red; IN07@0-0.4, coarse/v: green; _: grey :~) car"
    base, sentences, specs = SplitBlockPrompt.execute(model, text).result

    def encode(words):
        return clip.encode_from_tokens_scheduled(clip.tokenize(words))

    ready, injected = InjectBlockPrompts.execute(
        [model], [encode(base)], [encode(one) for one in sentences], specs
    ).result
    change, conditioning, resolved = host_encode.encode_block_prompt(model, clip, text)
    expected = predictions(ready, change.on(conditioning), prompt(2)).predictions[0][0]
    assert worst(predictions(ready, injected, prompt(2)).predictions[0][0], expected) < OTHER_KERNEL
    assert "is read as words" not in resolved
    with pytest.raises(InjectionError, match="1 prompts and 2 lists"):
        InjectBlockPrompts.execute([model], [encode(base)], [encode(base)], ["M00", "IN07"])
    assert SplitBlockPrompt.execute(model, "plain").result == ("plain", ["plain"], ["all=0"])
    for foreign in ("<lora:x:0.5>", "[cat:dog:0.5]", "BREAK"):
        warned = host_encode.encode_block_prompt(model, clip, f"a (~: M00: b; _: c :~) {foreign} d")[2]
        assert "is read as words" in warned and "is read as words" in caplog.text
        caplog.clear()
