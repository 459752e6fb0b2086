"""Training: the loss by its formula, augmentation, schedules, and runs that go on as if they had not stopped."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from blockwork.deprojector import load
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.train import examples as ex
from blockwork.deprojector.train.examples import Encoded, Examples, Pair, encode, pairs
from blockwork.deprojector.train.forcing import Forcing, own_rows, row_weights, weighted_error
from blockwork.deprojector.train.scores import Scores, evaluate
from blockwork.deprojector.train.start import inverse_projection, preset, started
from blockwork.deprojector.train.trainer import Recipe, Trainer
from refhost import layout

DIM, ROWS = 16, 12


def text_encoder():
    """Weights under CLIP's names; only what a deprojector starts from."""
    torch.manual_seed(1)
    names = {
        "text_model.embeddings.position_embedding.weight": (ROWS, DIM),
        "text_projection.weight": (DIM, DIM),
    }
    for layer in range(2):
        at = f"text_model.encoder.layers.{layer}"
        for part in ("q", "k", "v", "out"):
            names |= {
                f"{at}.self_attn.{part}_proj.weight": (DIM, DIM),
                f"{at}.self_attn.{part}_proj.bias": (DIM,),
            }
        for part, shape in (("fc1", (32, DIM)), ("fc2", (DIM, 32))):
            names |= {f"{at}.mlp.{part}.weight": shape, f"{at}.mlp.{part}.bias": shape[:1]}
        for part in ("layer_norm1", "layer_norm2"):
            names |= {f"{at}.{part}.weight": (DIM,), f"{at}.{part}.bias": (DIM,)}
    names |= {"text_model.final_layer_norm.weight": (DIM,), "text_model.final_layer_norm.bias": (DIM,)}
    return {
        name: torch.randn(shape) * 0.3 + (1.0 if name.endswith("norm.weight") else 0.0)
        for name, shape in names.items()
    }


ENCODER = text_encoder()


def made_examples(count, seed=0):
    """Hidden states that follow from the embedding: a rotation of it per row."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(42)))[0]
    embeds = torch.randn(count, DIM, generator=generator)
    states, row = [torch.zeros(count, DIM)], embeds
    for _ in range(ROWS - 1):
        states.append(row)
        row = torch.tanh(row @ turn) + 0.2 * embeds
    end = torch.randint(2, ROWS, (count,), generator=generator)
    return Examples(embeds, torch.stack(states, 1).half(), end, torch.zeros(DIM))


def model(name="LSTM 3, initial, 1 layer", seed=0):
    rows = torch.zeros(DIM), torch.full((DIM,), 0.1)
    return started(preset(name, ENCODER, 2), ENCODER, rows, seed=seed)


def test_loss_weights_are_the_published_ones():
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0.0]])
    weights = torch.ones(7) + (25**0.5 - 1) * mask[0, 1:]
    weights = torch.cat([torch.zeros(1), weights])
    weights = weights * (len(weights) / sum(weights))
    ours = row_weights(torch.tensor([3]), 8)[0]
    torch.testing.assert_close(ours, weights, rtol=0, atol=1e-6)
    assert ours.mean().item() == pytest.approx(1)
    assert (ours[1] / ours[-1]).item() == pytest.approx(5)
    predicted, true = torch.randn(2, 1, 8, 4)
    expected = torch.nn.MSELoss()(weights[None, :, None] * predicted, weights[None, :, None] * true)
    torch.testing.assert_close(
        weighted_error(predicted, true, torch.tensor([3])), expected, rtol=0, atol=1e-6
    )


def test_augmentation_has_its_shares_and_is_repeatable():
    captions = [f"caption number {n} of many" for n in range(3000)]
    found = pairs(captions, seed=3)
    assert found == pairs(captions, seed=3) != pairs(captions, seed=4)
    assert found[0] == Pair(("",), "")
    kinds = {"normal": 0, "split": 0, "combined": 0}
    for pair in found[1:]:
        if len(pair.parts) == 1:
            assert pair.parts[0] == pair.target
            kinds["normal"] += 1
        else:
            assert " ".join(pair.parts) == pair.target
            kinds["combined" if pair.parts[0] in captions else "split"] += 1
    total = sum(kinds.values())
    assert kinds["normal"] / total == pytest.approx(0.4, abs=0.03)
    assert kinds["split"] / total == pytest.approx(0.3, abs=0.03)
    assert kinds["combined"] / total == pytest.approx(0.3, abs=0.03)
    assert pairs(["word"] * 3, 0)[1:] and all(
        len(p.parts) == 1 for p in pairs(["word", "lone"], 5, augment=False)
    )


def letters(texts):
    """A text encoder for tests: row k is made of the text's first k letters."""
    states = torch.zeros(len(texts), ROWS, DIM)
    for number, text in enumerate(texts):
        for row in range(1, ROWS):
            states[number, row, sum(map(ord, text[:row])) % DIM] = 1.0 + row
    end = torch.tensor([min(len(text) + 1, ROWS - 1) for text in texts])
    return Encoded(states, end, [len(text) > ROWS - 2 for text in texts])


