"""The files of a study, all made from its result: ``study.json``, tables as Markdown, LaTeX and csv, and the page.

Equal results give equal bytes, but for ``costs.*`` and the columns of times in ``runs.csv`` and ``study.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel

from consilia.core.files import write_bytes, write_csv
from consilia.record.study_result import (
    RESULT,
    Contrast,
    Forgetting,
    Gap,
    PlannedRun,
    Ratio,
    Score,
    StudyResult,
    save_result,
)
from consilia.record.study_unseen import NewSiteScore
from consilia.report.study_tables import costs, study_tables
from consilia.report.table_text import latex_table, markdown_table, markdown_text

TABLES, LATEX, COSTS = "tables.md", "tables.tex", "costs.md"
SCORES, CLAIMS, RATIOS, RUNS = "results.csv", "claims.csv", "ratios.csv", "runs.csv"
GAPS, FORGETTING = "gaps.csv", "forgetting.csv"
NEW_SITE = "new-site.csv"
"""Only of a study with the key ``new_site``."""
PAGE = "study.html"


def write_outputs(result: StudyResult, folder: Path) -> None:
    """Write every file of a study's result into its folder, each atomically."""
    # Here, because it pulls in matplotlib, which the command line should not wait for.
    from consilia.report.study_page import study_page

    write_tables(result, folder)
    write_bytes(folder / PAGE, study_page(result).encode())


def write_tables(result: StudyResult, folder: Path) -> None:
    """All but the page."""
    save_result(result, folder / RESULT)
    tables = study_tables(result)
    write_bytes(folder / TABLES, markdown(result).encode())
    write_bytes(folder / LATEX, "\n".join(latex_table(table, name) for name, table in tables.items()).encode())
    if (spent := costs(result)) is not None:
        write_bytes(folder / COSTS, markdown_table(spent).encode())
    _write_rows(folder / SCORES, Score, result.scores)
    _write_rows(folder / CLAIMS, Contrast, result.contrasts, without=("units",))
    _write_rows(folder / RATIOS, Ratio, result.ratios)
    _write_rows(folder / GAPS, Gap, result.gaps)
    _write_rows(folder / FORGETTING, Forgetting, result.forgetting)
    if result.new_site:
        _write_rows(folder / NEW_SITE, NewSiteScore, result.new_site, without=("of_each",))
    _write_rows(folder / RUNS, PlannedRun, result.runs)


def markdown(result: StudyResult) -> str:
    """All tables but those of times, and what to know of them."""
    parts = [f"# {markdown_text(result.title)}\n"] if result.title else []
    parts += [markdown_table(table) for table in study_tables(result).values()]
    parts.append("\n".join(f"- {markdown_text(note)}" for note in result.notes) + "\n")
    return "\n".join(parts)


def _write_rows(path: Path, kind: type[BaseModel], rows: Iterable[BaseModel], without: Sequence[str] = ()) -> None:
    """A csv file with a column for each field; what is not defined is blank."""
    names = [name for name in kind.model_fields if name not in without]
    values = ([getattr(row, name) for name in names] for row in rows)
    write_csv(path, names, (["" if value is None else value for value in row] for row in values))
