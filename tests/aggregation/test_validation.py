"""Every malformed update of the issue's list is refused by name and reason."""

from __future__ import annotations

import math

import pytest
import torch

from consilia.aggregation.norm import CHUNK_ELEMENTS, FLOOR, MULTIPLE, allowed_change, change_norm, state_norm
from consilia.aggregation.store import UpdateSpool
from consilia.aggregation.validation import check_update
from consilia.core.errors import UpdateRejected

REFERENCE = {"bias": torch.zeros(3), "count": torch.tensor(4), "weight": torch.zeros(2, 3)}


def good() -> dict[str, torch.Tensor]:
    return {"bias": torch.ones(3), "count": torch.tensor(5), "weight": torch.full((2, 3), 0.5)}


def check(tensors, weight=10.0, max_norm=None, max_weight=1e7) -> None:
    check_update(tensors, weight, reference=REFERENCE, max_norm=max_norm, max_weight=max_weight)


def test_a_good_update_passes() -> None:
    check(good())
    check(good(), weight=0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused(value: float) -> None:
    update = good()
    update["weight"][1, 2] = value
    with pytest.raises(UpdateRejected, match=r"'weight' holds .* \(1 of 6 entries\)"):
        check(update)


def test_opposite_infinities_do_not_hide() -> None:
    update = good()
    update["weight"][0, 0], update["weight"][0, 1] = math.inf, -math.inf
    with pytest.raises(UpdateRejected, match="'weight'"):
        check(update)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_finite_values_whose_sum_overflows_pass(dtype: torch.dtype) -> None:
    value = torch.finfo(dtype).max
    tensors = {"w": torch.full((4,), value, dtype=dtype)}
    check_update(tensors, 1.0, reference={"w": torch.zeros(4, dtype=dtype)}, max_norm=None, max_weight=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": torch.ones(1)}, r"'bias' has shape \(1,\), expected \(3,\)"),
        ({"bias": torch.ones(3, dtype=torch.float64)}, r"'bias' has dtype torch.float64, expected torch.float32"),
        ({"extra": torch.ones(1)}, "extra tensor 'extra'"),
        ({"bias": [1.0, 2.0, 3.0]}, "'bias' is a list"),
    ],
)
def test_wrong_layout_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UpdateRejected, match=message):
        check({**good(), **change})


def test_a_missing_key_is_refused() -> None:
    update = good()
    del update["weight"]
    with pytest.raises(UpdateRejected, match="missing tensor 'weight'"):
        check(update)


@pytest.mark.parametrize("weight", [1e12, -1, math.nan, math.inf, "7", True, None])
def test_bad_weights_are_refused(weight: object) -> None:
    with pytest.raises(UpdateRejected, match="weight"):
        check(good(), weight=weight)


def test_norm_of_the_change_is_bounded() -> None:
    # 3 * 1^2 + 6 * 0.5^2 = 4.5 over the floating tensors; the integer counter does not count.
    assert change_norm(good(), REFERENCE) == pytest.approx(math.sqrt(4.5), rel=1e-12)
    check(good(), max_norm=math.sqrt(4.5) * 1.0001)
    with pytest.raises(UpdateRejected, match=r"norm of the change is 2.12132, allowed is at most 2"):
        check(good(), max_norm=2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_check_leaves_the_update_as_it_is(dtype: torch.dtype) -> None:
    tensors = {"w": torch.full((3,), 2.0, dtype=dtype)}
    check_update(tensors, 1.0, reference={"w": torch.ones(3, dtype=dtype)}, max_norm=10.0, max_weight=10)
    assert tensors["w"].tolist() == [2.0, 2.0, 2.0]


def test_the_norm_of_an_update_on_disk_is_that_of_the_one_in_memory(tmp_path) -> None:
    # 3 and 4 in two chunks; the integer, and the name that the reference lacks, do not count.
    long = torch.ones(CHUNK_ELEMENTS + 10)
    long[0], long[-1] = 4.0, 5.0
    tensors = {"w": long, "n": torch.tensor([7]), "extra": torch.ones(2)}
    spool = UpdateSpool(tmp_path)
    spool.add("a", tensors)
    reference = {"w": torch.ones(CHUNK_ELEMENTS + 10), "n": torch.tensor([0])}
    assert change_norm(spool["a"], reference) == change_norm(tensors, reference) == 5.0


def test_norm_counts_from_the_reference_not_from_zero() -> None:
    reference = {"w": torch.full((4,), 100.0)}
    check_update({"w": torch.full((4,), 100.5)}, 1.0, reference=reference, max_norm=1.01, max_weight=1)


def test_a_float64_update_is_as_it_came_after_the_check_of_its_norm() -> None:
    update = {"w": torch.tensor([2.0, 5.0], dtype=torch.float64)}
    check_update(update, 1.0, reference={"w": torch.ones(2, dtype=torch.float64)}, max_norm=10.0, max_weight=9)
    assert update["w"].tolist() == [2.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_default_bound_follows_the_norm_of_the_state(dtype: torch.dtype) -> None:
    # 300^2 + 400^2 over the floating tensors: float16 cannot hold the squares. The counter does not count.
    state = {"w": torch.full((9,), 100.0, dtype=dtype), "v": torch.full((4, 4), 100.0, dtype=dtype)}
    state |= {"n": torch.tensor(10**9), "empty": torch.zeros(0)}
    assert state_norm(state) == pytest.approx(500.0, rel=1e-12)
    assert allowed_change("auto", state) == pytest.approx(MULTIPLE * 500.0)
    assert allowed_change("auto", {"w": torch.zeros(3, dtype=dtype)}) == FLOOR
    assert allowed_change("auto", {}) == FLOOR
    assert (allowed_change(7.5, state), allowed_change(None, state)) == (7.5, None)


def test_running_statistics_have_a_bound_of_their_own() -> None:
    before = {"norm.running_var": torch.full((64,), 100.0), "norm.weight": torch.ones(64)}
    after = {**before, "norm.running_var": torch.full((64,), 200.0)}
    assert change_norm(after, before) == pytest.approx(800.0)
    assert state_norm(before) == 8.0
    check_update(after, 1.0, reference=before, max_norm=allowed_change("auto", before), max_weight=1)
    for value, reason in ((1000.0, "of running statistics is 7200, .* at most 1000"), (-1e-3, "negative variance")):
        bad = {**before, "norm.running_var": torch.full((64,), value)}
        with pytest.raises(UpdateRejected, match=reason):
            check_update(bad, 1.0, reference=before, max_norm=20.0, max_weight=1)
    moved = {**after, "norm.weight": torch.full((64,), 5.0)}
    with pytest.raises(UpdateRejected, match=r"norm of the change is 32, allowed is at most 20 \(max_update_norm"):
        check_update(moved, 1.0, reference=before, max_norm=20.0, max_weight=1)