def test_examples_merge_inputs_and_give_up_what_does_not_fit():
    wanted = [
        Pair(("",), ""),
        Pair(("ab",), "ab"),
        Pair(("ab", "cd"), "ab cd"),
        Pair(("abcdef", "ghijkl"), "abcdef ghijkl"),
    ]
    made = encode(wanted, letters, batch=3)
    pooled = {text: letters([text]).pooled[0] for text in ("", "ab", "cd", "abcdef")}
    torch.testing.assert_close(made.embeds[0], made.null)
    torch.testing.assert_close(made.embeds[1], pooled["ab"])
    torch.testing.assert_close(made.embeds[2], pooled["ab"] + pooled["cd"] - pooled[""])
    torch.testing.assert_close(made.states[2].float(), letters(["ab cd"]).states[0])
    torch.testing.assert_close(made.embeds[3], pooled["abcdef"])
    torch.testing.assert_close(made.states[3].float(), letters(["abcdef"]).states[0])


def test_examples_are_encoded_once(tmp_path):
    calls = []

    def counting(texts):
        calls.append(len(texts))
        return letters(texts)

    path, wanted = tmp_path / "cache.safetensors", pairs(["ab", "cd ef", "gh"], 0)
    first = ex.cached(path, wanted, counting, "one")
    count = len(calls)
    again = ex.cached(path, wanted, counting, "one")
    assert len(calls) == count
    assert torch.equal(first.embeds, again.embeds) and torch.equal(first.states, again.states)
    with pytest.raises(DeprojectorError, match="prepared from other captions"):
        ex.cached(path, wanted, counting, "another encoder")
    with pytest.raises(DeprojectorError, match="prepared from other captions"):
        ex.cached(path, pairs(["ab", "cd ef", "gh"], 1), counting, "one")
    assert len(calls) == count, "prepared examples were overwritten"
    assert [file.name for file in tmp_path.iterdir()] == ["cache.safetensors"]


def test_captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join([f"caption {n}" for n in range(25)] + ["", "  caption 3  "]))
    assert len(ex.read_captions(path)) == 25
    path.write_text("only one")
    with pytest.raises(DeprojectorError, match=r"holds 1 captions. Training needs at least 20"):
        ex.read_captions(path)


@pytest.mark.parametrize(
    "name",
    ["transformer", "V", "VT", "Mvt", "LSTM 1", "LSTM 2", "LSTM 3, information kept, 2 layers", "VRNN"],
)
def test_every_family_starts_from_the_encoder_and_learns(name):
    examples, module = made_examples(256), model(name)
    last = "text_model.encoder.layers.1."
    state = module.state_dict()
    if name.startswith("transformer"):
        assert torch.equal(state["encoder_layer.mlp.fc1.weight"], ENCODER[last + "mlp.fc1.weight"])
        assert torch.equal(state["final_layer_norm.bias"], ENCODER["text_model.final_layer_norm.bias"])
    else:
        unit = module.models[0]
        norm = unit.layers[0].norm if name == "Mvt" else unit.final_norm
        if name != "V":
            assert torch.equal(norm.weight, ENCODER["text_model.final_layer_norm.weight"])
        assert norm.weight.requires_grad == (name in ("LSTM 1", "V", "VT", "Mvt"))
    frozen = {
        key: value.clone()
        for key, value in state.items()
        if key.endswith(("sos_embed", "null_embed", "deprojection"))
    }
    before = evaluate(module, examples, "cpu")
    recipe = Recipe(steps=40, batch=32, learning_rate=5e-3, evaluate_every=40, patience=0)
    history = Trainer(module, examples, made_examples(64, 1), recipe).run()
    after = evaluate(module, examples, "cpu")
    assert after.free_weighted < before.free_weighted
    assert history.losses[-1] < history.losses[0]
    assert all(torch.equal(module.state_dict()[key], value) for key, value in frozen.items())


