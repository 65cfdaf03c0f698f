"""Survival as a method sees it: a plain loop over batches, batches without an event, and methods that cannot."""

from __future__ import annotations

import pytest
import torch

from consilia.core.errors import ConfigError
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.federation.config import run_config
from consilia.methods import Round, TrainingConfig
from consilia.methods.registry import make_method, method_config, method_names
from consilia.methods.tasks import TASKS
from consilia.models.mlp import MLP
from tests.methods import support
from tests.methods.plain import orders

SIZE, RATE = 4, 0.1
TRAINING = TrainingConfig(
    local_epochs=2, batch_size=SIZE, learning_rate=RATE, momentum=0.0, weight_decay=0.1, device="cpu"
)
LINEAR = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 3, "num_classes": 1, "hidden": []}}


def site_data(events: list[int]) -> SiteData:
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(len(events), 3, generator=draw)
    times = torch.rand(len(events), generator=draw, dtype=torch.float64) + 0.5
    labels = torch.stack([times, torch.tensor(events, dtype=torch.float64)], dim=1)
    split = Split(inputs, labels, tuple(f"case-{i}" for i in range(len(events))))
    none = empty_split(inputs, labels)
    return SiteData("a", {"os": DatasetSplits(("censored", "event"), split, none, split, "survival")})


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(3, 1, hidden=[])


def plain_loss(weight: torch.Tensor, bias: torch.Tensor, split: Split, batch: torch.Tensor) -> torch.Tensor:
    scores = (split.inputs[batch] @ weight.T + bias)[:, 0].double()
    times, events = split.labels[batch].T
    terms = [torch.logsumexp(scores[times >= times[i]], 0) - scores[i] for i in range(len(batch)) if events[i]]
    return sum(terms) / len(batch)


@pytest.mark.parametrize("events", [[1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0], [1] + [0] * 10])
def test_training_is_a_plain_loop_without_the_batches_that_have_no_event(events: list[int]) -> None:
    data, model = site_data(events), network()
    weight, bias = (model.state_dict()[f"layers.0.{name}"].clone().requires_grad_() for name in ("weight", "bias"))
    steps, losses = 0, []
    for batch in orders(len(events)):
        if not data.train.labels[batch, 1].any():
            losses.append(0.0)
            continue
        loss = plain_loss(weight, bias, data.train, batch)
        for tensor, slope in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
            tensor.data -= RATE * (slope + 0.1 * tensor.data)
        losses.append(loss.item() * len(batch))
        steps += 1
    client = support.client_of("fedavg", model, data, TRAINING)
    client.load({})
    result = client.fit(Round(1, {}))
    assert result.steps == steps
    assert result.steps == (6 if sum(events) > 1 else 2)
    assert torch.allclose(client.state()["layers.0.weight"], weight, atol=1e-6)
    assert result.loss == pytest.approx(sum(losses[len(losses) // 2 :]) / len(events), rel=1e-5)


def test_batches_without_an_event_can_make_a_step_along_what_else_there_is() -> None:
    """Of 11 cases one has the event: in 6 batches of two passes two have it, and four halve the weights by decay."""
    data, model = site_data([1] + [0] * 10), network()
    training = TRAINING.model_copy(update={"eventless_batches": "step", "weight_decay": 5.0})
    weight, bias = (model.state_dict()[f"layers.0.{name}"].clone().requires_grad_() for name in ("weight", "bias"))
    for batch in orders(11):
        loss = plain_loss(weight, bias, data.train, batch) + 0 * (weight.sum() + bias.sum())
        for tensor, slope in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
            tensor.data = 0.5 * tensor.data - RATE * slope
    client = support.client_of("fedavg", model, data, training)
    client.load({})
    assert client.fit(Round(1, {})).steps == 6
    assert torch.allclose(client.state()["layers.0.weight"], weight, atol=1e-6)
    assert torch.allclose(client.state()["layers.0.bias"], bias, atol=1e-6)


def test_scaffold_of_a_round_without_a_step_keeps_its_control() -> None:
    model = network()
    data = site_data([0] * 9)
    training = TRAINING.model_copy(update={"weight_decay": 0.0})
    client = support.client_of("scaffold", model, data, training)
    payload = {f"{name}": torch.zeros(spec.shape) for name, spec in client.method.payload(model).items()}
    update = client.train(Round(1, client.state(), payload))
    assert all(bool((tensor == 0).all()) for tensor in update.extras.values())


def test_a_model_with_another_number_of_outputs_is_refused() -> None:
    torch.manual_seed(0)
    client = support.client_of("fedavg", MLP(3, 2, hidden=[]), site_data([1, 0]), TRAINING)
    with pytest.raises(ConfigError, match=r"the model gives \(1, 2\), the data need \(1,\)"):
        client.check_model()


def test_the_loss_couples_cases() -> None:
    assert {name for name, task in TASKS.items() if task.couples_cases} == {"survival"}


@pytest.mark.parametrize("name", sorted(method_names()))
def test_a_method_says_whether_it_learns_survival(name: str) -> None:
    able = {"fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "scaffold", "fedbn", "ditto", "fedala"}
    if name in ("fedkim", "fedgpl"):
        pytest.skip("needs a configuration of its own")
    tasks = make_method(method_config(name)).tasks
    assert ("survival" in tasks) == (name in able)
    if name not in able:
        training = {"momentum": 0.0, "weight_decay": 0.0}
        with pytest.raises(ConfigError, match=f"method {name} learns .*, the run's task is survival"):
            run_config({"method": name, "task": "survival", "model": LINEAR, "training": training})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"select_by": "auroc"}, r"select_by of a survival is one of \['c_index', 'loss'\]"),
        ({"training": {"class_weights": "balanced"}}, "class_weights are for a classification"),
    ],
)
def test_settings_of_other_tasks_are_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_config({"method": "fedavg", "task": "survival", "model": LINEAR, **values})
    assert run_config({"method": "fedavg", "task": "survival", "model": LINEAR}).primary_metric == "loss"
