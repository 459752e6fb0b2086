"""T5 files as people have them: scaled fp8, shards, other T5s, embeddings, other dtypes and devices."""

import folder_paths
import pytest
import torch
from blockwork.cascade import host_t5, host_text, t5
from blockwork.tests.support import cascade_files
from safetensors.torch import save_file

FINAL = "encoder.final_layer_norm.weight"


@pytest.fixture(scope="module")
def weights():
    return cascade_files.t5_state_dict()


@pytest.fixture
def load(tmp_path):
    """``load(tensors, name)``: the CLIP of a file with these tensors."""

    def saved(tensors, name="t5.safetensors", **settings):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return host_t5.load_t5(str(tmp_path / name), **settings)

    return saved


def states(clip, text="a cat sat on a mat"):
    return host_text.encode(clip, text)[0][0].float()


def likeness(first, second):
    return torch.cosine_similarity(first.flatten(), second.flatten(), dim=0).item()


def scaled_fp8(weights):
    """What ``t5xxl_fp8_e4m3fn_scaled`` holds: linear layers in fp8 with a scale each, a mark, the rest in fp16."""
    out = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, tensor in weights.items():
        if ".SelfAttention.relative" in key or "norm" in key or key == "shared.weight":
            out[key] = tensor.half()
            continue
        scale = tensor.abs().max() / 448 * 7  # far from 1, as it may be in such files
        out[key] = (tensor / scale).to(torch.float8_e4m3fn)
        out[key.removesuffix("weight") + "scale_weight"] = scale
    return out


def test_scaled_fp8_files_are_read_with_their_scales(weights, load):
    """0.23 before: the scales were left out."""
    assert likeness(states(load(weights)), states(load(scaled_fp8(weights), "scaled.safetensors"))) > 0.99


def test_a_tied_embedding_alone_is_enough(weights, load):
    tied = {
        ("encoder.embed_tokens.weight" if key == "shared.weight" else key): v for key, v in weights.items()
    }
    assert torch.equal(states(load(weights)), states(load(tied, "tied.safetensors")))


def test_a_whole_t5_file_loads_without_its_decoder(weights, load):
    both = weights | {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)}
    assert torch.equal(states(load(weights)), states(load(both, "both.safetensors")))


@pytest.mark.parametrize("lost", sorted(cascade_files.t5_state_dict()))
def test_any_missing_tensor_is_refused_by_name(weights, lost):
    with pytest.raises(t5.T5Error, match=r"my\.file lacks|my\.file is not") as caught:
        t5.config({key: tensor for key, tensor in weights.items() if key != lost}, "my.file")
    assert lost in str(caught.value) or "lacks" in str(caught.value)


@pytest.mark.parametrize("shard", [1, 2])
def test_one_shard_of_two_is_refused(weights, load, shard):
    """The first or the second half of the blocks, as sharded files divide them."""
    first = {key: v for key, v in weights.items() if "block.1." not in key and key != FINAL}
    part = first if shard == 1 else {key: v for key, v in weights.items() if key not in first}
    with pytest.raises(ValueError, match="may be one shard of a sharded model"):
        load(part, f"model-0000{shard}-of-00002.safetensors")


def test_other_encoders_are_refused_by_their_name(weights):
    gated, plain = "layer.1.DenseReluDense.wi_0.", "layer.1.DenseReluDense.wi."
    old = {key.replace(gated, plain): v for key, v in weights.items() if "wi_1" not in key}
    with pytest.raises(t5.T5Error, match=r"T5 v1\.0"):
        t5.config(old)
    bias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    with pytest.raises(t5.T5Error, match="UMT5"):
        t5.config(weights | {bias: torch.zeros(32, 4)})
    with pytest.raises(t5.T5Error, match="100 tokens"):
        t5.config(weights | {"shared.weight": torch.zeros(100, 64)})
    with pytest.raises(t5.T5Error, match=r"SelfAttention\.k\.weight in the shape \(2, 2\)"):
        t5.config(weights | {"encoder.block.1.layer.0.SelfAttention.k.weight": torch.zeros(2, 2)})


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path / "e")], {".pt"}))
    (tmp_path / "e").mkdir()
    return tmp_path / "e"


@pytest.mark.parametrize("vectors", [1, 3])
def test_embeddings_are_read(weights, load, embeddings, vectors):
    save_file({"t5xxl": torch.randn(vectors, 64) * 5}, embeddings / "mine.safetensors")
    clip = load(weights)
    with_it, without = states(clip, "a embedding:mine cat"), states(clip, "a cat")
    assert with_it.shape == without.shape == (1, 77, 64)
    assert not torch.allclose(with_it, without, atol=1e-2)
    tokens = clip.tokenize("a embedding:mine cat")["t5xxl"][0]
    assert sum(torch.is_tensor(token) for token, _ in tokens) == vectors
    assert len(tokens) == 77


@pytest.mark.parametrize("dtype", [name for name in host_t5.DTYPES if name != "default"])
def test_the_weights_are_converted(weights, load, dtype):
    clip = load(weights, weight_dtype=dtype, device="cpu")
    stored = clip.cond_stage_model.t5xxl.transformer.encoder.block[0].layer[0].SelfAttention.q.weight.dtype
    assert stored == host_t5.DTYPES[dtype]
    assert clip.patcher.load_device == clip.patcher.offload_device == torch.device("cpu")
    coarse = host_t5.DTYPES[dtype].itemsize == 1
    assert likeness(states(clip), states(load(weights))) > (0.95 if coarse else 0.999)


def test_a_quantised_file_keeps_its_own_format(weights, load):
    with pytest.raises(ValueError, match="quantised, and weight_dtype is fp16"):
        load(scaled_fp8(weights), weight_dtype="fp16")


def test_core_can_load_it_again_for_hooks(weights, load):
    """Core asks the factory for a patcher without dynamic loading when LoRA hooks or compiling need one."""
    clip = load(weights)
    make, arguments = clip.patcher.cached_patcher_init
    again = make(*arguments, disable_dynamic=True)
    assert type(again) is not type(clip) and hasattr(again, "model")


def test_states_are_kept_by_file_time_stamp_settings_and_text(tmp_path):
    file = tmp_path / "t5.safetensors"
    file.write_bytes(b"one")
    cache = host_text.TextCache(capacity=2)
    cache.keep(str(file), ("default",), {"a": 1, "b": 2, "embedding:x": 3})
    assert cache.find(str(file), ("default",), ["a", "b", "embedding:x", "c"]) == {"a": 1, "b": 2}
    assert cache.find(str(file), ("fp16",), ["a"]) == {}
    cache.find(str(file), ("default",), ["a"])
    cache.keep(str(file), ("default",), {"d": 4})
    assert cache.find(str(file), ("default",), ["a", "b", "d"]) == {"a": 1, "d": 4}  # b was used longest ago
    file.write_bytes(b"other")
    assert cache.find(str(file), ("default",), ["a"]) == {}
