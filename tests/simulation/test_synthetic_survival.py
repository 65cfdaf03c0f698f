"""The embedded survival data: the hazard ratios that are set are those that are found."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from consilia.data.loading import load_site
from consilia.evaluation.survival import cox_loss
from consilia.simulation.federation import load_federation
from consilia.simulation.synthetic.survival import DEVIATIONS, HAZARD_RATIOS, HOSPITALS, draw_survival


def test_hazard_ratios_are_found_again() -> None:
    table = draw_survival(4000, 2000, 3000, seed=1)
    inputs = np.stack(
        [(table[name] - table[name].mean()) / DEVIATIONS[name] for name in ("age", "marker", "pulse", "sodium")]
        + [table["stage"] == stage for stage in ("2", "3")],
        axis=1,
    ).astype(float)
    labels = torch.tensor(table[["days", "died"]].to_numpy(dtype=float))
    values, beta = torch.from_numpy(inputs), torch.zeros(6, dtype=torch.float64)

    def loss(given: torch.Tensor) -> torch.Tensor:
        return cox_loss(values @ given, labels)

    for _ in range(8):  # Newton's method
        slope, curve = torch.autograd.functional.jacobian(loss, beta), torch.autograd.functional.hessian(loss, beta)
        beta = beta - torch.linalg.solve(curve, slope)
    expected = [math.log(ratio) for ratio in HAZARD_RATIOS.values()]
    errors = torch.linalg.inv(len(table) * curve).diagonal().sqrt().numpy()
    assert errors.max() < 0.06
    assert (np.abs(beta.numpy() - expected) < 3 * errors).all()


def test_hospitals_have_events_in_every_split(tmp_path: Path) -> None:
    for name, path in load_federation("synthetic-survival", tmp_path).items():
        data = load_site(path, "survival")
        assert sum(len(data.split(part)) for part in ("train", "validation", "test")) == HOSPITALS[name].cases
        for part in ("train", "validation", "test"):
            events = int(data.split(part).labels[:, 1].sum())
            assert 5 <= events < len(data.split(part))


def test_the_same_rows_each_time() -> None:
    assert draw_survival(20, 2000, 3000, seed=2).equals(draw_survival(20, 2000, 3000, seed=2))
    assert not draw_survival(20, 2000, 3000, seed=2).equals(draw_survival(20, 2000, 3000, seed=3))
