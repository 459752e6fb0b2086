"""The recursion agrees with itself: incremental and at once, alone and in a batch, in every dtype."""

import functools

import pytest
import torch
import torch.nn.functional as F
from blockwork.deprojector import Concat, from_state_dict, from_units, merge_units
from blockwork.deprojector.algebra import image_embedding
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import (
    LstmConfig,
    MvtConfig,
    TransformerConfig,
    VicinityConfig,
    VrnnConfig,
    VtConfig,
)
from blockwork.deprojector.files import build
from blockwork.deprojector.train.start import inverse_projection
from blockwork.tests.support.deprojector_results import GOLDENS, golden

ONE_PER_FAMILY = ["t_v1_pooled", "t_v3_pooled", "v_default", "vt_default", "mvt_default", "l1_extra_outproj",
                  "l2_proj_1_5x", "l3_infokeep_1l", "r_linear_v1"]  # fmt: skip


def module_of(name, dtype=torch.float64):
    _, weights, case = golden(name)
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    return from_state_dict(weights, case["config"])


def embeds_of(module, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, module.config.dim, generator=generator, dtype=torch.float64)


def full_recompute(module, embeds, fuse=0.0):
    """Every row from a fresh pass over all rows before it."""
    own = [embeds.new_zeros(len(embeds), 0, embeds.shape[1]) for _ in module.models]
    made = []
    with torch.no_grad():
        for _ in range(module.config.rows - 1):
            runs = module.begin(embeds)
            last = [step(None) for step in runs]
            if own[0].shape[1]:
                last = [step(past)[:, -1:] for step, past in zip(runs, own, strict=True)]
            mean = torch.stack(last).mean(0)
            made.append(mean)
            own = [
                torch.cat([past, torch.lerp(row, mean, fuse)], dim=1)
                for past, row in zip(own, last, strict=True)
            ]
    return torch.cat([module.start_row(len(embeds)), *made], dim=1)


@pytest.mark.parametrize("name", [name for name in GOLDENS if not name.startswith("r_")])
def test_incremental_is_full_recomputation(name):
    module = module_of(name)
    embeds = embeds_of(module, 2)
    fuse = 0.3 if module.config.ensemble_size > 1 else 0.0
    expected = full_recompute(module, embeds, fuse)
    torch.testing.assert_close(module.deproject(embeds, fuse=fuse), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GOLDENS)
def test_a_batch_is_its_samples(name):
    """Also with fuse, where the author's class mixes only a batch's last sample."""
    module = module_of(name)
    embeds = embeds_of(module, 8)
    together = module.deproject(embeds, fuse=0.4)
    alone = torch.cat([module.deproject(embed[None], fuse=0.4) for embed in embeds])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_its_own_result_as_teacher_gives_it_again(name):
    module = module_of(name)
    embeds = embeds_of(module, 2)
    result = module.deproject(embeds)
    torch.testing.assert_close(module.teacher_forced(embeds, result), result, rtol=0, atol=1e-11)
    assert torch.equal(result, module.deproject(embeds)), "not deterministic"
    assert not result.requires_grad


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_fewer_rows_are_the_first_rows(name):
    module = module_of(name)
    embeds = embeds_of(module, 2)
    seen = []
    short = module.deproject(embeds, rows=9, on_row=seen.append)
    assert seen == list(range(1, 9))
    torch.testing.assert_close(short, module.deproject(embeds)[:, :9], rtol=0, atol=1e-12)
    with pytest.raises(DeprojectorError, match="rows must be 1 to"):
        module.deproject(embeds, rows=module.config.rows + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_half_precision_stays_near(name, dtype):
    """Cosine distance per row over the first rows; random weights amplify what rounding leaves."""
    module = module_of(name, torch.float32)
    embeds = embeds_of(module, 3).float()
    expected = module.deproject(embeds, rows=8)
    result = module.to(dtype).deproject(embeds, rows=8)
    assert result.dtype == dtype
    assert result.isfinite().all()
    assert (1 - F.cosine_similarity(result.float(), expected, dim=-1)).max() < 5e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in ONE_PER_FAMILY if not name.startswith("r_")])
def test_half_precision_stays_near_over_all_rows(name, dtype):
    """From true rows, where nothing is amplified; free-running, all rows stay finite."""
    module = module_of(name, torch.float32)
    embeds = embeds_of(module, 3).float()
    rows = module.deproject(embeds)
    expected = module.teacher_forced(embeds, rows)
    half = module.to(dtype)
    with torch.no_grad():
        result = half.teacher_forced(embeds, rows)
    assert result.shape[1] == 77 and result.dtype == dtype
    assert (1 - F.cosine_similarity(result.float(), expected, dim=-1)).max() < 5e-2
    assert half.deproject(embeds).isfinite().all()


def test_changed_weights_are_seen():
    module = module_of("t_v3_pooled")
    embeds = embeds_of(module, 1)
    before = module.deproject(embeds)
    with torch.no_grad():
        module.models[0].encoder_layer.self_attn.q_proj.weight.mul_(2)
    changed = module.deproject(embeds)
    assert not torch.equal(before, changed)
    assert torch.equal(
        changed, from_state_dict(module.state_dict(), GOLDENS["t_v3_pooled"]["config"]).deproject(embeds)
    )


