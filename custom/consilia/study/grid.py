"""What a study tunes, and where: one grid and one budget for all methods and trained baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from consilia.core.schema import Strict

Rate = Annotated[float, Field(gt=0)]


class Grid(Strict):
    """The key ``tune`` of a study file. See :mod:`consilia.study.tuning`.

    Attributes:
        learning_rate: the values that every method and every trained baseline tries.
        own: whether a method's own parameter is tuned, too, at the best rate (:attr:`Method.grid`).
        rounds: of a run of the grid; default: the study's.
        folds: ``first``: settings are chosen on the first fold, and the tables say so; ``each``: inside each fold. Of
            sites left out in turn each has a first fold.
        seeds: of the runs of the grid; default: the study's first. With several a setting is judged by its mean, and a
            change at the end of the grid below their standard deviation is none.
        extensions: how often a grid grows whose best value is at its end.
    """

    learning_rate: tuple[Rate, ...] = Field((0.003, 0.01, 0.03, 0.1), min_length=2)
    own: bool = True
    rounds: PositiveInt | None = None
    folds: Literal["first", "each"] = "first"
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    extensions: NonNegativeInt = 2

    def words(self, seeds: Sequence[int], division: str) -> str:
        """What was tuned and where, for the tables.

        Args:
            seeds: of the study.
            division: of its cases: ``fold``, ``partition``, or empty.
        """
        where = f" on the first {division} alone" if self.folds == "first" else f" inside each {division}"
        # Folds are of the same patients: who validates in the one is tested in another.
        seen = "; its validation patients are test patients of other folds" * (self.folds == "first")
        own = ", then one parameter of a method's own," if self.own else ""
        values = ", ".join(f"{value:g}" for value in self.learning_rate)
        used = ", ".join(map(str, self.seeds or seeds[:1]))
        return (
            f"Settings were chosen on validation cases{where if division else ''}, seed {used}"
            f"{seen * (division == 'fold')}: learning rates "
            f"{values}{own} the same for all; a grid grew at most {self.extensions} times at its end. All values: "
            "tuning/choices.json."
        )

    @field_validator("learning_rate")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError("expected different values in ascending order")
        return values
