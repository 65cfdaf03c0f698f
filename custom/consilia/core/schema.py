"""The base of everything that is validated, and the one form of its errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from consilia.core.plain import plain

MAX_SHOWN = 120
"""Characters of a value that an error shows."""

UNKNOWN_KEY = "unknown_key"


class Strict(BaseModel):
    """Base of configurations, records and messages: unknown keys and NaN are errors, and values never change.

    In JSON and YAML a field goes by its alias where it has one, since ``class`` and ``global`` are no names in Python.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """An unknown key is answered with the nearest known one."""
        try:
            return handler(value)
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            found = [_detail(item, known) for item in error.errors(include_url=False, include_context=False)]
            raise ValidationError.from_exception_data(cls.__name__, found) from None


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that an unknown one was probably meant to be, as a question; else all that are known."""
    names = list(known)
    close = get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(sorted(names))}"


def explain(error: ValidationError, source: object, *parents: str) -> str:
    """What pydantic found, to act on: the file or other source, each key, what was expected and what came.

    Args:
        error: as pydantic raised it.
        source: names where the values come from.
        parents: keys above those that were validated.
    """
    findings = []
    for item in error.errors(include_url=False, include_context=False):
        key = ".".join(plain(part, MAX_SHOWN) for part in (*parents, *item["loc"])) or "(top level)"
        # For a missing key pydantic reports what is around it as the input: too much for a message.
        came = "nothing" if item["type"] == "missing" else _short(item["input"])
        got = "" if item["type"] == UNKNOWN_KEY else f"; got {came}"
        findings.append(f"{key}: {item['msg'].removeprefix('Value error, ')}{got}")
    if len(findings) == 1:
        return f"{source}: {findings[0]}"
    return "\n  - ".join((f"{source}: {len(findings)} values do not fit", *findings))


def _detail(item: Any, known: list[str]) -> InitErrorDetails:
    """One of pydantic's findings; of a key that the model itself does not know, in our own words."""
    kind, message, place = item["type"], item["msg"], item["loc"]
    if kind == "extra_forbidden" and len(place) == 1:
        kind, message = UNKNOWN_KEY, f"unknown key; {nearest(place[0], known)}"
    text = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=text, loc=place, input=item["input"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
