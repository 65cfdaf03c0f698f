"""Metrics of one split against values worked out by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from consilia.core.errors import DataError
from consilia.evaluation.classification import classification_metrics, combined_metrics, correct_cases


def test_binary_by_hand() -> None:
    # Scores of class 1 (logit differences): negatives -1 and 1, positives 1 and 3.
    # Pairs (positive over negative): 1>-1 yes, 1=1 half, 3>-1 yes, 3>1 yes: 3.5 of 4.
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    found = classification_metrics(logits, torch.tensor([0, 0, 1, 1]))
    assert found is not None
    assert found["count"] == 4
    assert found["correct"] == 3
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75  # recalls 1/2 and 1
    assert found["auroc"] == 0.875
    # -log softmax: ln(1+e^-1), ln(1+e), ln(1+e^-1), ln(1+e^-3)
    expected = (2 * np.log1p(np.exp(-1)) + np.log1p(np.exp(1)) + np.log1p(np.exp(-3))) / 4
    assert found["loss"] == pytest.approx(expected, rel=1e-12)


def test_multiclass_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    found = classification_metrics(torch.tensor(logits), torch.tensor(labels))
    assert found is not None
    odds = np.exp(logits)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    assert found["correct"] == int((logits.argmax(1) == labels).sum())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(4)]))
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-12)


def test_an_absent_class_is_left_out_of_the_mean() -> None:
    # Class 2 has no case. Class 0: positives score above the negative's for 1 of 2; class 1 likewise by hand:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    found = classification_metrics(logits, labels)
    assert found is not None
    # p(class 0) = .79, .007, .42: one of two pairs right, 0.5; p(class 1) = .11, .007 against .42: 1.
    assert found["auroc"] == 0.75
    # Ties go to the lowest class, so the third case is taken for class 0: recalls 1/2 and 0.
    assert found["balanced_accuracy"] == 0.25


def test_one_class_has_no_auroc() -> None:
    found = classification_metrics(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, 1]))
    assert found is not None
    assert found["auroc"] is None
    assert found["balanced_accuracy"] == 0.5


def test_confident_cases_do_not_tie() -> None:
    # In float64 the probabilities of both are exactly 1, but their order is known.
    found = classification_metrics(torch.tensor([[0.0, 50.0], [0.0, 60.0]]), torch.tensor([0, 1]))
    assert found is not None
    assert found["auroc"] == 1.0


def test_a_diverged_model_gives_no_nan() -> None:
    logits = torch.tensor([[float("nan"), 0.0], [3.0, 0.0]])
    labels = torch.tensor([0, 0])
    found = classification_metrics(logits, labels)
    assert found == {
        "count": 2,
        "correct": 1,
        "accuracy": 0.5,
        "balanced_accuracy": 0.5,
        "auroc": None,
        "loss": None,
    }
    assert correct_cases(logits, labels).tolist() == [False, True]


def test_empty_split_is_none() -> None:
    assert classification_metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) is None


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((3, 2), [0, 1], r"got logits \(3, 2\) and labels \(2,\)"),
        ((2, 1), [0, 0], "C >= 2"),
        ((2, 2), [0, 2], r"labels must lie in 0\.\.1, got 0\.\.2"),
        ((2, 2), [-1, 0], r"got -1\.\.0"),
    ],
)
def test_what_does_not_fit_is_named(shape: tuple[int, int], labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification_metrics(torch.zeros(shape), torch.tensor(labels))


def test_several_tasks_as_one_by_hand() -> None:
    first = {"count": 4, "correct": 3, "accuracy": 0.75, "balanced_accuracy": 0.7, "auroc": 0.9, "loss": 0.5}
    second = {"count": 6, "correct": 3, "accuracy": 0.5, "balanced_accuracy": 0.4, "auroc": None, "loss": 1.5}
    found = combined_metrics({"x": first, "y": second})
    assert found is not None
    assert found["tasks"] == {"x": first, "y": second}
    assert (found["count"], found["correct"], found["accuracy"]) == (10, 6, 0.6)
    assert found["balanced_accuracy"] == pytest.approx(0.55)
    assert found["auroc"] == 0.9
    assert found["loss"] == 1.0
    assert combined_metrics({"x": None}) is None
    assert combined_metrics({"x": first, "y": None}) == {**first, "tasks": {"x": first}}
    undefined = combined_metrics({"y": {**second, "loss": None}})
    assert undefined is not None
    assert undefined["loss"] is None
