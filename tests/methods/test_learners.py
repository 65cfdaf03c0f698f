"""Local training of each method against plain PyTorch, and what the methods share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError
from consilia.data.dataset import SiteData, Split, empty_split
from consilia.methods.catalogue import METHODS
from consilia.methods.config import TrainingConfig
from consilia.methods.fedkper.config import FedKPerConfig
from consilia.methods.fedkper.learner import FedKPerLearner
from consilia.methods.fedprox.learner import proximal_term
from consilia.methods.learner import TrainingStopped, batches
from consilia.models.mlp import MLP

ANY_MODEL = sorted(set(METHODS) - {"fedgpl", "fedkim"})  # which need models of their own: test_fedgpl.py, fedkim/
TRAINING = TrainingConfig(local_epochs=2, batch_size=4, learning_rate=0.1, device="cpu")


def site_data(labels: list[int] | None = None, cases: int = 11) -> SiteData:
    order = torch.Generator().manual_seed(3)
    inputs = torch.randn(cases, 5, generator=order)
    truth = torch.tensor(labels) if labels else (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    train = Split(inputs, truth, tuple(f"case-{i}" for i in range(cases)))
    return SiteData("a", "diagnosis", ("x", "y", "z"), train, empty_split(inputs), train)


def learner(method: str, data: SiteData | None = None, training: TrainingConfig = TRAINING, **options):
    torch.manual_seed(0)
    furniture = METHODS[method]
    return furniture.learner(MLP(5, 3, hidden=[8]), data or site_data(), training, furniture.config(**options), seed=1)


def by_hand(data: SiteData, loss_of, rounds: int = 1) -> dict[str, torch.Tensor]:
    """The same SGD written out: batches from the documented seed, momentum 0.9, weight decay 1e-5."""
    torch.manual_seed(0)
    model = MLP(5, 3, hidden=[8])
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "a", rounds))
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    teacher = copy.deepcopy(model)
    lr = 0.1 * 0.99 ** (rounds - 1)
    first = True
    for _ in range(2):
        for index in torch.randperm(11, generator=order).split(4):
            loss = loss_of(model, teacher, data.train.inputs[index], data.train.labels[index])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                    g = g + 1e-5 * p
                    v.copy_(g if first else 0.9 * v + g)
                    p -= lr * v
            first = False
    return model.state_dict()


def test_fedavg_is_plain_sgd() -> None:
    node = learner("fedavg")
    update = node.train(node.state(), 1)
    expected = by_hand(site_data(), lambda m, t, x, y: nn.functional.cross_entropy(m(x), y))
    for name, value in update.tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert update.samples == 11
    assert update.score is None


def test_learning_rate_decays_once_per_round() -> None:
    node = learner("fedavg")
    update = node.train(node.state(), 3)
    expected = by_hand(site_data(), lambda m, t, x, y: nn.functional.cross_entropy(m(x), y), rounds=3)
    torch.testing.assert_close(update.tensors["layers.0.weight"], expected["layers.0.weight"], rtol=1e-5, atol=1e-6)


def test_fedprox_adds_the_proximal_term() -> None:
    def loss(model, teacher, x, y):
        drift = sum(((p - q) ** 2).sum() for p, q in zip(model.parameters(), teacher.parameters(), strict=True))
        return nn.functional.cross_entropy(model(x), y) + 0.5 * 0.7 * drift

    node = learner("fedprox", mu=0.7)
    update = node.train(node.state(), 1)
    expected = by_hand(site_data(), loss)
    for name, value in update.tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    # (0.5 / 2) * (1^2 + 2^2)
    assert float(proximal_term([torch.tensor([1.0]), torch.tensor([2.0])], [torch.zeros(1)] * 2, 0.5)) == 1.25


def test_fedkper_is_the_gated_loss_and_scores_itself() -> None:
    def loss(model, teacher, x, y):
        z, zg = model(x), teacher(x).detach()
        lam = min(1 / (float(nn.functional.cross_entropy(zg, y)) + 1e-8), 10)
        kl = (zg.softmax(1) * (zg.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
        return nn.functional.cross_entropy(z, y) + lam * kl

    data = site_data()
    node = learner("fedkper")
    update = node.train(node.state(), 1)
    expected = by_hand(data, loss)
    for name, value in update.tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    model = MLP(5, 3, hidden=[8])
    model.load_state_dict(update.tensors)
    accuracy = round(float((model(data.train.inputs).argmax(1) == data.train.labels).double().mean()), 4)
    share = data.train.labels.bincount(minlength=3).double() / 11
    diversity = float(-(share * (share + 1e-12).log()).sum()) / torch.log(torch.tensor(3.0)).item()
    assert update.score == pytest.approx(accuracy * (diversity + 1e-6), rel=1e-6)
    assert update.metrics["train_accuracy"] == accuracy


def test_both_ablations_together_are_fedavg_to_the_bit() -> None:
    plain, ablated = learner("fedavg"), learner("fedkper", gate_cap=0, weighting="samples")
    one, other = plain.train(plain.state(), 1), ablated.train(ablated.state(), 1)
    assert state_digest(one.tensors) == state_digest(other.tensors)
    assert (one.samples, one.score) == (other.samples, other.score)


@pytest.mark.parametrize("method", ANY_MODEL)
def test_training_is_reproducible_and_starts_from_the_given_state(method: str) -> None:
    node = learner(method)
    start = node.state()
    first = state_digest(node.train(start, 1).tensors)
    assert state_digest(node.train(start, 1).tensors) == first
    assert state_digest(node.train(start, 2).tensors) != first
    assert state_digest(start) == state_digest(learner(method).state())


@pytest.mark.parametrize("method", ANY_MODEL)
def test_a_one_class_site_trains(method: str) -> None:
    node = learner(method, site_data([2] * 11))
    update = node.train(node.state(), 1)
    assert all(bool(value.isfinite().all()) for value in update.tensors.values())
    if method == "fedkper":
        assert 0 < update.score <= 1e-6


def test_validation_reliability_needs_a_validation_split() -> None:
    data = site_data()
    node = FedKPerLearner(MLP(5, 3), data, TRAINING, FedKPerConfig(reliability="validation"), seed=0)
    with pytest.raises(ConfigError, match="reliability: validation"):
        node.train(node.state(), 1)
    whole = SiteData("a", "diagnosis", data.class_names, data.train, data.train, data.test)
    node = FedKPerLearner(MLP(5, 3), whole, TRAINING, FedKPerConfig(reliability="validation"), seed=0)
    assert "validation_accuracy" in node.train(node.state(), 1).metrics


def test_teacher_is_in_evaluation_mode() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    node = FedKPerLearner(Noisy(), site_data(), TRAINING, FedKPerConfig(), seed=0)
    update = node.train(node.state(), 1)
    assert not node._teacher.decode.training
    assert int(node._teacher.decode.net[1].num_batches_tracked) == 0
    assert int(update.tensors["net.1.num_batches_tracked"]) == 2 * 3


def test_gradient_clipping_bounds_each_step() -> None:
    clipped = TRAINING.model_copy(
        update={"gradient_clip": 1e-3, "local_epochs": 1, "momentum": 0.0, "weight_decay": 0.0}
    )
    node = learner("fedavg", training=clipped)
    start = node.state()
    moved = node.train(start, 1).tensors
    distance = sum(float((moved[name] - start[name]).square().sum()) for name in start) ** 0.5
    assert distance <= 3 * 0.1 * 1e-3 * 1.001  # three steps of at most lr * clip


def test_stop_is_heard_between_batches() -> None:
    node = learner("fedavg")
    node.should_stop = lambda: True
    with pytest.raises(TrainingStopped, match="site 'a'"):
        node.train(node.state(), 1)


def test_batches_cover_every_case_once_and_never_leave_one_alone() -> None:
    for cases, sizes in ((9, [4, 5]), (8, [4, 4]), (1, [1]), (4, [4]), (10, [4, 4, 2])):
        pieces = list(batches(cases, 4, torch.Generator().manual_seed(0)))
        assert [len(piece) for piece in pieces] == sizes
        assert sorted(torch.cat(pieces).tolist()) == list(range(cases))
