"""The search for one key's best value: which values are tried, when a grid grows, and what is said of its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from consilia.study.search import Search, Setting, Tried

KEY = "training.learning_rate"
GRID = [0.01, 0.03, 0.1]
END, BEYOND = "the best value stands at the end of the grid", "the next value is beyond the parameter's limit"

Outcome = Callable[[float], Tried]


def any_value(setting: Setting) -> bool:
    return True


def up_to(limit: float) -> Callable[[Setting], bool]:
    """A configuration whose parameter lies in [0, limit]."""
    return lambda setting: 0 <= setting[KEY] <= limit


def scored(value: Callable[[float], float | None], **more: float | None) -> Outcome:
    """What comes of a value: higher is better."""
    return lambda number: Tried(setting={KEY: number}, value=value(number), **more)


def near(best: float) -> Outcome:
    """Better the nearer to a value."""
    return scored(lambda value: -abs(value - best))


def listed(values: Mapping[float, float | None], **more: float | None) -> Outcome:
    """What comes of each value that is listed; others are not to be tried."""
    return scored(lambda value: values[value], **more)


def searched(
    outcome: Outcome,
    values: list[float] = GRID,
    *,
    takes: Callable[[Setting], bool] = any_value,
    extensions: int = 2,
    fixed: Setting | None = None,
) -> Search:
    """The search carried out to its end."""
    search = Search(KEY, values, fixed or {}, takes, extensions)
    while wanted := search.wanted():
        search.tried += [outcome(setting[KEY]) for setting in wanted]
    return search


def test_a_best_value_inside_needs_no_more() -> None:
    search = searched(near(0.03))
    assert (search.best, search.values, search.edge) == (0.03, GRID, "")
    assert len(search.tried) == 3


@pytest.mark.parametrize(
    ("best", "grown"),
    [
        # By the last ratio at that end: 0.1 * 0.1 / 0.03, then once more; 0.01 * 0.01 / 0.03.
        (1 / 3, [0.01, 0.03, 0.1, 0.1**2 / 0.03, (0.1**2 / 0.03) ** 2 / 0.1]),
        (0.0033, [(0.01**2 / 0.03) ** 2 / 0.01, 0.01**2 / 0.03, 0.01, 0.03, 0.1]),
    ],
)
def test_a_grid_grows_at_its_end_until_the_best_value_is_inside(best: float, grown: list[float]) -> None:
    search = searched(near(best))
    assert search.values == pytest.approx(grown)
    assert search.best == pytest.approx(best, rel=0.02)
    assert search.edge == ""


@pytest.mark.parametrize(("extensions", "tried"), [(0, 3), (1, 4), (2, 5)])
def test_a_grid_grows_no_more_often_than_it_may_and_says_so(extensions: int, tried: int) -> None:
    search = searched(scored(lambda value: value), extensions=extensions)
    assert len(search.tried) == tried
    assert search.best == max(search.values)
    assert search.edge == END


def test_zero_is_the_natural_limit() -> None:
    search = searched(scored(lambda value: -value), [0.0, 0.1, 1.0])
    assert (search.best, len(search.tried), search.edge) == (0.0, 3, "")


def test_a_parameter_at_its_limit_is_no_edge_and_below_it_is_one() -> None:
    at = searched(scored(lambda value: value), [0.25, 0.5, 1.0], takes=up_to(1.0))
    assert (at.best, len(at.tried), at.edge) == (1.0, 3, "")
    below = searched(scored(lambda value: value), [0.2, 0.5, 0.8], takes=up_to(1.0))
    assert (below.best, len(below.tried), below.edge) == (0.8, 3, BEYOND)  # 1.28 is none
    # The limit is reached by the last extension.
    grown = searched(scored(lambda value: value), [0.25, 0.5], takes=up_to(1.0), extensions=1)
    assert (grown.best, grown.edge) == (1.0, "")


@pytest.mark.parametrize(("sd", "tried", "edge"), [(0.06, 3, ""), (0.04, 5, END)])
def test_a_change_below_the_seeds_deviation_is_none(sd: float, tried: int, edge: str) -> None:
    values = {0.01: 0.1, 0.03: 0.2, 0.1: 0.25}  # 0.05 better at the end
    search = searched(scored(lambda value: values.get(value, 0.25 + value), sd=sd))
    assert (len(search.tried), search.edge) == (tried, edge)


def test_of_equal_global_models_that_with_the_better_personal_ones() -> None:
    personal = {0.01: 0.5, 0.03: 0.7, 0.1: 0.6}
    search = searched(lambda value: Tried(setting={KEY: value}, value=0.4, personal=personal[value]))
    assert (search.best, search.edge) == (0.03, "")


@pytest.mark.parametrize(("sd", "tried"), [(0.2, 3), (0.05, 5)])
def test_the_personal_models_deviation_counts_where_they_decide(sd: float, tried: int) -> None:
    """The global models are equal, so their own deviation says nothing of the change."""
    search = searched(
        lambda value: Tried(setting={KEY: value}, value=0.4, sd=0.3, personal=2 * value, personal_sd=sd)
    )  # 0.14 better at the end, then 0.47
    assert len(search.tried) == tried


def test_a_setting_whose_run_failed_is_never_chosen() -> None:
    search = searched(listed({0.01: 0.1, 0.03: 0.2, 0.1: None}))
    assert (search.best, search.values, search.edge) == (0.03, GRID, "")
    none = searched(scored(lambda value: None))
    assert (none.best, len(none.tried), none.edge) == (None, 3, "no value has a result")


def test_what_was_found_before_stays_as_it_is() -> None:
    fixed = {"method.mu": 0.5}
    search = Search(KEY, [1.0, 2.0], fixed, any_value, 1)
    assert search.wanted() == [{"method.mu": 0.5, KEY: 1.0}, {"method.mu": 0.5, KEY: 2.0}]
    search.tried = [Tried(setting=setting, value=setting[KEY]) for setting in search.wanted()]
    assert search.wanted() == [{"method.mu": 0.5, KEY: 4.0}]
