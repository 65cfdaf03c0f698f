"""The mean over the sites that have a tensor, by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from consilia.aggregation.mean import CHUNK_ELEMENTS, partial_mean, weighted_mean
from consilia.aggregation.store import UpdateSpool
from consilia.core.determinism import state_digest
from consilia.core.errors import AggregationError

PREVIOUS = {"shared": torch.tensor([9.0, 9.0]), "own": torch.tensor([7.0]), "nobody": torch.tensor([5.0])}
UPDATES = {
    "a": {"shared": torch.tensor([1.0, 2.0])},
    "b": {"shared": torch.tensor([3.0, 6.0]), "own": torch.tensor([4.0])},
    "c": {"own": torch.tensor([10.0])},
}
WEIGHTS = {"shared": {"a": 1.0, "b": 3.0}, "own": {"b": 1.0, "c": 2.0}}


def test_by_hand() -> None:
    mean = partial_mean(UPDATES, WEIGHTS, PREVIOUS)
    # shared: (1 + 3 * 3) / 4 and (2 + 3 * 6) / 4; own: (4 + 2 * 10) / 3.
    assert {name: tensor.tolist() for name, tensor in mean.items()} == {
        "nobody": [5.0],
        "own": [8.0],
        "shared": [2.5, 5.0],
    }


def test_what_nobody_weighs_stays_and_is_a_copy() -> None:
    mean = partial_mean(UPDATES, {"shared": {"a": 0.0, "b": 0.0}, "own": {}}, PREVIOUS)
    for name, tensor in PREVIOUS.items():
        assert torch.equal(mean[name], tensor)
        assert mean[name].data_ptr() != tensor.data_ptr()


def test_a_site_of_weight_zero_counts_nothing() -> None:
    mean = partial_mean(UPDATES, {"shared": {"a": 0.0, "b": 2.0}}, PREVIOUS)
    assert mean["shared"].tolist() == [3.0, 6.0]


def test_who_answered_first_changes_no_bit() -> None:
    order = torch.Generator().manual_seed(0)
    updates = {site: {"x": torch.randn(1000, generator=order)} for site in "abcd"}
    weights = {"a": 0.1, "b": 1 / 3, "c": 7.0, "d": 1e-3}
    digests = set()
    for sites in itertools.permutations("abcd"):
        given = {site: updates[site] for site in sites}
        digests.add(state_digest(partial_mean(given, {"x": {s: weights[s] for s in sites}}, {"x": torch.zeros(1000)})))
    assert len(digests) == 1
    assert digests == {state_digest(weighted_mean(updates, weights))}


def test_from_a_spool_where_sites_hold_different_tensors(tmp_path: Path) -> None:
    long = {
        site: torch.randn(CHUNK_ELEMENTS + 3, generator=torch.Generator().manual_seed(k)) for k, site in enumerate("ab")
    }
    spool = UpdateSpool(tmp_path / "spool")
    spool.add("a", {"long": long["a"]})
    spool.add("b", {"long": long["b"], "other": torch.tensor([2.0])})
    weights = {"long": {"a": 1.0, "b": 2.0}, "other": {"b": 5.0}}
    mean = partial_mean(spool, weights, {"long": torch.zeros(1), "other": torch.zeros(1)})
    expected = (long["a"].double() + 2 * long["b"].double()) / 3
    torch.testing.assert_close(mean["long"], expected.float(), rtol=1e-6, atol=1e-7)
    assert mean["other"].tolist() == [2.0]


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_a_bad_weight_is_refused(weight: float) -> None:
    with pytest.raises(AggregationError, match="weight of site 'a'"):
        partial_mean(UPDATES, {"shared": {"a": weight, "b": 1.0}}, PREVIOUS)


def test_weights_that_cancel_are_refused() -> None:
    with pytest.raises(AggregationError, match="weight of site 'a' is -1"):
        partial_mean(UPDATES, {"shared": {"a": -1.0, "b": 1.0}}, PREVIOUS)


@pytest.mark.parametrize("site", ["c", "nobody"])
def test_a_weight_for_a_site_without_the_tensor_is_refused(site: str) -> None:
    with pytest.raises(AggregationError, match=f"site '{site}' .*'shared'"):
        partial_mean(UPDATES, {"shared": {"a": 1.0, site: 1.0}}, PREVIOUS)


def test_unlike_shapes_are_refused() -> None:
    odd = {**UPDATES, "b": {"shared": torch.zeros(3)}}
    with pytest.raises(AggregationError, match=r"'shared' of site 'b' is torch.float32 \(3,\)"):
        partial_mean(odd, {"shared": {"a": 1.0, "b": 1.0}}, PREVIOUS)
