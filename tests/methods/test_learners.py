"""Local training of each method against plain PyTorch, and what the methods share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.core.errors import ConfigError, TrainingStopped
from consilia.core.stop import never
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.methods import Client, Round, TrainingConfig, proximal_term
from consilia.methods.fit import shuffled
from consilia.methods.registry import method_class, method_names
from consilia.methods.tasks.classification import balanced_weights
from consilia.models.mlp import MLP
from tests.methods import support
from tests.methods.networks import Normed

ANY_MODEL = [name for name in method_names() if method_class(name).any_model]
TRAINING = TrainingConfig(local_epochs=2, batch_size=4, learning_rate=0.1, device="cpu")


def site_data(labels: list[int] | None = None, cases: int = 11) -> SiteData:
    order = torch.Generator().manual_seed(3)
    inputs = torch.randn(cases, 5, generator=order)
    truth = torch.tensor(labels) if labels else (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    train = Split(inputs, truth, tuple(f"case-{i}" for i in range(cases)))
    return SiteData("a", {"diagnosis": DatasetSplits(("x", "y", "z"), train, empty_split(inputs), train)})


def client_of(
    method: str,
    data: SiteData | None = None,
    training: TrainingConfig = TRAINING,
    model: nn.Module | None = None,
    should_stop=never,
    **options,
) -> Client:
    torch.manual_seed(0)
    network = model or MLP(5, 3, hidden=[8])
    return support.client_of(
        {"method": method, **options}, network, data or site_data(), training, should_stop=should_stop
    )


def train(client: Client, number: int = 1, state=None):
    return client.train(Round(number, client.state() if state is None else state))


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
    node = client_of("fedavg")
    update = train(node)
    expected = by_hand(site_data(), lambda m, t, x, y: nn.functional.cross_entropy(m(x), y))
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert update.cases == 11
    assert update.weight is None


def test_learning_rate_decays_once_per_round() -> None:
    node = client_of("fedavg")
    update = train(node, 3)
    expected = by_hand(site_data(), lambda m, t, x, y: nn.functional.cross_entropy(m(x), y), rounds=3)
    torch.testing.assert_close(update.state["layers.0.weight"], expected["layers.0.weight"], rtol=1e-5, atol=1e-6)


def test_fedprox_adds_the_proximal_term() -> None:
    def loss(model, teacher, x, y):
        drift = sum(((p - q) ** 2).sum() for p, q in zip(model.parameters(), teacher.parameters(), strict=True))
        return nn.functional.cross_entropy(model(x), y) + 0.5 * 0.7 * drift

    node = client_of("fedprox", mu=0.7)
    update = train(node)
    expected = by_hand(site_data(), loss)
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    # (0.5 / 2) * (1^2 + 2^2)
    assert (
        float(
            proximal_term(
                {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, {"a": torch.zeros(1), "b": torch.zeros(1)}, 0.5
            )
        )
        == 1.25
    )


def test_fedkper_is_the_gated_loss_and_scores_itself() -> None:
    def loss(model, teacher, x, y):
        z, zg = model(x), teacher(x).detach()
        lam = min(1 / (float(nn.functional.cross_entropy(zg, y)) + 1e-8), 10)
        kl = (zg.softmax(1) * (zg.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
        return nn.functional.cross_entropy(z, y) + lam * kl

    data = site_data()
    node = client_of("fedkper")
    update = train(node)
    expected = by_hand(data, loss)
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    model = MLP(5, 3, hidden=[8])
    model.load_state_dict(update.state)
    accuracy = round(float((model(data.train.inputs).argmax(1) == data.train.labels).double().mean()), 4)
    share = data.train.labels.bincount(minlength=3).double() / 11
    diversity = float(-(share * (share + 1e-12).log()).sum()) / torch.log(torch.tensor(3.0)).item()
    assert update.weight == pytest.approx(accuracy * (diversity + 1e-6), rel=1e-6)
    assert update.fields["train_accuracy"] == accuracy


def test_the_client_gate_weighs_by_the_error_on_all_training_cases() -> None:
    data = site_data()
    weights = []

    def loss(model, teacher, x, y):
        z, zg = model(x), teacher(x).detach()
        # From all cases, by the received model, the same in every batch of the round.
        error = float(nn.functional.cross_entropy(teacher(data.train.inputs).detach(), data.train.labels))
        weights.append(min(1 / (error + 1e-8), 0.95))
        kl = (zg.softmax(1) * (zg.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
        return nn.functional.cross_entropy(z, y) + weights[-1] * kl

    update = train(client_of("fedkper", kd_weight_mode="client", max_kd_weight=0.95))
    expected = by_hand(data, loss)
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert len(set(weights)) == 1
    assert 0.5 < weights[0] < 0.95  # no cap: it is the error that decides
    assert state_digest(update.state) != state_digest(train(client_of("fedkper", max_kd_weight=0.95)).state)


BALANCED = TRAINING.model_copy(update={"class_weights": "balanced"})


def weighted(z, y, data: SiteData):
    """sum_i w_yi l_i / sum_i w_yi with w_c = n / (K n_c), written out."""
    labels = data.train.labels.tolist()
    weights = torch.tensor([len(labels) / (len(set(labels)) * labels.count(label)) for label in y.tolist()])
    losses = -z.log_softmax(1)[torch.arange(len(y)), y]
    return (weights * losses).sum() / weights.sum()


def test_balanced_weights_by_hand() -> None:
    # n = 6, K = 2: 6 / (2 * 4) and 6 / (2 * 2); classes 1 and 3 do not occur.
    assert balanced_weights(torch.tensor([0, 0, 2, 0, 2, 0]), 4).tolist() == [0.75, 0, 1.5, 0]


@pytest.mark.parametrize("labels", [None, [0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0]], ids=["three", "one absent"])
def test_class_weights_weigh_the_cross_entropy_of_fedavg(labels: list[int] | None) -> None:
    data = site_data(labels)
    update = train(client_of("fedavg", data, BALANCED))
    expected = by_hand(data, lambda m, t, x, y: weighted(m(x), y, data))
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert state_digest(update.state) != state_digest(train(client_of("fedavg", data)).state)


def test_class_weights_leave_the_distillation_of_fedkper_unweighted() -> None:
    data = site_data()

    def loss(model, teacher, x, y):
        z, zg = model(x), teacher(x).detach()
        lam = min(1 / (float(nn.functional.cross_entropy(zg, y)) + 1e-8), 10)
        kl = (zg.softmax(1) * (zg.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
        return weighted(z, y, data) + lam * kl

    update = train(client_of("fedkper", data, BALANCED))
    expected = by_hand(data, loss)
    for name, value in update.state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_both_ablations_together_are_fedavg_to_the_bit() -> None:
    plain, ablated = client_of("fedavg"), client_of("fedkper", max_kd_weight=0, weighting="samples")
    one, other = train(plain), train(ablated)
    assert state_digest(one.state) == state_digest(other.state)
    assert (one.cases, one.weight) == (other.cases, other.weight)
    assert ablated.method.same_as(2) == ("fedavg", "max_kd_weight = 0 and weighting: samples leave both halves out")
    assert client_of("fedkper", max_kd_weight=0).method.same_as(2) is None


def test_fedprox_without_its_term_is_fedavg_to_the_bit() -> None:
    plain, ablated = client_of("fedavg"), client_of("fedprox", mu=0)
    assert state_digest(train(plain).state) == state_digest(train(ablated).state)
    assert ablated.method.same_as(2) == ("fedavg", "mu = 0 leaves the proximal term out")
    assert client_of("fedprox").method.same_as(2) is None


PLAIN = TRAINING.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})


def for_any(
    method: str, data: SiteData, model: nn.Module | None = None
) -> tuple[Client, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A site's half with what every method takes, what it exchanges, and what its server sends beside it."""
    torch.manual_seed(0)
    model = model or Normed(5, 3)
    node = client_of(method, data, PLAIN, model)
    return node, node.state(node.shared), dict(support.server_of({"method": method}, model).payload(1))


