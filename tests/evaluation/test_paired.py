"""Draws of patients within strata and of seeds."""

from __future__ import annotations

import numpy as np
import pytest

from consilia.evaluation.paired import Draws, draw


def test_as_many_of_each_stratum_as_it_has() -> None:
    strata = ["a"] * 7 + ["b"] * 4 + ["alone"]
    drawn = draw(strata, 3, seed=1, purpose="x", draws=50)
    assert drawn.count == 51
    assert drawn.patients[0].tolist() == [1] * 12
    assert set(drawn.patients[:, :7].sum(axis=1)) == {7}
    assert set(drawn.patients[:, 7:11].sum(axis=1)) == {4}
    assert set(drawn.patients[:, 11]) == {1}
    assert set(drawn.seeds.sum(axis=1)) == {3}


def test_draws_are_a_function_of_seed_and_stratum_alone() -> None:
    one, again = (draw(["a"] * 5 + ["b"] * 5, 2, seed=1, purpose="x", draws=20) for _ in range(2))
    assert np.array_equal(one.patients, again.patients)
    assert np.array_equal(one.seeds, again.seeds)
    alone = draw(["a"] * 5, 2, seed=1, purpose="x", draws=20)
    assert np.array_equal(alone.patients, one.patients[:, :5])
    other = draw(["a"] * 5, 2, seed=2, purpose="x", draws=20)
    assert not np.array_equal(alone.patients, other.patients)


def test_mean_over_seeds_leaves_out_what_is_not_defined() -> None:
    draws = Draws(np.ones((3, 1), dtype=np.uint16), np.array([[1, 1], [2, 0], [0, 2]], dtype=np.uint16))
    found = draws.over_seeds(np.array([[1.0, 3.0], [1.0, 3.0], [1.0, np.nan]]))
    assert found[:2].tolist() == [2.0, 1.0]
    assert np.isnan(found[2])


def test_interval_is_of_the_draws_without_the_first() -> None:
    draws = draw(["a"] * 9, 1, seed=0, purpose="x", draws=101)
    values = np.concatenate([[99.0], np.arange(101.0)])
    assert draws.interval(values) == pytest.approx((2.5, 97.5))
    assert draws.standard_error(values) == pytest.approx(np.std(np.arange(101), ddof=1))
    values[1:60] = np.nan
    assert draws.interval(values) == (None, None)


def test_one_patient_and_one_seed_have_no_interval() -> None:
    draws = draw(["a", "b"], 1, seed=0, purpose="x", draws=30)
    assert not draws.vary
    assert draws.interval(np.ones(31)) == (None, None)


def test_blocks_are_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = draw(["a"] * 4, 1, seed=0, purpose="x", draws=10)
    monkeypatch.setattr("consilia.evaluation.paired._BLOCK", 12)
    blocks = list(draws.blocks(4))
    assert [len(block) for block in blocks] == [3, 3, 3, 2]
    assert np.array_equal(np.concatenate(blocks), draws.patients)
