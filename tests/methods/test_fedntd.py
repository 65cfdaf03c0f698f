"""FedNTD: the global model's view of the classes that are not true."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from consilia.core.determinism import state_digest
from consilia.methods import Round
from consilia.methods.fedntd import TWO_CLASSES, not_true_distillation
from tests.methods.plain import NAMES, client_of, cross_entropy, equal, network, orders, sgd, site_data


def by_hand(student: Tensor, teacher: Tensor, targets: list[int], tau: float) -> float:
    """Loop by loop: the true class is gone before the softmax."""
    total = 0.0
    for z, g, y in zip(student.tolist(), teacher.tolist(), targets, strict=True):
        others = [c for c in range(len(z)) if c != y]
        for_student, for_teacher = (sum(math.exp(v[c] / tau) for c in others) for v in (z, g))
        for c in others:
            p, q = math.exp(g[c] / tau) / for_teacher, math.exp(z[c] / tau) / for_student
            total += p * math.log(p / q)
    return tau**2 * total / len(targets)


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("classes", [3, 5])
def test_the_distillation_by_hand(classes: int, tau: float) -> None:
    order = torch.Generator().manual_seed(1)
    z, g = (torch.randn(7, classes, generator=order, dtype=torch.float64) * 2 for _ in range(2))
    y = torch.randint(classes, (7,), generator=order)
    expected = by_hand(z, g, y.tolist(), tau)
    assert float(not_true_distillation(z, g, y, tau)) == pytest.approx(expected, rel=1e-12)
    # KL(global || local), not the other way round.
    assert abs(float(not_true_distillation(g, z, y, tau)) - expected) > 0.001


def test_the_true_class_has_no_part_in_it() -> None:
    """Removed after the softmax, its logit would still divide the others."""
    z, g, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    z.requires_grad_()
    plain = not_true_distillation(z, g, y)
    plain.backward()
    assert torch.equal(z.grad[torch.arange(4), y], torch.zeros(4))
    other = z.detach().clone()
    other[torch.arange(4), y] = 50.0
    assert float(not_true_distillation(other, g, y)) == float(plain.detach())


def test_a_round_by_hand() -> None:
    data, client, model, teacher = site_data(), client_of("fedntd", beta=0.7, temperature=2.0), network(), network()

    def loss(i: Tensor) -> Tensor:
        inputs, labels = data.train.inputs[i], data.train.labels[i]
        z, g = model(inputs), teacher(inputs).detach()
        terms = []
        for row, held, y in zip(z, g, labels.tolist(), strict=True):
            others = [c for c in range(3) if c != y]
            p, q = (held[others] / 2).softmax(0), (row[others] / 2).softmax(0)
            terms.append((p * (p / q).log()).sum())
        return cross_entropy(z, labels) + 0.7 * 4 * torch.stack(terms).mean()

    update = client.train(Round(1, client.state()))
    sgd(model, NAMES, loss, orders(11))
    equal(dict(update.state), model.state_dict())


def test_of_two_classes_nothing_is_distilled() -> None:
    z, g = torch.randn(5, 2, requires_grad=True), torch.randn(5, 2)
    loss = not_true_distillation(z, g, torch.tensor([0, 1, 1, 0, 1]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(z.grad, torch.zeros(5, 2))


def test_with_two_classes_it_is_fedavg_to_the_byte() -> None:
    ntd, plain = (client_of(name, site_data(classes=2)) for name in ("fedntd", "fedavg"))
    assert ntd.method.same_as(2) == ("fedavg", TWO_CLASSES)
    state = ntd.state()
    for number in (1, 2):
        state = dict(ntd.train(Round(number, state)).state)
        assert state_digest(state) == state_digest(plain.train(Round(number, plain.state())).state)
    # The teacher is left out, not wrong: with it the steps are the same.
    ntd._teacher, plain_loss = ntd.frozen_copy(), plain.loss
    batch = next(ntd.batches(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(ntd.loss(batch), plain_loss(batch), rtol=0, atol=0)


def test_with_three_classes_or_more_it_is_its_own() -> None:
    ntd, plain = client_of("fedntd"), client_of("fedavg")
    assert ntd.method.same_as(3) is None
    state = ntd.state()
    assert state_digest(ntd.train(Round(1, state)).state) != state_digest(plain.train(Round(1, state)).state)
    off = client_of("fedntd", beta=0)
    assert off.method.same_as(3) == ("fedavg", "beta = 0 leaves the distillation out")
    assert state_digest(off.train(Round(1, state)).state) == state_digest(plain.train(Round(1, state)).state)


def test_the_teacher_is_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    client = client_of("fedntd", model=model)
    client.train(Round(1, client.state()))
    teacher = client._teacher.decode
    assert not any(module.training for module in teacher.modules())
    assert int(teacher[1].num_batches_tracked) == 0
