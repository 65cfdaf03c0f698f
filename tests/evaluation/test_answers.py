"""Metrics of closed answers against scikit-learn and hand counts; intervals against a plain loop over resamples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError
from consilia.evaluation.answers import closed_metrics
from consilia.evaluation.bootstrap import intervals
from consilia.evaluation.weighted import weighted_ranking

NAMES = {"accuracy", "balanced_accuracy", "auroc", "auprc", "f1", "loss"}


def sample(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties, some way towards the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    scores = rng.integers(1, 8, (count, classes)) + 3.0 * (np.arange(classes) == truth[:, None])
    return scores / scores.sum(axis=1, keepdims=True), truth


def test_two_answers_as_scikit_learn_has_them() -> None:
    probabilities, truth = sample(200, 2)
    said = probabilities.argmax(axis=1)
    found = closed_metrics(probabilities, truth, (), resamples=10)
    assert (found["count"], found["patients"]) == (200, 200)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, probabilities[:, 1]))
    assert found["auprc"] == pytest.approx(average_precision_score(truth, probabilities[:, 1]))
    assert found["f1"] == pytest.approx(f1_score(truth, said))
    assert found["loss"] == pytest.approx(log_loss(truth, probabilities))
    assert found["intervals"].keys() == NAMES


def test_three_answers_are_macro_one_against_rest() -> None:
    probabilities, truth = sample(300, 3)
    said, hot = probabilities.argmax(axis=1), np.eye(3)[truth]
    found = closed_metrics(probabilities, truth, (), resamples=10)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, probabilities, multi_class="ovr"))
    assert found["auprc"] == pytest.approx(average_precision_score(hot, probabilities, average="macro"))
    assert found["f1"] == pytest.approx(f1_score(truth, said, average="macro"))


def test_by_hand() -> None:
    # Positives score 0.9, 0.4; negatives 0.6, 0.4 and 0.1: of six pairs 3 + 1.5 are in order. Precision at 0.9 is 1
    # (recall 1/2) and at 0.4 it is 2/4. Said: yes, no | yes, no, no: one hit, one miss, one false alarm.
    yes = np.array([0.9, 0.4, 0.6, 0.4, 0.1])
    found = closed_metrics(np.stack([1 - yes, yes], axis=1), np.array([1, 1, 0, 0, 0]), "aabcc")
    assert found["patients"] == 3
    assert found["auroc"] == pytest.approx(4.5 / 6)
    assert found["auprc"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 4)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.6, 0.9]).mean())


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_are_percentiles_over_repeated_cases(classes: int) -> None:
    probabilities, truth = sample(60, classes)
    drawn = np.random.default_rng(derive_seed(7, "bootstrap")).integers(0, 20, (40, 20))
    values = []
    for patients in drawn:
        cases = np.concatenate([np.arange(3 * one, 3 * one + 3) for one in patients])
        plain = closed_metrics(probabilities[cases], truth[cases], (), resamples=0)
        values.append([plain[name] for name in sorted(NAMES)])
    expected = np.quantile(np.array(values), [0.025, 0.975], axis=0)
    owners = [f"p{case // 3:02d}" for case in range(60)]
    found = closed_metrics(probabilities, truth, owners, seed=7, resamples=40)["intervals"]
    for place, name in enumerate(sorted(NAMES)):
        assert found[name] == pytest.approx(expected[:, place].tolist()), name


def test_weighted_ranking_is_scikit_learns_with_weights() -> None:
    probabilities, truth = sample(80, 2)
    weights = np.random.default_rng(3).random((5, 80))
    areas, averages = weighted_ranking(probabilities[:, 1], truth == 1, weights)
    for area, average, row in zip(areas, averages, weights, strict=True):
        assert area == pytest.approx(roc_auc_score(truth, probabilities[:, 1], sample_weight=row))
        assert average == pytest.approx(average_precision_score(truth, probabilities[:, 1], sample_weight=row))


def test_patients_not_cases_are_drawn() -> None:
    # 200 cases of 4 patients who are all right or all wrong: as wide as 4 cases are, not as 200.
    right = np.repeat([1, 1, 0, 1], 50)
    probabilities = np.stack([1 - 0.8 * right, 0.8 * right], axis=1)
    truth = np.ones(200, dtype=int)
    by_patient = closed_metrics(probabilities, truth, np.repeat(list("wxyz"), 50).tolist())
    assert by_patient["intervals"]["accuracy"] == [0.25, 1.0]
    low, high = closed_metrics(probabilities, truth, ())["intervals"]["accuracy"]
    assert 0.68 < low < 0.72
    assert 0.78 < high < 0.82
    assert by_patient == closed_metrics(probabilities, truth, np.repeat(list("wxyz"), 50).tolist())


def test_undefined_where_one_answer_occurs_or_is_given() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    found = closed_metrics(probabilities, np.zeros(3, dtype=int), ())
    assert found["auroc"] is found["auprc"] is found["f1"] is None
    assert found["intervals"]["auroc"] is found["intervals"]["f1"] is None
    assert (found["accuracy"], found["balanced_accuracy"]) == (1.0, 1.0)
    assert closed_metrics(probabilities, np.array([0, 0, 1]), "ppp")["intervals"]["accuracy"] is None  # one patient


def test_an_interval_needs_half_of_the_resamples() -> None:
    groups = np.arange(6)

    def undefined_in(share: float) -> list[float] | None:
        def metric(weights: np.ndarray) -> dict[str, np.ndarray]:
            return {"metric": np.where(np.arange(len(weights)) < share * len(weights), np.nan, 0.5)}

        return intervals(metric, groups, seed=0, resamples=100)["metric"]

    assert undefined_in(0.5) == [0.5, 0.5]
    assert undefined_in(0.51) is None


def test_a_case_without_probabilities_is_wrong() -> None:
    probabilities = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4]])
    found = closed_metrics(probabilities, np.array([1, 1, 0]), ())
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["auroc"] is found["auprc"] is found["loss"] is None


def test_a_ruled_out_truth_has_a_finite_loss() -> None:
    found = closed_metrics(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]), ())
    assert found["loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize(
    ("probabilities", "truth", "patients", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), (), "N >= 1"),
        (np.full((2, 2), 0.5), np.array([0, 2]), (), "from 0 to 1, got int64 from 0 to 2"),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0]), (), "got float64"),
        (np.full((2, 2), 0.6), np.array([0, 1]), (), "add up to 1"),
        (np.full((2, 2), 0.5), np.array([0, 1]), ("p",), "2 cases need a patient for each, got 1"),
    ],
)
def test_bad_input(probabilities: np.ndarray, truth: np.ndarray, patients: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        closed_metrics(probabilities, truth, patients)
