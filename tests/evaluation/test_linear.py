"""The baselines: what features they see, what they can learn, and what they must not pretend to know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from consilia.core.errors import DataError
from consilia.evaluation.linear import (
    features,
    linear_probabilities,
    majority_answer,
    majority_probabilities,
    text_probabilities,
)


def test_images_are_averaged_over_a_grid() -> None:
    images = torch.arange(2 * 64 * 64, dtype=torch.float32).reshape(2, 1, 64, 64)
    found = features(images)
    assert found.shape == (2, 32 * 32)
    assert found[0, 0] == pytest.approx((0 + 1 + 64 + 65) / 4)
    assert features(torch.zeros(2, 3, 224, 224)).shape == (2, 3 * 18 * 18)
    assert features(torch.zeros(2, 1, 28, 28)).shape == (2, 28 * 28)


def test_series_have_values_means_spreads_extremes_and_last_values_of_each_feature() -> None:
    series = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]])
    first, second = [1, 3, 5, 3, (8 / 3) ** 0.5, 1, 5, 5], [2, 2, 2, 2, 0, 2, 2, 2]
    assert features(series, steps_first=True)[0].tolist() == pytest.approx(first + second)
    assert features(torch.zeros(1, 300, 40), steps_first=True).shape == (1, 40 * (20 + 5))


def test_signals_are_seen_by_their_frequencies_wherever_a_beat_falls() -> None:
    # A cosine of amplitude 2 and frequency 1 over 4 samples, on a mean of 1: |X_1| = 2 * 4 / 2, nothing else.
    signal = torch.tensor([[[3.0, 1.0, -1.0, 1.0]]])
    found = features(signal)[0].tolist()
    assert found == pytest.approx([0, np.log(5), 0, 1, 2**0.5, -1, 3, 1], abs=1e-6)
    moved = features(signal.roll(1, dims=2))[0].tolist()
    assert moved[:-1] == pytest.approx(found[:-1], abs=1e-6)
    assert features(torch.zeros(1, 12, 1000)).shape == (1, 12 * 85)


def test_tables_stay_as_they_are() -> None:
    assert features(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(("shape", "steps_first"), [((300, 4), False), ((300, 1, 8, 8), False), ((300, 9, 4), True)])
def test_a_linear_rule_is_learnt(shape: tuple[int, ...], steps_first: bool) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    labels = (inputs.flatten(1)[:, :2].sum(dim=1) > 0).long()
    found = linear_probabilities(inputs[:200], labels[:200], inputs[200:], 2, steps_first=steps_first)
    assert found.shape == (100, 2)
    assert found.sum(axis=1) == pytest.approx(np.ones(100))
    assert roc_auc_score(labels[200:].numpy(), found[:, 1]) > 0.8
    assert np.array_equal(
        found, linear_probabilities(inputs[:200], labels[:200], inputs[200:], 2, steps_first=steps_first)
    )


def test_a_class_without_public_cases_gets_nothing() -> None:
    inputs = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]])
    found = linear_probabilities(inputs, torch.tensor([0, 2, 0, 2]), inputs, 3)
    assert found[:, 1].tolist() == [0.0] * 4
    assert found.argmax(axis=1).tolist() == [0, 2, 0, 2]
    assert linear_probabilities(inputs, torch.ones(4, dtype=torch.int64), inputs, 2).tolist() == [[0.0, 1.0]] * 4


def test_text_is_told_apart_by_its_words() -> None:
    public = ["is there a mass in the lung", "any mass seen", "is this a ct", "which plane is this"] * 5
    labels = torch.tensor([1, 1, 0, 0] * 5)
    found = text_probabilities(public, labels, ["mass in the liver", "is this an mri", "??"], 2)
    assert found[0, 1] > 0.5 > found[1, 1]
    assert found.sum(axis=1) == pytest.approx(np.ones(3))


def test_majority_gives_the_frequencies() -> None:
    found = majority_probabilities(torch.tensor([1, 1, 0, 1]), 2, 3)
    assert found.tolist() == [[0.25, 0.75, 0.0]] * 2
    assert majority_answer(["ct", "right", "right", "ct", "mri"]) == "ct"


@pytest.mark.parametrize(
    ("public", "labels", "test", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0), torch.zeros(1, 2), "at least one"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), torch.zeros(1, 2), r"from 0 to 1 .* labels \[0, 2\]"),
        (torch.zeros(2, 2), torch.tensor([0]), torch.zeros(1, 2), "2 cases"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), torch.zeros(1, 3), r"got \(2,\) and \(3,\)"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), torch.zeros(1, 2), "finite"),
        (torch.zeros(2), torch.tensor([0, 1]), torch.zeros(2), r"got shape \(2,\)"),
    ],
)
def test_bad_input(public: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        linear_probabilities(public, labels, test, 2)


def test_majority_needs_something() -> None:
    with pytest.raises(DataError, match="got none"):
        majority_answer([])
    with pytest.raises(DataError, match="at least one"):
        majority_probabilities(torch.zeros(0, dtype=torch.int64), 3, 2)
