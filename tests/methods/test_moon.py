"""MOON: features towards the global model's, away from those of the site's last model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from consilia.core.determinism import state_digest
from consilia.methods import Round
from consilia.methods.moon import contrastive_loss
from consilia.models.cnn import FourLayerCNN
from consilia.models.head import head_name, logits_and_features
from consilia.models.resnet import SmallResNet
from tests.methods.plain import NAMES, client_of, cross_entropy, equal, network, orders, sgd, site_data


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_the_loss_by_hand() -> None:
    own, received, previous = (torch.randn(6, 4, dtype=torch.float64) for _ in range(3))
    cases = []
    for z, g, p in zip(own.tolist(), received.tolist(), previous.tolist(), strict=True):
        towards, away = math.exp(cosine(z, g) / 0.5), math.exp(cosine(z, p) / 0.5)
        cases.append(-math.log(towards / (towards + away)))
    loss = contrastive_loss(own, received, previous, 0.5)
    assert float(loss) == pytest.approx(sum(cases) / 6, rel=1e-12)
    assert float(contrastive_loss(received, received, -received, 0.5)) == pytest.approx(math.log1p(math.exp(-4)))


def test_a_small_temperature_does_not_overflow() -> None:
    z = torch.ones(1, 2)
    # exp(1 / 1e-3) is no float: the loss is (1 - -1) / 1e-3.
    assert float(contrastive_loss(z, -z, z, 1e-3)) == pytest.approx(2000)
    assert float(contrastive_loss(z, z, -z, 1e-3)) == pytest.approx(0, abs=1e-6)
    dead = torch.zeros(1, 2, requires_grad=True)
    contrastive_loss(dead, z, -z, 0.5).backward()
    assert bool(dead.grad.isfinite().all())


def features(model: nn.Module, inputs: Tensor) -> Tensor:
    return model.layers[1](model.layers[0](inputs))


def test_three_rounds_by_hand() -> None:
    data, client, model = site_data(), client_of("moon", mu=2.0), network()
    received = network().state_dict()
    own = None
    for number in (1, 2, 3):
        teacher, last = network(), network()
        teacher.load_state_dict(received)
        # The site's own last model, not the global one before this; in the first round the global one.
        last.load_state_dict(received if own is None else own)

        def loss(i: Tensor, teacher: nn.Module = teacher, last: nn.Module = last) -> Tensor:
            inputs, labels = data.train.inputs[i], data.train.labels[i]
            z, g, p = (features(net, inputs) for net in (model, teacher, last))
            up, down = ((nn.functional.cosine_similarity(z, t.detach()) / 0.5).exp() for t in (g, p))
            return cross_entropy(model(inputs), labels) + 2.0 * -(up / (up + down)).log().mean()

        model.load_state_dict(received)
        update = client.train(Round(number, received))
        sgd(model, NAMES, loss, orders(11, number), number)
        equal(dict(update.state), model.state_dict())
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        equal(client.state_dict(), own)
        # Other sites have a part in the next global model.
        received = {name: tensor * 0.9 + 0.05 for name, tensor in own.items()}


def test_a_first_round_is_fedavgs() -> None:
    client = client_of("moon", mu=5.0)
    plain, state = client_of("fedavg"), network().state_dict()
    equal(dict(client.train(Round(1, state)).state), dict(plain.train(Round(1, state)).state))


def test_without_the_term_it_is_fedavg_to_the_byte() -> None:
    client, plain = client_of("moon", mu=0), client_of("fedavg")
    assert client.method.same_as(3) == ("fedavg", "mu = 0 leaves the contrastive term out")
    assert client_of("moon").method.same_as(2) is None
    state = client.state()
    for number in (1, 2):
        assert state_digest(client.train(Round(number, state)).state) == state_digest(
            plain.train(Round(number, state)).state
        )


def test_teachers_are_in_evaluation_mode_and_do_not_change() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    client = client_of("moon", model=model, head="3")
    first = client.state()
    own = dict(client.train(Round(1, first)).state)
    client.train(Round(2, first))
    received, last = client._teachers
    for teacher, state in ((received, first), (last, own)):
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert state_digest(teacher.state_dict()) == state_digest(state)


@pytest.mark.parametrize(
    ("model", "width"), [(FourLayerCNN(3), 512), (SmallResNet(3, width=8), 64), (SmallResNet(3, 1, 16), 128)]
)
def test_features_are_what_enters_the_head(model: nn.Module, width: int) -> None:
    images, head = torch.randn(2, 1, 28, 28), head_name(model)
    logits, found = logits_and_features(model, head, model, images)
    assert found.shape == (2, width)
    torch.testing.assert_close(model.get_submodule(head)(found), logits)
    if isinstance(model, SmallResNet):
        assert torch.equal(model.features(images), found)
