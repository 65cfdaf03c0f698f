"""Concordant pairs against scikit-learn, loops over pairs, and repeated cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from consilia.evaluation import pairs
from consilia.evaluation.pairs import average_precision, ranked_pairs, survival_pairs

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("largest", [0, 10**9], ids=["ranked", "matrix"])
def test_auroc_and_auprc_with_ties_and_weights_is_scikit_learns(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(pairs, "_MATRIX", largest)
    scores = RANDOM.integers(0, 6, 60) / 6  # many ties
    positive = RANDOM.random(60) < 0.4
    weights = RANDOM.integers(0, 4, (7, 60)).astype(float)
    concordant, comparable = ranked_pairs(scores, positive, weights)
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert concordant / comparable == pytest.approx(expected)
    precisions = [average_precision_score(positive, scores, sample_weight=row) for row in weights]
    assert average_precision(scores, positive, weights) == pytest.approx(precisions)


@pytest.mark.parametrize("largest", [0, 10**9])
def test_one_kind_of_case_has_no_pairs(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(pairs, "_MATRIX", largest)
    for positive in (np.ones(4, dtype=bool), np.zeros(4, dtype=bool)):
        concordant, comparable = ranked_pairs(np.arange(4.0), positive, np.ones((2, 4)))
        assert concordant.tolist() == comparable.tolist() == [0, 0]
        assert np.isnan(average_precision(np.arange(4.0), positive, np.ones((2, 4)))).all()


def test_c_index_by_a_loop_over_pairs() -> None:
    size = 25
    time = RANDOM.integers(1, 9, size).astype(float)  # equal times
    event = RANDOM.random(size) < 0.5
    risk = RANDOM.integers(0, 5, size).astype(float)
    weights = RANDOM.integers(0, 3, (3, size)).astype(float)
    found = survival_pairs(time, event, risk, weights)
    for row, w in enumerate(weights):
        concordant = comparable = 0.0
        for i in range(size):
            for j in range(size):
                if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                    comparable += w[i] * w[j]
                    concordant += w[i] * w[j] * (1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0)
        assert (found[0][row], found[1][row]) == (concordant, comparable)


def test_c_index_of_four_patients_by_hand() -> None:
    """Events at 1 and 3; comparable: (0, 1), (0, 2), (0, 3), (2, 3); (0, 2) is a tie, (2, 3) the wrong way round."""
    found = survival_pairs(
        np.array([1.0, 2.0, 3.0, 4.0]),
        np.array([True, False, True, False]),
        np.array([2.0, 1.0, 2.0, 3.0]),
        np.ones((1, 4)),
    )
    assert (found[0][0], found[1][0]) == (1.5, 4.0)