# Batch normalisation cannot train on one case, and without it there is no FedBN.
@pytest.mark.parametrize("method", [name for name in ANY_MODEL if name != "fedbn"])
def test_a_site_of_one_case_trains(method: str) -> None:
    node, start, payload = for_any(method, site_data(cases=1), MLP(5, 3, hidden=[8]))
    for number in (1, 2):
        update = node.train(Round(number, start, payload))
        assert all(bool(value.isfinite().all()) for value in update.state.values())


@pytest.mark.parametrize("method", ANY_MODEL)
def test_training_is_reproducible_and_starts_from_the_given_state(method: str) -> None:
    node, start, payload = for_any(method, site_data())
    kept = node.state_dict()

    def trained(number: int) -> str:
        node.load_state_dict(copy.deepcopy(kept))
        return state_digest(node.train(Round(number, start, payload)).state)

    first = trained(1)
    assert trained(1) == first
    assert trained(2) != first
    assert state_digest(start) == state_digest(for_any(method, site_data())[1])


@pytest.mark.parametrize("method", ANY_MODEL)
def test_a_one_class_site_trains(method: str) -> None:
    node, start, payload = for_any(method, site_data([2] * 11))
    update = node.train(Round(1, start, payload))
    assert all(bool(value.isfinite().all()) for value in update.state.values())
    if method == "fedkper":
        assert 0 < update.weight <= 1e-6