def test_two_hundred_steps_reduce_the_loss():
    trainer = Trainer(
        model(), made_examples(400), made_examples(64, 1), Recipe(steps=200, batch=50, patience=0)
    )
    losses = trainer.run().losses
    assert len(losses) == 200
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_schedules():
    teacher, mixed, own = (Recipe(steps=100, schedule=name) for name in ("teacher", "scheduled", "self-fed"))
    assert [teacher.own_share(s) for s in (0, 99)] == [0, 0]
    assert [own.own_share(s) for s in (0, 99)] == [1, 1]
    assert [mixed.own_share(s) for s in (0, 10, 35, 60, 99)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert own_rows(1, 2, 50, 20, 0.3).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(own_rows(1, 2, 5, 5, 0.5), own_rows(1, 2, 5, 5, 0.5))
    with pytest.raises(DeprojectorError, match="Unknown schedule 'mixed'"):
        Recipe(schedule="mixed")


@pytest.mark.parametrize("name", ["transformer", "LSTM 2", "VRNN"])
def test_forcing_between_true_and_own_rows(name):
    module = model(name)
    embeds, states, _ = made_examples(4).batch(torch.arange(4), "cpu")
    forcing = Forcing(module)
    none, every = torch.zeros(4, ROWS, dtype=torch.bool), torch.ones(4, ROWS, dtype=torch.bool)
    torch.testing.assert_close(forcing(embeds, states, none), module.teacher_forced(embeds, states))
    free = forcing(embeds, states, every)
    torch.testing.assert_close(free, module.deproject(embeds), rtol=1e-4, atol=1e-4)
    assert free.requires_grad
    half = forcing(embeds, states, own_rows(0, 0, 4, ROWS, 0.5))
    free.sum().backward()
    if name != "VRNN":
        assert not torch.allclose(half, free) and not torch.allclose(half, none.float()[..., None] + states)


def run_of(tmp_path, steps, **changes):
    recipe = replace(Recipe(steps=40, batch=16, evaluate_every=10, patience=0, seed=5), **changes)
    trainer = Trainer(
        model(), made_examples(100), made_examples(30, 1), recipe, checkpoint=tmp_path / "run.safetensors"
    )

    def stop(step, _):
        if step == steps:
            raise KeyboardInterrupt

    return trainer, trainer.run(stop)


def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, expected = run_of(tmp_path / "whole", steps=-1)
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, steps=27)
    resumed, history = run_of(tmp_path, steps=-1)
    assert history.losses == expected.losses
    assert history.scores == expected.scores
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["run.safetensors"]
    with pytest.raises(DeprojectorError, match="belongs to a run with another recipe"):
        run_of(tmp_path, steps=-1, learning_rate=0.5)


def test_it_stops_early_and_keeps_the_best(tmp_path):
    recipe = Recipe(
        steps=400, batch=16, learning_rate=0.5, schedule="teacher", evaluate_every=5, patience=4, clip=0
    )
    trainer = Trainer(model(), made_examples(60), made_examples(30, 1), recipe)
    history = trainer.run()
    assert trainer.step < 400
    step, best = history.best
    assert best.free_weighted == min(scores.free_weighted for _, scores in history.scores)
    assert evaluate(trainer.model, trainer.test, "cpu") == best
    assert trainer.step >= step + 4 * 5
    assert isinstance(best, Scores)


