"""The base of what is validated, and the form of its errors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from consilia.core.schema import Strict, explain


class Inner(Strict):
    rate: float = 1.0
    epochs: int = 1


class Outer(Strict):
    inner: Inner = Inner()
    class_: str = Field("x", alias="class")


def told(values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return explain(caught.value, "job.yaml")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"inner": {"epoch": 2}}, "job.yaml: inner.epoch: unknown key; did you mean 'epochs'?"),
        ({"clas": 3}, "job.yaml: clas: unknown key; did you mean 'class'?"),
        ({"zzz": 3}, "job.yaml: zzz: unknown key; expected one of class, inner"),
        (
            {"inner": {"epochs": "many", "epoch": 2}},
            "job.yaml: 2 values do not fit\n"
            "  - inner.epochs: Input should be a valid integer, unable to parse string as an integer; got 'many'\n"
            "  - inner.epoch: unknown key; did you mean 'epochs'?",
        ),
        ({"inner": {"rate": float("nan")}}, "job.yaml: inner.rate: Input should be a finite number; got nan"),
        (3, "job.yaml: (top level): Input should be a valid dictionary or instance of Outer; got 3"),
        ({"class": ["a"] * 99}, f"job.yaml: class: Input should be a valid string; got {repr(['a'] * 99)[:117]}..."),
    ],
)  # fmt: skip
def test_explain_names_source_key_expectation_and_value(values: Any, expected: str) -> None:
    assert told(values) == expected


def test_values_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().epochs = 2  # type: ignore[misc]
