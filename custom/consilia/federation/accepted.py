"""Which client states count: the last round of every site whose update was accepted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


class AcceptedRounds:
    """The last accepted round by site; and the same as it was for the best global model so far.

    A site keeps what its method needs from one round to the next under the number of the round. A site that was killed,
    answered too late or was refused has a state that no global model knows of; every request therefore names the round
    whose state counts.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._best: dict[str, int] = {}

    def of(self, site: str) -> tuple[int, int]:
        """The rounds that count for the newest and for the best global model; 0 = none."""
        return self._last.get(site, 0), self._best.get(site, 0)

    def add(self, round_number: int, sites: Collection[str]) -> None:
        """Note whose updates a round has accepted."""
        self._last |= dict.fromkeys(sites, round_number)

    def mark_best(self) -> None:
        """The newest global model is the best so far."""
        self._best = dict(self._last)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"last": self._last, "best": self._best}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._last, self._best = dict(saved["last"]), dict(saved["best"])
