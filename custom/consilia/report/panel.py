"""What a method hands over for reports: panels of a page, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """A part of the report of a run, or of a comparison.

    Args:
        html: markup, as :func:`consilia.report.html.fill` makes it: it begins with a heading of level 2.
        lead: sentences for the opening paragraph of a run's report.
        first: whether it stands before the metrics of the models, or after them.
    """

    html: Markup
    lead: Markup | None = None
    first: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table on the terminal: the first column is left-aligned, the others right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
