"""Synthetic ICU series: plausible values, equations between them, what an injured kidney does, and a fair task."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from consilia.core.errors import ConfigError
from consilia.simulation.synthetic.icu import ALL, FEATURES, FLUIDS, LABS, VITALS, IcuStays, draw_icu_stays


@pytest.fixture(scope="module")
def drawn() -> IcuStays:
    return draw_icu_stays(400, seed=1)


def of(drawn: IcuStays, name: str) -> np.ndarray:
    return drawn.values[:, :, FEATURES.index(name)]


def mean_of(values: np.ndarray) -> float:
    return float(np.nanmean(values))


def test_shapes_order_and_bytes(drawn: IcuStays) -> None:
    assert drawn.values.shape == (400, 24, 48)
    assert (*VITALS, *LABS, *FLUIDS) == FEATURES  # the order in which a task's modalities cut the columns
    assert (len(VITALS), len(LABS), len(FLUIDS)) == (8, 39, 1)
    again = draw_icu_stays(5, seed=1)  # stay i does not depend on how many are drawn
    assert again.values.tobytes() == drawn.values[:5].tobytes()
    assert draw_icu_stays(5, seed=2).values.tobytes() != again.values.tobytes()


@pytest.mark.parametrize(
    ("name", "low", "high"),  # what a monitor or a laboratory would still report
    [
        ("hr", 20, 200),
        ("sbp", 50, 240),
        ("o2sat", 60, 100),
        ("fio2", 21, 100),
        ("temp", 33, 41),
        ("k", 2, 8),
        ("na", 110, 170),
        ("ph", 6.8, 7.8),
        ("crea", 0.2, 12),
        ("hgb", 2, 20),
        ("urine", 1, 1500),
    ],
)
def test_values_are_plausible(drawn: IcuStays, name: str, low: float, high: float) -> None:
    values = of(drawn, name)
    assert low <= np.nanmin(values)
    assert np.nanmax(values) <= high


def test_values_are_missing_as_often_as_the_table_says(drawn: IcuStays) -> None:
    seen = np.isfinite(drawn.values).mean(axis=(0, 1))
    np.testing.assert_allclose(seen, [feature.seen for feature in ALL.values()], atol=0.02)


def test_pressures_and_blood_gases_fit_together(drawn: IcuStays) -> None:
    systolic, diastolic, mean = (of(drawn, name) for name in ("sbp", "dbp", "map"))
    assert (diastolic[np.isfinite(mean)] < systolic[np.isfinite(mean)]).all()
    np.testing.assert_allclose(mean, (systolic + 2 * diastolic) / 3, rtol=2e-3)
    bicarbonate, pco2, ph = (of(drawn, name) for name in ("bicar", "pco2", "ph"))
    # Henderson-Hasselbalch: at 24 mmol/l and 40 mmHg, 6.1 + log10(24 / (0.0307 * 40)) = 7.39.
    np.testing.assert_allclose(ph, 6.1 + np.log10(bicarbonate / (0.0307 * pco2)), atol=2e-3)


def test_creatinine_rises_and_urine_falls_where_the_kidneys_are_injured(drawn: IcuStays) -> None:
    change = {}
    for injured in (True, False):
        for name in ("crea", "bun", "urine"):
            values = of(drawn, name)[drawn.injury == injured]
            change[name, injured] = mean_of(values[:, 16:]) / mean_of(values[:, :8])
    assert change["crea", True] > 1.2
    assert change["bun", True] > 1.1
    assert change["urine", True] < 0.85
    for name in ("crea", "bun", "urine"):
        assert abs(change[name, False] - 1) < 0.1


def test_the_more_severe_the_illness_the_more_die(drawn: IcuStays) -> None:
    assert 0.28 < drawn.injury.mean() < 0.44  # 36 % expected, standard error 2.4 %
    assert 0.15 < drawn.death.mean() < 0.35
    assert mean_of(of(drawn, "lact")[drawn.death]) > 1.2 * mean_of(of(drawn, "lact")[~drawn.death])
    assert mean_of(of(drawn, "map")[drawn.death]) < mean_of(of(drawn, "map")[~drawn.death])


@pytest.mark.parametrize("label", ["injury", "death"])
def test_a_linear_model_learns_the_labels_but_not_perfectly(drawn: IcuStays, label: str) -> None:
    spread = np.nanstd(drawn.values, axis=(0, 1))
    standard = np.nan_to_num((drawn.values - np.nanmean(drawn.values, axis=(0, 1))) / spread)
    features = np.concatenate([standard[:, :12].mean(axis=1), standard[:, 12:].mean(axis=1)], axis=1)
    truth = getattr(drawn, label)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(features[:200], truth[:200])
    assert 0.7 < roc_auc_score(truth[200:], model.decision_function(features[200:])) < 0.99


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="need count >= 0, got -1"):
        draw_icu_stays(-1, seed=0)
