"""The ROC curve and its area are scikit-learn's, to the last bit, ties and tiny splits included."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from consilia.evaluation.roc import area_under, roc_curve


@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_curve_and_area_are_scikit_learns_to_the_bit(levels: int) -> None:
    draw = np.random.default_rng(levels)
    for _ in range(100):
        count = int(draw.integers(2, 120))
        positive = draw.random(count) < draw.uniform(0.1, 0.9)
        positive[:2] = [True, False]
        scores = draw.integers(0, levels, count) / 7 - 3
        for corners in (True, False):
            expected = metrics.roc_curve(positive, scores, drop_intermediate=corners)
            for ours, theirs in zip(roc_curve(positive, scores, corners=corners), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert area_under(roc_curve(positive, scores)) == metrics.roc_auc_score(positive, scores)


def test_one_case_of_each_kind_by_hand() -> None:
    positive, scores = np.array([True, False]), np.array([0.25, 0.75])
    curve = roc_curve(positive, scores)
    assert curve.false.tolist() == [0, 1, 1]
    assert curve.true.tolist() == [0, 0, 1]
    assert curve.thresholds.tolist() == [np.inf, 0.75, 0.25]
    assert area_under(curve) == 0
    assert area_under(roc_curve(positive, np.array([0.5, 0.5]))) == 0.5
