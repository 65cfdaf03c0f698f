"""Metrics of a final evaluation against scikit-learn, plain loops and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from consilia.core.determinism import derive_seed
from consilia.core.errors import DataError
from consilia.evaluation.calibration import expected_error, reliability, roc_points
from consilia.evaluation.classification import choose_threshold, classification_metrics, detailed_metrics
from consilia.record.schema import Metrics


def logits_of(positive: list[float]) -> torch.Tensor:
    """Logits (N, 2) with these probabilities of class 1."""
    return torch.tensor([[0.0, math.log(p / (1 - p))] for p in positive], dtype=torch.float64)


def two_classes(cases: int = 90, seed: int = 1) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Logits, probabilities of class 1 and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, cases)
    logits = torch.tensor(draw.normal(size=(cases, 2)) + np.eye(2)[labels])
    return logits, logits.softmax(dim=1)[:, 1].numpy(), labels


def test_two_classes_against_scikit_learn() -> None:
    logits, positive, labels = two_classes()
    found = detailed_metrics(logits, torch.tensor(labels), (), 0.37)
    assert found is not None
    assert found["auprc"] == pytest.approx(average_precision_score(labels, positive), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, positive), abs=1e-12)
    assert (found["patients"], found["positives"]) == (90, int(labels.sum()))
    for place, threshold in (("operating", 0.37), ("at_half", 0.5)):
        said = (positive > threshold).astype(int)
        assert found[place] == pytest.approx(
            {
                "threshold": threshold,
                "accuracy": accuracy_score(labels, said),
                "balanced_accuracy": balanced_accuracy_score(labels, said),
                "sensitivity": recall_score(labels, said),
                "specificity": recall_score(labels, said, pos_label=0),
                "ppv": precision_score(labels, said),
                "npv": precision_score(labels, said, pos_label=0),
                "f1": f1_score(labels, said),
            },
            abs=1e-12,
        )
    false, true, _ = roc_curve(labels, positive)
    assert found["curves"]["roc"] == pytest.approx(np.interp(np.arange(21) / 20, false, true).tolist())
    plain = classification_metrics(logits, torch.tensor(labels))
    assert plain is not None
    assert {name: found[name] for name in plain} == plain, "as in every round"
    assert found["at_half"]["accuracy"] == plain["accuracy"]
    Metrics.model_validate(found)


def test_more_classes_against_scikit_learn() -> None:
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 4, 120)
    logits = torch.tensor(draw.normal(size=(120, 4)) + np.eye(4)[labels])
    probabilities, said = logits.softmax(dim=1).numpy(), logits.argmax(dim=1).numpy()
    found = detailed_metrics(logits, torch.tensor(labels), (), 0.37)
    assert found is not None
    assert found["at_half"] is found["positives"] is found["operating"]["threshold"] is None
    each = [(labels == index, probabilities[:, index]) for index in range(4)]
    assert found["auprc"] == pytest.approx(np.mean([average_precision_score(*pair) for pair in each]))
    assert found["brier"] == pytest.approx(sum(brier_score_loss(*pair) for pair in each) / 2)
    operating = found["operating"]
    assert operating["sensitivity"] == pytest.approx(recall_score(labels, said, average="macro"))
    assert operating["ppv"] == pytest.approx(precision_score(labels, said, average="macro"))
    assert operating["f1"] == pytest.approx(f1_score(labels, said, average="macro"))
    others = [(labels != index, said != index) for index in range(4)]
    assert operating["specificity"] == pytest.approx(np.mean([recall_score(*pair) for pair in others]))
    assert operating["npv"] == pytest.approx(np.mean([precision_score(*pair) for pair in others]))
    assert found["curves"]["roc"] == []
    assert sum(part["count"] for part in found["curves"]["reliability"]) == 120
    right = probabilities.max(axis=1).mean() - (said == labels).mean()
    assert found["ece"] >= abs(right) - 1e-12, "never below the distance of the means"
    Metrics.model_validate(found)


def test_by_hand() -> None:
    # Above 0.5: the first two and the last, of which one is of class 1.
    found = detailed_metrics(logits_of([0.9, 0.6, 0.3, 0.2, 0.8]), torch.tensor([1, 0, 1, 0, 0]))
    assert found is not None
    half = {"accuracy": 2 / 5, "balanced_accuracy": (1 / 2 + 1 / 3) / 2, "sensitivity": 1 / 2, "specificity": 1 / 3}
    half |= {"ppv": 1 / 3, "npv": 1 / 2, "f1": 2 / 5, "threshold": 0.5}
    assert found["operating"] == pytest.approx(half), "without a threshold 0.5"
    assert found["brier"] == pytest.approx((0.1**2 + 0.6**2 + 0.7**2 + 0.2**2 + 0.8**2) / 5)
    # Each case has a bin of its own.
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.7 + 0.2 + 0.8) / 5)
    # From the highest: right, wrong, wrong, right, wrong: precision 1 at the first, 2 of 4 at the second.
    assert found["auprc"] == pytest.approx((1 + 2 / 4) / 2)
    # No false positive: one of two is found; two of three: still one; then both.
    assert found["curves"]["roc"][0] == pytest.approx(1 / 2)
    assert found["curves"]["roc"][13] == pytest.approx(1 / 2)
    assert found["curves"]["roc"][14] == pytest.approx(1.0)


def test_what_would_be_nothing_over_nothing_is_undefined() -> None:
    none = detailed_metrics(logits_of([0.1, 0.2, 0.3]), torch.tensor([0, 0, 1]))
    assert none is not None
    assert none["operating"]["ppv"] is None, "nobody is said to have it"
    assert (none["operating"]["f1"], none["operating"]["sensitivity"]) == (0.0, 0.0)
    assert "operating.ppv" not in none["intervals"]
    healthy = detailed_metrics(logits_of([0.1, 0.2, 0.3]), torch.tensor([0, 0, 0]))
    assert healthy is not None
    assert healthy["auroc"] is healthy["auprc"] is healthy["operating"]["sensitivity"] is None
    assert healthy["operating"]["f1"] is healthy["operating"]["ppv"] is None
    assert (healthy["operating"]["specificity"], healthy["operating"]["npv"], healthy["positives"]) == (1.0, 1.0, 0)
    assert healthy["curves"]["roc"] == []
    Metrics.model_validate(healthy)
    assert detailed_metrics(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) is None


def test_a_logit_that_is_not_finite_is_wrong_whatever_the_truth() -> None:
    logits = logits_of([0.9, 0.1, 0.2, 0.8])
    logits[0, 0] = logits[1, 1] = float("nan")
    found = detailed_metrics(logits, torch.tensor([1, 0, 0, 1]))
    assert found is not None
    assert (found["operating"]["sensitivity"], found["operating"]["specificity"]) == (0.5, 0.5)
    assert found["at_half"]["accuracy"] == found["accuracy"] == 0.5
    assert found["auprc"] is found["brier"] is found["ece"] is found["curves"] is None
    assert "auroc" not in found["intervals"]
    three = torch.tensor([[1.0, 0, 0], [float("inf"), 0, 0]])
    found = detailed_metrics(three, torch.tensor([0, 0]))
    assert found is not None
    assert found["operating"]["accuracy"] == 0.5
    Metrics.model_validate(found)


def test_reliability_is_that_of_scikit_learn() -> None:
    _, positive, labels = two_classes(400)
    bins = reliability(positive, labels == 1)
    observed, confidence = calibration_curve(labels, positive, n_bins=10, strategy="uniform")
    filled = [part for part in bins if part["count"]]
    assert [part["observed"] for part in filled] == pytest.approx(observed.tolist())
    assert [part["confidence"] for part in filled] == pytest.approx(confidence.tolist())
    expected = sum(part["count"] * abs(o - c) for part, o, c in zip(filled, observed, confidence, strict=True)) / 400
    assert expected_error(bins) == pytest.approx(expected)
    empty = reliability(np.array([0.05, 0.95]), np.array([False, True]))[4]
    assert empty == {"count": 0, "confidence": None, "observed": None}


def test_the_curve_has_the_area() -> None:
    _, positive, labels = two_classes(4000)
    points = roc_points(positive, labels == 1)
    assert auc(np.arange(21) / 20, points) == pytest.approx(roc_auc_score(labels, positive), abs=0.005)
    # Without any order the curve is the diagonal.
    assert roc_points(np.zeros(4), np.array([True, False, True, False])) == pytest.approx(np.arange(21) / 20)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_has_the_largest_youdens_j(seed: int) -> None:
    logits, positive, labels = two_classes(40, seed)
    found = choose_threshold(logits, torch.tensor(labels))
    assert found is not None

    def youden(threshold: float) -> float:
        return float((positive > threshold)[labels == 1].mean() - (positive > threshold)[labels == 0].mean())

    assert youden(found) == pytest.approx(max(map(youden, np.linspace(0, 1, 5001))))
    assert found not in positive
    assert youden(found - 1e-9) == youden(found) == youden(found + 1e-9), "not at a case"


def test_thresholds_by_hand() -> None:
    # 0.3 | 0.4 separates best: both of class 1 found, one false alarm, J = 1 - 1/3; half way it is 0.35.
    assert choose_threshold(logits_of([0.1, 0.3, 0.4, 0.6, 0.9]), torch.tensor([0, 0, 1, 0, 1])) == pytest.approx(0.35)
    # 0.9 | 0.7 and 0.4 | 0.1 are as good: J = 1/2; 0.25 is nearer to 0.5 than 0.8.
    assert choose_threshold(logits_of([0.9, 0.7, 0.4, 0.1]), torch.tensor([1, 0, 1, 0])) == pytest.approx(0.25)
    # Neighbouring floats have no middle: the lower one is "not above".
    high = float(np.nextafter(0.5, 1))
    logits = torch.tensor([[0.0, 0.0], [0.0, 4 * (high - 0.5)]], dtype=torch.float64)
    assert choose_threshold(logits, torch.tensor([0, 1])) == 0.5


def test_nothing_to_choose_a_threshold_by() -> None:
    assert choose_threshold(torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])) is None
    assert choose_threshold(logits_of([0.2, 0.3]), torch.tensor([1, 1])) is None
    assert choose_threshold(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) is None
    assert choose_threshold(logits_of([0.4, 0.4]), torch.tensor([0, 1])) is None, "one probability for all"
    assert choose_threshold(logits_of([0.8, 0.2]), torch.tensor([0, 1])) is None, "the wrong way round"
    assert choose_threshold(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), torch.tensor([0, 1])) is None
    with pytest.raises(DataError, match="labels must lie"):
        choose_threshold(torch.randn(1, 2), torch.tensor([2]))


def test_intervals_are_those_of_a_plain_loop_over_patients() -> None:
    logits, positive, labels = two_classes(60, 5)
    patients = [f"p{index // 3}" for index in range(60)]
    groups = np.unique(patients, return_inverse=True)[1]
    found = detailed_metrics(logits, torch.tensor(labels), patients, 0.4, resamples=200)
    assert found is not None
    assert found["patients"] == 20
    values: dict[str, list[float]] = {"auroc": [], "auprc": [], "brier": [], "operating.ppv": [], "at_half.npv": []}
    draw = np.random.default_rng(derive_seed(0, "bootstrap"))
    for drawn in draw.integers(0, 20, size=(200, 20)):
        cases = np.concatenate([np.flatnonzero(groups == patient) for patient in drawn])
        truth, p = labels[cases], positive[cases]
        values["auroc"].append(roc_auc_score(truth, p))
        values["auprc"].append(average_precision_score(truth, p))
        values["brier"].append(brier_score_loss(truth, p))
        values["operating.ppv"].append(precision_score(truth, p > 0.4))
        values["at_half.npv"].append(precision_score(truth, p > 0.5, pos_label=0))
    for name, each in values.items():
        low, high = np.quantile(each, [0.025, 0.975])
        expected = {"se": np.std(each, ddof=1), "low": low, "high": high}
        assert found["intervals"][name] == pytest.approx(expected, abs=1e-9), name
    assert {name for name in found["intervals"] if name.startswith("operating.")} == {
        f"operating.{name}" for name in found["operating"] if name != "threshold"
    }


def test_one_patient_has_no_interval_and_each_case_needs_one() -> None:
    logits, _, labels = two_classes(10)
    found = detailed_metrics(logits, torch.tensor(labels), ["a"] * 10)
    assert found is not None
    assert (found["patients"], found["intervals"]) == (1, {})
    with pytest.raises(DataError, match="10 cases need a patient for each, got 3"):
        detailed_metrics(logits, torch.tensor(labels), ["a"] * 3)
