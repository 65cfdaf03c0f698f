"""Which sites are asked: from seed and round alone, whoever is away."""

from __future__ import annotations

import pytest

from consilia.federation.sampling import draws, sample

NAMES = [f"hospital-{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("names", "participation", "count"), [(10, 1.0, 10), (10, 0.35, 3), (10, 0.01, 1), (3, 0.5, 1), (1, 1.0, 1)]
)
def test_how_many_are_drawn(names: int, participation: float, count: int) -> None:
    assert draws(NAMES[:names], participation) == count
    asked = sample(NAMES[:names], (), participation=participation, seed=0, round_number=1)
    assert len(set(asked)) == count
    assert asked == sorted(asked)


def test_everybody_has_a_turn_and_as_often_as_others() -> None:
    asked = [sample(NAMES, (), participation=0.3, seed=4, round_number=number) for number in range(1, 1001)]
    turns = [sum(name in names for names in asked) for name in NAMES]
    # 300 each, within four standard deviations of a binomial.
    assert all(abs(turn - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5 for turn in turns)
    assert asked == [sample(NAMES, (), participation=0.3, seed=4, round_number=number) for number in range(1, 1001)]
    assert asked != [sample(NAMES, (), participation=0.3, seed=5, round_number=number) for number in range(1, 1001)]


def test_who_is_away_changes_nothing_for_the_others_unless_nobody_is_left() -> None:
    for number in range(1, 50):
        whole = sample(NAMES, (), participation=0.3, seed=1, round_number=number)
        away = whole[0]
        assert sample(NAMES, {away}, participation=0.3, seed=1, round_number=number) == whole[1:]
        others = sample(NAMES, whole, participation=0.3, seed=1, round_number=number)
        assert len(others) == 3
        assert not set(others) & set(whole)
    assert sample(NAMES, NAMES, participation=0.3, seed=1, round_number=1) == []