def test_rows_of_another_text_encoder():
    module = module_of("t_v3_pooled")
    embeds = embeds_of(module, 2)
    before = module.deproject(embeds)
    sos, null = torch.randn(2, module.config.dim, dtype=torch.float64)
    twin = module.rebased(sos, null)
    assert torch.equal(twin.deproject(embeds)[:, 0], sos.expand(2, -1))
    assert not torch.equal(twin.deproject(embeds)[:, 1:], before[:, 1:])
    assert torch.equal(module.deproject(embeds), before), "the given model changed"


@pytest.mark.parametrize("name", [name for name in ONE_PER_FAMILY if not name.startswith("r_")])
def test_ensembles_and_merges(name):
    first = module_of(name)
    state = {
        key: value * 1.01 if value.is_floating_point() and "embed" not in key[-10:] else value
        for key, value in first.state_dict().items()
    }
    second = from_state_dict(state, GOLDENS[name]["config"])
    embeds = embeds_of(first, 2)
    alone = torch.stack([first.deproject(embeds), second.deproject(embeds)])
    both = from_units([first, second])
    assert both.config.ensemble_size == 2
    torch.testing.assert_close(both.deproject(embeds), alone.mean(0), rtol=0, atol=1e-11)
    assert not torch.allclose(both.deproject(embeds, fuse=1.0)[:, 2:], alone.mean(0)[:, 2:], atol=1e-9)
    same = from_units([first, first])
    torch.testing.assert_close(same.deproject(embeds, fuse=1.0), alone[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(merge_units([first, first]).deproject(embeds), alone[0], rtol=0, atol=1e-11)
    halfway = merge_units([first, second]).state_dict()
    for key, value in first.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(halfway[key], (value + second.state_dict()[key]) / 2)
    with pytest.raises(DeprojectorError, match="ensemble itself"):
        from_units([both, first])


def test_models_that_do_not_belong_together():
    with pytest.raises(DeprojectorError, match="differs from model 0"):
        from_units([module_of("l3_initial_1l"), module_of("l3_initial_2l")])
    with pytest.raises(DeprojectorError, match="VRNN"):
        from_units([module_of("r_linear_v1"), module_of("r_linear_v1")])


SMALL = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, projection_dim=16)
EVERY_CLASS = {
    "T v1": TransformerConfig(**SMALL, has_null=False, embed_second=False),
    "T": TransformerConfig(**SMALL, relative_to_null=True),
    "V": VicinityConfig(embed_dim=16, projection_dim=16, first_layer_dim=16, first_embed_layer_dim=16, mlp_layer_dim=32),
    "VT": VtConfig(**SMALL, first_layer_dim=16, first_embed_layer_dim=16, mlp_layer_dim=32),
    "Mvt": MvtConfig(**SMALL, vicinity_mlp_dim=16, mlp_layer_dim=32),
    "LSTM 1": LstmConfig(**SMALL, lstm_hidden_size=16),
    "LSTM 2": LstmConfig(**SMALL, use_model2=True),
    "LSTM 3": LstmConfig(**SMALL, use_model3=True),
    "VRNN": VrnnConfig(**SMALL),
}  # fmt: skip


@functools.cache
def small(name):
    """A random model of that class, and its rows for two embeddings, all in float64."""
    torch.manual_seed(list(EVERY_CLASS).index(name))
    module = build(EVERY_CLASS[name], "cpu").double().eval()
    return module, module.deproject(embeds_of(module, 2))


@pytest.mark.parametrize("second", EVERY_CLASS)
@pytest.mark.parametrize("first", EVERY_CLASS)
def test_concatenated_rows(first, second):
    (one, rows1), (two, rows2) = small(first), small(second)
    embeds = embeds_of(one, 2)
    joined = Concat(one, 10, two, 67).deproject(embeds)
    assert joined.shape[1] == 77
    torch.testing.assert_close(joined[:, :10], rows1[:, :10], rtol=0, atol=1e-11)
    torch.testing.assert_close(joined[:, 10:], rows2[:, 1:68], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "config",
    [TransformerConfig(has_null=False, embed_second=False), LstmConfig(use_model3=True, num_layers=1)],
)
def test_projected_embeddings_at_full_size(config):
    """768-d in float32: the inverse of a projection, pooled embeddings through it and back, an image with its base."""
    torch.manual_seed(0)
    forth = torch.eye(768) + 0.3 * torch.randn(768, 768) / 768**0.5
    module = build(config, "cpu").eval()
    back = inverse_projection({"text_projection.weight": forth})
    assert back is not None and (forth @ back - torch.eye(768)).abs().max() < 1e-3
    with torch.no_grad():
        module.deprojection.copy_(back)
    pooled, image, base = torch.randn(3, 2, 768)
    expected = module.deproject(pooled, rows=12)
    result = module.deproject(pooled @ forth.T, from_projected=True, rows=12)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
    found = image_embedding(image, back, pooled[0], base)
    wanted = (image - base).double() @ torch.linalg.inv(forth.double()).T + pooled[0]
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)


def test_projected_embeddings():
    module = module_of("t_v1_projected")
    pooled = embeds_of(module, 3)
    forth = torch.linalg.inv(module.deprojection)
    result = module.deproject(pooled @ forth.T, from_projected=True)
    torch.testing.assert_close(result, module.deproject(pooled), rtol=0, atol=1e-6)
    with pytest.raises(DeprojectorError, match=r"Expected embeddings \(batch, 64\), got \(3, 63\)"):
        module.deproject(pooled[:, 1:])