def test_too_few_examples():
    with pytest.raises(DeprojectorError, match="too few"):
        Trainer(model(), made_examples(5), made_examples(0), Recipe())


def test_the_projection_is_only_used_when_there_is_one():
    forth = ENCODER["text_projection.weight"]
    back = inverse_projection(ENCODER)
    torch.testing.assert_close(forth @ back, torch.eye(DIM), rtol=0, atol=1e-3)
    for unusable in (torch.full((DIM, DIM), float("nan")), torch.zeros(DIM, DIM), torch.randn(DIM, 8)):
        assert inverse_projection({"text_projection.weight": unusable}) is None
    assert inverse_projection({}) is None
    module = started(preset("LSTM 2", ENCODER, 2), ENCODER, (torch.zeros(DIM), torch.zeros(DIM)), back)
    assert torch.equal(module.deprojection, back)


@pytest.mark.parametrize("name", ["transformer", "LSTM 3, initial, 1 layer"])
def test_two_processes_train_as_one(tmp_path, name):
    """torchrun with two gloo processes on the command line tool: the curve of one process with the joint batch."""
    for part, count in (("train", 120), ("test", 40)):
        ex.store(made_examples(count, seed=len(part)), tmp_path / f"{part}.safetensors")
    rows = {"start": torch.zeros(DIM), "null": torch.full((DIM,), 0.1)}
    from safetensors.torch import save_file

    save_file({**ENCODER, **rows}, tmp_path / "encoder.safetensors", {"heads": "2"})
    arguments = [
        str(layout.ROOT / "tools" / "train_deprojector.py"), "--prepared", str(tmp_path), "--family", name,
        "--steps", "12", "--batch", "24", "--evaluate-every", "6", "--schedule", "scheduled", "--device", "cpu",
    ]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *torchrun, *arguments, "--out", str(tmp_path / "two")],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    two = json.loads((tmp_path / "two" / "history.json").read_text())
    recipe = Recipe(steps=12, batch=24, evaluate_every=6)
    module = started(
        preset(name, ENCODER, 2), ENCODER, (rows["start"], rows["null"]), inverse_projection(ENCODER)
    )
    one = Trainer(
        module, *(ex.read(tmp_path / f"{part}.safetensors") for part in ("train", "test")), recipe
    ).run()
    assert two["processes"] == 2
    assert two["losses"] == pytest.approx(one.losses, rel=1e-4)
    assert two["scores"][-1]["free_weighted"] == pytest.approx(one.scores[-1][1].free_weighted, rel=1e-3)
    trained = load(tmp_path / "two" / "deprojector.safetensors").deproject(torch.ones(1, DIM))
    torch.testing.assert_close(trained, module.deproject(torch.ones(1, DIM)), rtol=1e-2, atol=1e-2)


def test_part_by_part(tmp_path):
    """Every part is trained until it stops early, from the best model of the part before; interruptions do not matter."""
    recipe = Recipe(
        steps=60, batch=16, schedule="teacher", evaluate_every=2, patience=1, learning_rate=0.3, part=32
    )

    def trainer(name):
        checkpoint = tmp_path / name / "run.safetensors"
        return Trainer(
            model(),
            made_examples(100),
            made_examples(30, 1),
            recipe,
            "cpu",
            checkpoint,
            tmp_path / name / "parts",
        )

    def stop(step, _):
        if step == 13:
            raise KeyboardInterrupt

    whole = trainer("whole")
    assert whole.parts == [(0, 32), (32, 64), (64, 100)]
    seen = []
    chosen = whole._chosen
    whole._chosen = lambda: seen.append((whole.part, chosen())) or seen[-1][1]
    history = whole.run()
    assert {part for part, _ in seen} == {0, 1, 2}
    for part, examples in seen:
        start, end = whole.parts[part]
        assert start <= examples.min() and examples.max() < end
    assert [path.stem for path in sorted((tmp_path / "whole" / "parts").iterdir())] == ["part_01", "part_02"]
    with pytest.raises(KeyboardInterrupt):
        trainer("stopped").run(stop)
    assert trainer("stopped").run().losses == history.losses
    with pytest.raises(DeprojectorError, match="needs patience"):
        replace(recipe, patience=0)
