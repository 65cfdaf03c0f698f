"""Collect every problem of a dataset, so that a data manager can mend all of them at once."""

from __future__ import annotations

from consilia.core.errors import DataError

SHOWN = 8


class Problems:
    """Messages found while reading one dataset; the loader raises them, the check lists them."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.by_case: dict[str, str] = {}
        """The first problem of each new case that cannot be read, where the others can."""

    def add(self, message: str, case: str | None = None) -> None:
        """Note one problem; the message names file, row or case, what was expected and what came.

        ``case``: the id of the new case whose problem alone it is.
        """
        self.messages.append(message)
        if case is not None:
            self.by_case.setdefault(case, message)

    def of_single_cases(self) -> bool:
        """Whether every problem is that of one new case alone."""
        return len(self.messages) == len(self.by_case)

    def __bool__(self) -> bool:
        return bool(self.messages)

    def raise_if_any(self, where: str) -> None:
        """Raise one :class:`DataError` with the first problems and the number of the rest."""
        if not self.messages:
            return
        lines = [f"{where}: {len(self.messages)} problem(s) in the data"]
        lines += [f"  - {message}" for message in self.messages[:SHOWN]]
        if len(self.messages) > SHOWN:
            lines.append(f"  ... and {len(self.messages) - SHOWN} more: `consilia site check` lists them all")
        raise DataError("\n".join(lines))
