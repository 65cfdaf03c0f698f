"""Collect every problem of a dataset, so that a data manager can mend all of them at once."""

from __future__ import annotations

from consilia.core.errors import DataError

SHOWN = 8


class Problems:
    """Messages found while reading one dataset; the loader raises them, the check lists them."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Note one problem; the message names file, row or case, what was expected and what came."""
        self.messages.append(message)

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
