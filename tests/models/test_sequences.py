"""The networks for signals and series: the GRU against its equations, a mean over time, and cases alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.data.loading import load_site
from consilia.models.sequences import SeriesGRU, SignalCNN
from consilia.study.study import Study, study_config
from tests.data import test_signals, test_timeseries


def randoms(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_gru_by_its_equations() -> None:
    model = SeriesGRU(3, features=4, width=8)
    series = randoms(2, 5, 4)
    weights = dict(model.recurrent.named_parameters())
    from_input = weights["weight_ih_l0"], weights["bias_ih_l0"]
    from_state = weights["weight_hh_l0"], weights["bias_hh_l0"]
    state = torch.zeros(2, 8)
    for step in series.unbind(1):
        reset_x, update_x, new_x = nn.functional.linear(step, *from_input).chunk(3, dim=1)
        reset_h, update_h, new_h = nn.functional.linear(state, *from_state).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        state = update * state + (1 - update) * new
    torch.testing.assert_close(model(series), model.head(state))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(SignalCNN(2, leads=12), randoms(4, 12, 1000)), (SeriesGRU(2, features=48), randoms(4, 12, 48))],
    ids=["signals", "series"],
)
def test_a_case_does_not_depend_on_its_batch(model: nn.Module, inputs: torch.Tensor) -> None:
    model.train()
    alone = torch.cat([model(case[None]) for case in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-4, atol=1e-5)
    assert alone.shape == (4, 2)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)


@pytest.mark.parametrize(
    ("data", "model"),
    [(test_signals, SignalCNN(2, leads=2)), (test_timeseries, SeriesGRU(2, features=2))],
    ids=["signals", "series"],
)
def test_they_are_the_defaults_of_their_data(tmp_path: Path, data: ModuleType, model: nn.Module) -> None:
    site = data.make_site(tmp_path)
    chosen = study_config(Study(), "fedavg", 0, {"h": site}).model
    built = chosen.build(seed=0, allowed=DEFAULT_ALLOWED, folders={})
    assert type(built) is type(model)
    inputs = load_site(site, "diagnosis").test.inputs
    assert built(inputs).shape == (len(inputs), 2)
