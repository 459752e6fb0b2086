"""The loop that trains the demo models: Muon's steps, and a run that was stopped and goes on."""

import pytest
import torch
import train_demo_models
from demo_models.muon import Muon, orthogonal
from torch import nn

from demo_models import training


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 24), (2, 24, 6)])
def test_orthogonal_keeps_directions_and_levels_their_strengths(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, strengths, vt = torch.linalg.svd(matrices, full_matrices=False)
    levelled = u.mT @ orthogonal(matrices) @ vt.mT
    found = levelled.diagonal(dim1=1, dim2=2)
    told_apart = strengths > 0.1 * strengths.amax(1, keepdim=True)
    assert (found[told_apart] > 0.6).all() and (found < 1.3).all()
    assert (levelled - torch.diag_embed(found)).abs().max() < 0.05  # bfloat16


def test_muon_takes_a_kernel_as_a_matrix_and_steps_as_far_as_adam():
    kernel = nn.Parameter(torch.zeros(16, 4, 3, 3))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(2))
    Muon([kernel], lr=0.5).step()
    moved = kernel.detach()
    assert 0.5 * 0.2 * 0.6 < moved.square().mean().sqrt() < 0.5 * 0.2 * 1.3
    assert (moved * kernel.grad).sum() < 0


class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12), nn.LayerNorm(12))


class Clock:
    """Seconds of computing: one per step."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_stopped_run_resumes_to_the_very_same_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "PAUSE", -1.0)  # a checkpoint at every step
    clock = Clock()
    monkeypatch.setattr(training.Place, "seconds", lambda _: clock())
    data = torch.randn(31, 8, 12, generator=torch.Generator().manual_seed(3))

    def trained(folder, stop_at=None):
        monkeypatch.setattr(training, "HERE", training.Place(tmp_path / folder))
        net = Net()

        def loss_of(share):
            step = round(share * 30)
            if step == stop_at:
                raise KeyboardInterrupt
            clock.now += 1.0
            return (net(data[step]) - data[step].flip(1)).square().mean()

        return training.train("net", net, loss_of, 30 / 60, 1e-2, warmup=3, muon=True)

    whole = trained("whole").state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained("halves", stop_at=17)
    again = trained("halves").state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert not torch.equal(whole["0.weight"], Net().state_dict()["0.weight"])
    assert (tmp_path / "whole" / "logs" / "net.csv").is_file()
    clock.now += 100
    assert all(
        torch.equal(whole[key], value) for key, value in trained("whole").state_dict().items()
    )  # not trained again


def test_shares_make_up_the_whole_and_an_incomplete_set_is_not_published(monkeypatch, tmp_path, capsys):
    assert sum(train_demo_models.SHARES.values()) == train_demo_models.WHOLE
    root = tmp_path / "checkout"
    (root / "demo_models" / "weights").mkdir(parents=True)
    (root / "demo_models" / "weights" / "old.safetensors").write_bytes(b"old")
    monkeypatch.setattr(training.layout, "ROOT", root)
    here = training.Place(tmp_path / "run")
    for name in training.COMPLETE[:-1]:
        path = here.weights / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")
    here.logs.mkdir()
    assert train_demo_models.publish(here) == 1
    assert training.COMPLETE[-1] in capsys.readouterr().err
    assert [path.name for path in (root / "demo_models").rglob("*.safetensors")] == ["old.safetensors"]
    (here.weights / f"{training.COMPLETE[-1]}.safetensors").write_bytes(b"new")
    assert train_demo_models.publish(here) == 0
    assert len(list((root / "demo_models").rglob("*.safetensors"))) == len(training.COMPLETE)
