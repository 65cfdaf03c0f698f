"""The search for the best value of one key: its grid, which grows at its end, and what came of every value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consilia.core.schema import Strict

Setting = Mapping[str, float]
"""Values by the keys of the configuration."""


class Tried(Strict):
    """One setting: its validation value, higher is better, the mean over the seeds; null: a run of it failed.

    ``personal``: the same of the personal models; ``sd``, ``personal_sd``: over the seeds, null for one.
    """

    setting: dict[str, float]
    value: float | None
    personal: float | None = None
    sd: float | None = None
    personal_sd: float | None = None
    reason: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """By which settings are compared."""
        return (
            -math.inf if self.value is None else self.value,
            -math.inf if self.personal is None else self.personal,
        )


@dataclass
class Search:
    """The search for the best value of a key. What :meth:`wanted` names is added to ``tried``, until it is nothing.

    Attributes:
        key: of the configuration.
        values: of the grid, ascending; it grows.
        fixed: values of other keys, found before.
        takes: whether the configuration takes a setting: a parameter has its natural limits.
        extensions: how often the grid may grow still.
        tried: what came of each value.
    """

    key: str
    values: list[float]
    fixed: Setting
    takes: Callable[[Setting], bool]
    extensions: int
    tried: list[Tried] = field(default_factory=list)

    def wanted(self) -> list[Setting]:
        """The settings to try next: all values, and then the one by which the grid grows, if it does."""
        if not self.tried:
            return [self._at(value) for value in self.values]
        value = self.beyond() if self.extensions else None
        if value is None:
            return []
        self.extensions -= 1
        self.values = sorted([*self.values, value])
        return [self._at(value)]

    @property
    def best(self) -> float | None:
        """The best value; None where none has a result. The first one tried wins a tie."""
        there = [tried for tried in self.tried if tried.value is not None]
        return max(there, key=lambda tried: tried.rank).setting[self.key] if there else None

    def beyond(self) -> float | None:
        """The value by which the grid should grow; None: its best one is inside, or no growth would say anything."""
        value = self._outside()
        return value if value is not None and self.takes(self._at(value)) else None

    @property
    def edge(self) -> str:
        """Why the best value may lie outside the grid; empty: it is inside, or stands at the parameter's limit."""
        best, value = self.best, self._outside()
        if best is None:
            return "no value has a result"
        if value is None:
            return ""
        if self.takes(self._at(value)):
            return "the best value stands at the end of the grid"
        at_limit = not self.takes(self._at(math.nextafter(best, value)))
        return "" if at_limit else "the next value is beyond the parameter's limit"

    def _outside(self) -> float | None:
        """The next value past the end, by the grid's last ratio, where the best one stands there and it matters."""
        best = self.best
        if best is None or best not in (self.values[0], self.values[-1]):
            return None
        inner = self.values[1] if best == self.values[0] else self.values[-2]
        if self._is_noise(best, inner):
            return None
        value = best * best / inner
        # A grid that begins with 0 does not grow there.
        return None if value == best else value

    def _is_noise(self, best: float, other: float) -> bool:
        """Whether the change from the best value to another one is below the seeds' standard deviation."""
        found = {tried.setting[self.key]: tried for tried in self.tried}
        first, second = found[best], found[other]
        change, sd = _change(first.value, second.value), first.sd
        if change == 0:
            # Of equal global models the personal ones decide.
            change, sd = _change(first.personal, second.personal), first.personal_sd
        return change is not None and sd is not None and change < sd

    def _at(self, value: float) -> dict[str, float]:
        return {**self.fixed, self.key: value}


def _change(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else abs(first - second)
