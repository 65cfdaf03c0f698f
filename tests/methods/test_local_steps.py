"""A number of optimiser steps per round: which batches they are, over rounds, sampling and a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from consilia.core.determinism import derive_seed, state_digest
from consilia.data.limits import SiteLimits
from consilia.federation.site_limits import compared
from consilia.methods import Round, TrainingConfig
from consilia.methods import client as client_half
from consilia.methods.fit import shuffled
from consilia.methods.passes import batch_count, place_in_passes
from consilia.models.mlp import MLP
from consilia.study.baselines import run_baseline
from tests.federation.support import Federation, small
from tests.methods.test_learners import client_of, site_data

STEPS = TrainingConfig(
    local_steps=4, batch_size=4, learning_rate=0.1, momentum=0, weight_decay=0, learning_rate_decay=1, device="cpu"
)


def taken(client, number: int, **fit) -> list[list[int]]:
    """The cases of each batch of a fit, by what is left of their inputs in the loss."""
    seen: list[list[int]] = []
    inputs, real = client.data.train.inputs, client.loss

    def loss(batch):
        seen.append([int((inputs == row).all(1).nonzero()[0]) for row in batch.inputs])
        return real(batch)

    client.loss = loss
    client.fit(Round(number, {}), **fit)
    client.loss = real
    return seen


def passes(count: int, cases: int = 11) -> list[list[int]]:
    """Batches of 4 of passes in a row, from the documented seeds."""
    orders = [torch.Generator().manual_seed(derive_seed(1, "batches", "a", "pass", n)) for n in range(count)]
    return [piece.tolist() for order in orders for piece in torch.randperm(cases, generator=order).split(4)]


def test_a_round_goes_on_in_the_data_where_the_one_before_has_ended() -> None:
    client = client_of("fedavg", training=STEPS)
    # 11 cases are 3 batches: rounds of 4 steps cross a pass each.
    assert taken(client, 1) + taken(client, 2) + taken(client, 3) == passes(4)
    # A site that was not sampled in rounds 1 and 2, or whose process is a new one.
    assert taken(client_of("fedavg", training=STEPS), 3) == passes(4)[8:]


def test_steps_of_fedavg_are_plain_sgd() -> None:
    client, data = client_of("fedavg", training=STEPS), site_data()
    state = client.state()
    for number in (1, 2):
        state = client.train(Round(number, state)).state
    torch.manual_seed(0)
    model = MLP(5, 3, hidden=[8])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in passes(3)[:8]:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.train.inputs[batch]), data.train.labels[batch]).backward()
        optimiser.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


def test_a_fit_that_names_its_passes_makes_passes() -> None:
    client = client_of("fedavg", training=STEPS)
    own = taken(client, 2, epochs=2, purpose="own")
    order = torch.Generator().manual_seed(derive_seed(1, "batches", "own", "a", 2))
    assert own == [piece.tolist() for _ in range(2) for piece in torch.randperm(11, generator=order).split(4)]


@pytest.mark.parametrize("cases", range(1, 12))
@pytest.mark.parametrize("size", [1, 2, 4, 20])
@pytest.mark.parametrize("last", ["join", "keep"])
def test_batches_are_counted_as_they_are_made(cases: int, size: int, last) -> None:
    training = TrainingConfig(batch_size=size, last_batch=last)
    assert batch_count(cases, training) == len(list(shuffled(cases, size, torch.Generator(), last)))


def test_places_in_passes_by_hand() -> None:
    assert list(place_in_passes(4, 4, 3)) == [(1, slice(1, 3)), (2, slice(0, 2))]
    assert list(place_in_passes(0, 2, 5)) == [(0, slice(0, 2))]


def test_steps_are_limited_as_passes() -> None:
    config = small(training={"local_steps": 100, "batch_size": 4, "device": "cpu"})

    def row(cases: int):
        found = compared(config, SiteLimits(), training_cases={"diagnosis": cases} if cases else None)
        return next(row for row in found if row.limit == "max_local_epochs")

    # 100 steps over 17 cases in batches of 4, 4, 4, 5 are 25 passes; over 85 cases (21 batches) less than 5.
    assert (row(17).asked, row(17).ok) == ("25 (100 steps of 4 cases)", False)
    assert (row(85).asked, row(85).ok) == ("5 (100 steps of 4 cases)", True)
    assert (row(0).asked, row(0).ok) == ("100 steps of 4 cases", True)


def test_a_run_of_steps_resumes_to_the_same_bytes(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    training = {"local_steps": 5, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}
    config = small("fedavg", rounds=4, participation=0.5, training=training, evaluate_every=0)
    whole = Federation(config, wisconsin, tmp_path / "a")
    whole.rounds()
    broken, trained = Federation(config, wisconsin, tmp_path / "b"), 0

    def stop(site, task, reply):
        nonlocal trained
        trained += task.request.kind == "train"
        if trained > 5:
            raise KeyboardInterrupt
        return reply

    broken.bend = stop
    with pytest.raises(KeyboardInterrupt):
        broken.rounds()
    again = Federation(config, wisconsin, tmp_path / "b")
    again.rounds()
    assert state_digest(again.coordinator.state) == state_digest(whole.coordinator.state)


def test_a_baseline_makes_as_many_steps_as_the_sites(wisconsin: dict[str, Path], monkeypatch) -> None:
    counted: list[int] = []
    real = client_half.fit

    def counting(*given, **named):
        result = real(*given, **named)
        counted.append(result.steps)
        return result

    monkeypatch.setattr(client_half, "fit", counting)
    training = {"local_steps": 3, "batch_size": 16, "device": "cpu"}
    config = small("fedavg", rounds=2, training=training, evaluate_every=0)
    run_baseline("centralised", config, wisconsin)
    assert counted == [12, 12]
    counted.clear()
    run_baseline("local-only", config, wisconsin)
    assert counted == [3] * 8


def test_adam_is_torchs() -> None:
    training = STEPS.model_copy(update={"optimiser": "adam", "weight_decay": 0.01})
    client, data = client_of("fedavg", training=training), site_data()
    state = client.train(Round(1, client.state())).state
    torch.manual_seed(0)
    model = MLP(5, 3, hidden=[8])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.01)
    for batch in passes(2)[:4]:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.train.inputs[batch]), data.train.labels[batch]).backward()
        optimiser.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
