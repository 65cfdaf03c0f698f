"""Median, trimmed mean and clipping: by hand, against NumPy and SciPy, and against their definitions spelled out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from consilia.aggregation.mean import CHUNK_ELEMENTS, Rule, partial_mean, weighted_mean
from consilia.aggregation.norm import change_norm
from consilia.aggregation.robust import clipped, dropped_sites, median, trimmed_mean
from consilia.aggregation.store import UpdateSpool
from consilia.core.determinism import state_digest
from consilia.core.errors import AggregationError

TRIMMED = trimmed_mean(0.2)


def of(values: list[float], weights: list[float], rule: Rule, dtype: torch.dtype = torch.float64) -> float:
    """What a rule makes of one element of so many sites."""
    updates = {f"s{k}": {"x": torch.tensor([value], dtype=dtype)} for k, value in enumerate(values)}
    return weighted_mean(updates, {f"s{k}": weight for k, weight in enumerate(weights)}, rule)["x"].item()


def random_updates(sites: int, size: int, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    order = torch.Generator().manual_seed(seed)
    return {f"s{k}": {"x": torch.randn(size, generator=order)} for k in range(sites)}


def stacked(updates: Mapping[str, Mapping[str, torch.Tensor]]) -> np.ndarray:
    return np.stack([updates[site]["x"].double().numpy() for site in sorted(updates)])


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([3, 1, 2], [1, 1, 1], 2),
        ([4, 1, 2, 3], [1, 1, 1, 1], 2.5),  # an even number: the middle of the two in the middle
        ([1, 2, 3], [1, 1, 3], 3),  # 3 has more than half of the weight
        ([1, 2, 3], [1, 1, 2], 2.5),  # an even split after 2
        ([1, 2, 3], [1, 0, 1], 2),  # one without weight has no say: the middle of 1 and 3
        ([5, 1], [3, 1], 5),  # of two, the heavier
        ([5, 1], [1, 1], 3),
        ([7], [2], 7),
        ([1, 2, 9, 9, 9], [0, 0, 0.2, 0.3, 0.1], 9),
        ([1e308, 1.5e308], [1, 1], 1.25e308),
    ],
)
def test_median_by_hand(values: list[float], weights: list[float], expected: float) -> None:
    assert of(values, weights, median) == expected


@pytest.mark.parametrize("sites", range(1, 16))
def test_median_with_equal_weights_is_numpys(sites: int) -> None:
    updates = random_updates(sites, 50)
    found = weighted_mean(updates, dict.fromkeys(updates, 0.1), median)["x"]
    assert found.numpy().tolist() == np.median(stacked(updates), axis=0).astype(np.float32).tolist()


def test_median_minimises_the_weighted_distances() -> None:
    """Where no split is even, the only m that minimises sum w |v - m| is one of the values: try them all."""
    updates = random_updates(6, 200, seed=1)
    weights = {f"s{k}": weight for k, weight in enumerate([0.3, 2.0, 1.1, 0.05, 0.7, 1.9])}
    values, shares = stacked(updates), np.array(list(weights.values()))
    cost = np.tensordot(shares, np.abs(values[:, None] - values[None]), axes=1)
    best = values[cost.argmin(axis=0), np.arange(200)]
    assert weighted_mean(updates, weights, median)["x"].numpy().tolist() == best.astype(np.float32).tolist()


def test_median_counts_whole_weights_as_copies() -> None:
    """A site of weight n is n sites of weight 1."""
    updates = random_updates(5, 100, seed=2)
    copies = [3, 1, 4, 1, 5]
    found = weighted_mean(updates, dict(zip(updates, map(float, copies), strict=True)), median)["x"]
    expected = np.median(np.repeat(stacked(updates), copies, axis=0), axis=0)
    assert found.numpy().tolist() == expected.astype(np.float32).tolist()


@pytest.mark.parametrize("rule", [median, TRIMMED], ids=["median", "trimmed"])
def test_a_mirrored_round_gives_the_mirrored_model(rule: Rule) -> None:
    updates = random_updates(6, 100, seed=3)
    weights = dict(zip(updates, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], strict=True))
    mirrored = {site: {"x": -update["x"]} for site, update in updates.items()}
    plain = weighted_mean(updates, weights, rule)["x"]
    torch.testing.assert_close(weighted_mean(mirrored, weights, rule)["x"], -plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3, 4, 100], [1, 1, 1, 1, 1], 3),
        ([100, 2, 3, 4, 1], [9, 1, 2, 1, 9], 3),  # (2 + 2*3 + 4) / 4
        ([1, 2, 3, 4, 5], [7, 3, 1, 0, 7], 2.25),  # (3*2 + 3) / 4
        ([1, 2, 3, 4, 5], [1, 0, 0, 0, 1], 3),  # those kept weigh nothing: their plain mean
        ([1, 2, 3, 4], [1, 1, 1, 1], 2.5),  # floor(0.8) = 0 are dropped
        ([1, 5], [3, 1], 2),
        ([5], [2], 5),
    ],
)
def test_trimmed_mean_by_hand(values: list[float], weights: list[float], expected: float) -> None:
    assert of(values, weights, TRIMMED) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("sites", "trim"), [(3, 0.34), (5, 0.2), (7, 0.4), (10, 0.1), (12, 0.3), (20, 0.49)])
def test_trimmed_mean_with_equal_weights_is_scipys(sites: int, trim: float) -> None:
    updates = random_updates(sites, 80)
    found = weighted_mean(updates, dict.fromkeys(updates, 1.0), trimmed_mean(trim))["x"]
    np.testing.assert_allclose(found.numpy(), trim_mean(stacked(updates), trim, axis=0), rtol=1e-6, atol=1e-8)


def test_trimmed_mean_with_weights_against_its_definition() -> None:
    updates = random_updates(7, 60, seed=4)
    weights = dict(zip(updates, [1.0, 0.1, 2.0, 5.0, 0.0, 3.0, 1.5], strict=True))
    values = stacked(updates)
    for place, found in enumerate(weighted_mean(updates, weights, trimmed_mean(0.3))["x"].tolist()):
        kept = sorted(zip(values[:, place], weights.values(), strict=True))[2:-2]
        expected = sum(value * weight for value, weight in kept) / sum(weight for _, weight in kept)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("sites", "trim", "dropped"), [(5, 0.2, 1), (4, 0.2, 0), (100, 0.29, 29), (2, 0.4999999999, 0), (3, 0.49, 1)]
)
def test_how_many_are_dropped(sites: int, trim: float, dropped: int) -> None:
    assert dropped_sites(sites, trim) == dropped


@pytest.mark.parametrize("trim", [0.0, 0.5, -0.1, float("nan")])
def test_a_bad_trim_is_refused(trim: float) -> None:
    with pytest.raises(AggregationError, match=f"trim is {trim}"):
        trimmed_mean(trim)


@pytest.mark.parametrize("rule", [median, TRIMMED], ids=["median", "trimmed"])
@pytest.mark.parametrize("value", [1e6, -1e6])
def test_one_of_five_cannot_leave_the_others_range(rule: Rule, value: float) -> None:
    updates = random_updates(5, 300, seed=5)
    weights = dict(zip(updates, [100.0, 120.0, 90.0, 110.0, 130.0], strict=True))
    honest = stacked({site: updates[site] for site in updates if site != "s2"})
    updates["s2"] = {"x": torch.full((300,), value)}
    found = weighted_mean(updates, weights, rule)["x"].double().numpy()
    assert (found >= honest.min(axis=0)).all()
    assert (found <= honest.max(axis=0)).all()
    assert np.abs(weighted_mean(updates, weights)["x"].numpy()).min() > 1e5


def test_whoever_has_half_of_the_weight_has_the_median_but_not_the_trimmed_mean() -> None:
    values, weights = [1.0, 2.0, 3.0, 4.0, 1e6], [0.1, 0.1, 0.1, 0.1, 1.0]
    assert of(values, weights, median) == 1e6
    assert of(values, weights, TRIMMED) == pytest.approx(3)


def test_integers_and_flags_are_rounded_half_to_even() -> None:
    for values, expected in (([1, 2], 2), ([2, 3], 2), ([1, 7, 100], 7)):
        assert of(values, [1.0] * len(values), median, torch.int64) == expected
    assert of([1, 2, 3, 4, 100], [1.0, 3.0, 0.0, 3.0, 1.0], TRIMMED, torch.int32) == 3
    assert of([True, False, True], [1.0, 1.0, 1.0], median, torch.bool) is True


@pytest.mark.parametrize("rule", [median, TRIMMED], ids=["median", "trimmed"])
def test_the_same_bits_in_any_order_from_disk_and_across_chunks(tmp_path: Path, rule: Rule) -> None:
    updates = random_updates(4, CHUNK_ELEMENTS + 3, seed=6)
    # Ties between sites of unlike weight, on either side of the chunk's end.
    for update in updates.values():
        update["x"][CHUNK_ELEMENTS - 2 :] = 0.5
    updates["s3"]["x"][-1] = 9.0
    weights = {"s0": 0.1, "s1": 0.2, "s2": 0.3, "s3": 0.7}
    digests = set()
    for place, order in enumerate(itertools.permutations(updates)):
        spool = UpdateSpool(tmp_path / str(place))
        for site in order:
            spool.add(site, updates[site])
        found = weighted_mean(spool, {site: weights[site] for site in order}, rule)
        assert found["x"][CHUNK_ELEMENTS - 2 : -1].tolist() == [0.5] * 4
        digests.add(state_digest(found))
        spool.remove()
    digests.add(state_digest(weighted_mean(updates, weights, rule)))
    assert len(digests) == 1


def test_a_tensor_is_judged_among_the_sites_that_have_it() -> None:
    updates = {
        "a": {"shared": torch.tensor([1.0])},
        "b": {"shared": torch.tensor([3.0]), "own": torch.tensor([4.0])},
        "c": {"shared": torch.tensor([99.0]), "own": torch.tensor([10.0])},
    }
    weights = {"shared": dict.fromkeys("abc", 1.0), "own": dict.fromkeys("bc", 1.0)}
    previous = {"shared": torch.zeros(1), "own": torch.zeros(1), "nobody": torch.tensor([5.0])}
    found = partial_mean(updates, weights, previous, median)
    assert {name: tensor.item() for name, tensor in found.items()} == {"shared": 3, "own": 7, "nobody": 5}


def spooled(folder: Path, updates: Mapping[str, Mapping[str, torch.Tensor]]) -> UpdateSpool:
    spool = UpdateSpool(folder)
    for site, tensors in updates.items():
        spool.add(site, tensors)
    return spool


PREVIOUS = {"w": torch.tensor([[1.0, 1.0]]), "h": torch.tensor([0.0], dtype=torch.float16), "n": torch.tensor(3)}


def moved(x: float, y: float, h: float, n: int = 4) -> dict[str, torch.Tensor]:
    return {
        "w": PREVIOUS["w"] + torch.tensor([[x, y]]),
        "h": torch.tensor([h], dtype=torch.float16),
        "n": torch.tensor(n),
    }


def test_clipping_by_hand(tmp_path: Path) -> None:
    # Changes of norm sqrt(9 + 16 + 144) = 13, 5 and 0.
    spool = spooled(tmp_path, {"a": moved(3, 4, 12), "b": moved(3, 4, 0), "c": moved(0, 0, 0, n=10)})
    scaled, factors = clipped(spool, PREVIOUS, 6.5)
    assert factors == {"a": 0.5}
    assert {name: tensor.tolist() for name, tensor in scaled["a"].items()} == {"w": [[2.5, 3.0]], "h": [6.0], "n": 4}
    assert {site: scaled[site]["n"].item() for site in scaled} == {"a": 4, "b": 4, "c": 10}
    found = weighted_mean(scaled, {"a": 1.0, "b": 2.0, "c": 1.0})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"w": [[2.875, 3.5]], "h": [1.5], "n": 6}
    assert [found[name].dtype for name in ("w", "h", "n")] == [torch.float32, torch.float16, torch.int64]


def test_the_median_of_the_norms_as_limit(tmp_path: Path) -> None:
    spool = spooled(tmp_path, {"a": moved(3, 4, 12), "b": moved(3, 4, 0), "c": moved(0, 0, 0)})
    assert clipped(spool, PREVIOUS, "median")[1] == {"a": 5 / 13}
    spool.add("d", moved(0, 1, 0))
    assert clipped(spool, PREVIOUS, "median")[1] == {"a": 3 / 13, "b": 3 / 5}


def test_where_most_do_not_move_nobody_does(tmp_path: Path) -> None:
    spool = spooled(tmp_path, {"a": moved(3, 4, 12), "b": moved(0, 0, 0), "c": moved(0, 0, 0)})
    scaled, factors = clipped(spool, PREVIOUS, "median")
    assert factors == {"a": 0.0}
    assert weighted_mean(scaled, dict.fromkeys("abc", 1.0))["w"].tolist() == PREVIOUS["w"].tolist()


def test_a_clipped_change_has_the_limit_as_its_norm_and_its_direction(tmp_path: Path) -> None:
    size = CHUNK_ELEMENTS + 5
    previous = {"x": torch.randn(size, generator=torch.Generator().manual_seed(8))}
    update = random_updates(1, size, seed=9)["s0"]
    spool = spooled(tmp_path, {"s0": update})
    scaled, factors = clipped(spool, previous, 2.0)
    assert factors["s0"] == pytest.approx(2.0 / change_norm(update, previous), rel=1e-12)
    change = scaled["s0"]["x"] - previous["x"].double()
    assert change.norm().item() == pytest.approx(2.0, rel=1e-12)
    direction = update["x"].double() - previous["x"].double()
    assert torch.dot(change, direction).item() == pytest.approx(2.0 * direction.norm().item(), rel=1e-12)


def test_who_stays_within_the_limit_keeps_every_bit(tmp_path: Path) -> None:
    updates = random_updates(3, 100)
    spool = spooled(tmp_path, updates)
    scaled, factors = clipped(spool, {"x": torch.zeros(100)}, 1e3)
    assert factors == {}
    weights = {"s0": 1.0, "s1": 2.5, "s2": 0.25}
    assert state_digest(weighted_mean(scaled, weights)) == state_digest(weighted_mean(updates, weights))


def test_the_rules_leave_updates_in_memory_as_they_are() -> None:
    updates = {site: {"x": update["x"].double()} for site, update in random_updates(3, 10).items()}
    before = stacked(updates).copy()
    for rule in (median, TRIMMED):
        weighted_mean(updates, dict.fromkeys(updates, 1.0), rule)
    weighted_mean(updates, dict.fromkeys(updates, 1.0))
    assert (stacked(updates) == before).all()