def test_validation_reliability_needs_a_validation_split() -> None:
    data = site_data()
    node = client_of("fedkper", data, reliability="validation")
    with pytest.raises(ConfigError, match="reliability: validation"):
        train(node)
    whole = SiteData("a", {"diagnosis": DatasetSplits(data.class_names, data.train, data.train, data.test)})
    node = client_of("fedkper", whole, reliability="validation")
    assert "validation_accuracy" in train(node).fields


def test_teacher_is_in_evaluation_mode() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    node = client_of("fedkper", model=Noisy())
    update = train(node)
    assert not node._teacher.decode.training
    assert int(node._teacher.decode.net[1].num_batches_tracked) == 0
    assert int(update.state["net.1.num_batches_tracked"]) == 2 * 3


def test_gradient_clipping_bounds_each_step() -> None:
    clipped = TRAINING.model_copy(
        update={"gradient_clip": 1e-3, "local_epochs": 1, "momentum": 0.0, "weight_decay": 0.0}
    )
    node = client_of("fedavg", training=clipped)
    start = node.state()
    moved = train(node, 1, start).state
    distance = sum(float((moved[name] - start[name]).square().sum()) for name in start) ** 0.5
    assert distance <= 3 * 0.1 * 1e-3 * 1.001  # three steps of at most lr * clip


def test_stop_is_heard_between_batches() -> None:
    node = client_of("fedavg", should_stop=lambda: True)
    with pytest.raises(TrainingStopped, match="site 'a'"):
        train(node)


def test_batches_cover_every_case_once_and_never_leave_one_alone() -> None:
    for cases, sizes in ((9, [4, 5]), (8, [4, 4]), (1, [1]), (4, [4]), (10, [4, 4, 2])):
        pieces = list(shuffled(cases, 4, torch.Generator().manual_seed(0)))
        assert [len(piece) for piece in pieces] == sizes
        assert sorted(torch.cat(pieces).tolist()) == list(range(cases))


def test_a_last_batch_of_one_stays_one_where_it_is_asked_for() -> None:
    training = TRAINING.model_copy(update={"last_batch": "keep"})
    for cases, sizes in ((9, [4, 4, 1]), (8, [4, 4]), (10, [4, 4, 2])):
        batches = client_of("fedavg", site_data(cases=cases), training).batches(torch.Generator().manual_seed(0))
        assert [len(batch) for batch in batches] == sizes
