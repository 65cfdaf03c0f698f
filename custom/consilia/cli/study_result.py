"""A study's result on the console."""

from __future__ import annotations

from pathlib import Path

from consilia.cli.console import console, print_table
from consilia.cli.show import text_table
from consilia.record.study_result import StudyResult
from consilia.report.study_tables import study_tables
from consilia.study.outputs import PAGE, TABLES

SHOWN = ("means-last", "left-out", "ratios", "gaps", "claims", "best", "leaks", "runs")
"""Tables on the console; their names are these or end so. The others stand in the files."""


def show_study_result(result: StudyResult, folder: Path) -> None:
    """Print the tables that a reader needs first, and where all of them are."""
    for name, table in study_tables(result).items():
        if name.endswith(SHOWN):
            print_table(text_table(table))
    for note in result.notes:
        console.print(note, highlight=False)
    console.print(f"All tables and plots: {folder / PAGE}, {folder / TABLES}", highlight=False, soft_wrap=True)
