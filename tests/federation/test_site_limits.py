"""A job against a site's limits: what is compared, refused, counted and withheld."""

from __future__ import annotations

from typing import Any

import pytest

from consilia.data.limits import RESEARCH_LIMITS, SiteLimits
from consilia.federation.site_limits import compared
from tests.federation.support import small

DEFAULTS = SiteLimits()


def refused(limits: SiteLimits = DEFAULTS, *, cases: int = 100, size: int = 10, **settings: Any) -> dict[str, str]:
    rows = compared(small(**settings), limits, training_cases={"diagnosis": cases}, model_bytes=size)
    assert [row.limit for row in rows] == list(SiteLimits.model_fields)
    return {row.limit: f"{row.asked} of {row.allowed}" for row in rows if not row.ok}


def training(**values: Any) -> dict[str, Any]:
    return {"training": {"device": "cpu", "batch_size": 16, **values}}


@pytest.mark.parametrize(
    ("asked", "limit", "words"),
    [
        ({"rounds": 201, "evaluate_every": 0}, "max_rounds", "201 of 200"),
        (training(local_epochs=21), "max_local_epochs", "21 of 20"),
        (training(personalise_epochs=1000), "max_local_epochs", "1,000 of 20"),
        (training(learning_rate=1e9), "max_learning_rate", "(1e+09 times method.max_kd_weight 10) of 1.0"),
        (
            training(learning_rate=0.5, weight_decay=1e6),
            "max_learning_rate",
            "training.weight_decay 1e+06 times method.max_kd_weight 10) of 1.0",
        ),
        ({"method": {"method": "fedprox", "mu": 1e6}}, "max_learning_rate", "method.mu 1e+06) of 1.0"),
        (
            {"method": {"method": "fedkper", "temperature": 100, "max_kd_weight": 100}},
            "max_learning_rate",
            "500 (0.05 times method.temperature 100 times method.max_kd_weight 100) of 1.0",
        ),
        (
            {**training(learning_rate=0.9, momentum=0.999999), "method": "fedavg"},
            "max_learning_rate",
            "90000 (0.9 times 0.1 / (1 - training.momentum) 100000) of 1.0",
        ),
        (training(batch_size=51), "max_batch_fraction", "0.51 (51 of 100 cases) of 0.5"),
        ({"cases": 49}, "min_training_cases", "49 of 50"),
        ({"rounds": 200, "limits": SiteLimits(max_evaluations=201)}, "max_evaluations", "203 of 201"),
        ({"size": 149 * 2**30}, "max_model_bytes", "160 GB of 2 GB"),
    ],
)
def test_each_limit_refuses_by_its_name(asked: dict[str, Any], limit: str, words: str) -> None:
    found = refused(**asked)
    assert list(found) == [limit]
    assert found[limit].endswith(words)


def test_a_job_within_the_defaults_is_allowed_and_a_study_asks_what_it_likes() -> None:
    assert refused() == {}
    extreme = {**training(local_epochs=10**9, learning_rate=1e9, batch_size=10**6), "rounds": 10**12}
    assert len(refused(**extreme)) == 5
    assert refused(RESEARCH_LIMITS, cases=1, size=10**12, **extreme) == {}


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ({"rounds": "1" + "0" * 400, "evaluate_every": 0}, "max_rounds"),
        ({"rounds": "1" + "0" * 400, "evaluate_every": "1" + "0" * 400}, "max_rounds"),
        (training(local_epochs="1" + "0" * 400), "max_local_epochs"),
        (training(batch_size="1" + "0" * 400), "max_batch_fraction"),
    ],
)
def test_integers_beyond_what_a_float_holds_are_refused_by_the_limits_name(asked: dict[str, Any], limit: str) -> None:
    assert list(refused(**asked)) == [limit]


def test_a_methods_own_epochs_come_on_top() -> None:
    found = refused(method={"method": "ditto", "personal_epochs": 12}, **training(local_epochs=9))
    assert found == {"max_local_epochs": "21 of 20"}


def test_the_smallest_dataset_counts_and_one_without_training_cases_does_not() -> None:
    rows = compared(small(), SiteLimits(), training_cases={"a": 500, "b": 30, "test-only": 0})
    assert {row.limit: row.asked for row in rows if not row.ok} == {
        "max_batch_fraction": "0.533 (16 of 30 cases)",
        "min_training_cases": "30",
    }
    unknown = {row.limit: row.asked for row in compared(small(), SiteLimits())}
    assert unknown["min_training_cases"] == unknown["max_model_bytes"] == ""
