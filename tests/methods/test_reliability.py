"""Reliability x label diversity by hand (specification 3.1 and 8.3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import entropy

from consilia.aggregation.mean import normalised
from consilia.core.errors import UpdateRejected
from consilia.methods import Server, UpdateMetadata
from consilia.methods.fedkper.reliability import label_diversity, reliability_diversity_score
from tests.methods.support import server_of


def test_diversity_of_known_histograms() -> None:
    assert label_diversity([5, 5, 5, 5]) == pytest.approx(1.0, abs=1e-11)
    assert label_diversity([7, 0, 0]) == 0.0
    # Two of four classes, evenly: ln 2 / ln 4 = 1/2.
    assert label_diversity([3, 3, 0, 0]) == pytest.approx(0.5, abs=1e-11)
    # (3/4, 1/4) of two classes: 0.811278 bits.
    assert label_diversity([30, 10]) == pytest.approx(0.8112781244591328, abs=1e-11)
    assert label_diversity([4]) == 0.0


def test_diversity_against_scipy() -> None:
    for seed in range(20):
        counts = np.random.default_rng(seed).integers(0, 50, size=11)
        assert label_diversity(counts.tolist()) == pytest.approx(entropy(counts) / math.log(11), abs=1e-10)


def test_score() -> None:
    assert reliability_diversity_score(0.9, [9, 0]) == pytest.approx(0.9e-6, rel=1e-12)
    assert reliability_diversity_score(1.0, [4, 4]) == pytest.approx(1 + 1e-6, abs=1e-11)
    assert reliability_diversity_score(0.0, [4, 4]) == 0.0
    assert reliability_diversity_score(-0.5, [4, 4]) == 0.0


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 2], [math.nan, 1]])
def test_bad_counts(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="label_counts"):
        label_diversity(counts)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, 1.5])
def test_bad_accuracy(accuracy: float) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        reliability_diversity_score(accuracy, [1, 1])


def server(**options: str) -> Server:
    return server_of({"method": "fedkper", **options})


def shares(claims: dict[str, UpdateMetadata], **options: str) -> dict[str, float]:
    return normalised(server(**options).weights(claims))


def test_weights_are_score_shares_whatever_the_sites_sizes() -> None:
    # (.9 * 1, .9 * .5) -> (2/3, 1/3)
    for samples in ((10, 10), (1, 100_000)):
        claims = {"a": UpdateMetadata(samples[0], 0.9), "b": UpdateMetadata(samples[1], 0.45)}
        assert shares(claims) == pytest.approx({"a": 2 / 3, "b": 1 / 3}, rel=1e-12)


def test_all_scores_zero_falls_back_to_samples() -> None:
    assert shares({"a": UpdateMetadata(30, 0.0), "b": UpdateMetadata(10, 0.0)}) == {"a": 0.75, "b": 0.25}


def test_one_class_sites_among_themselves_weigh_by_accuracy() -> None:
    one = {site: UpdateMetadata(9, reliability_diversity_score(a, [9, 0])) for site, a in (("a", 0.6), ("b", 0.3))}
    assert shares(one) == pytest.approx({"a": 2 / 3, "b": 1 / 3}, rel=1e-12)


def test_ablation_weighs_by_samples() -> None:
    assert shares({"a": UpdateMetadata(30, None), "b": UpdateMetadata(10, None)}, weighting="samples") == {
        "a": 0.75,
        "b": 0.25,
    }


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -0.1, 1.00001, 1e12])
def test_a_score_out_of_bounds_is_refused(score: float | None) -> None:
    with pytest.raises(UpdateRejected, match="weight is"):
        server().check({}, {}, UpdateMetadata(5, score), reference={}, max_norm=None)
