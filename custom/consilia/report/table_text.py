"""A table as Markdown and as LaTeX (booktabs). Labels are strangers' text: everything in them is escaped."""

from __future__ import annotations

import re

from consilia.core.plain import plain
from consilia.report.panel import TextTable

_NUMBERS = re.compile(r"[\d\s.,%\[\]+−–]*")
"""What needs no escape in Markdown: a value with its interval."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would begin an argument
    "]": "{]}",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "\u00a0": "~",
    "\u202f": r"\,",
}


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    shown = plain(text)
    return shown if _NUMBERS.fullmatch(shown) else re.sub(r"([\\`*_{}\[\]<>|&#~$])", r"\\\1", shown)


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(text, keep="\u00a0\u202f"))


def markdown_table(table: TextTable) -> str:
    """Title, table and note."""
    lines = [f"**{markdown_text(table.title)}**", ""]
    lines += [_line(table.columns), "|" + "---|" * len(table.columns)]
    lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, *(["", markdown_text(table.caption)] if table.caption else [])]) + "\n"


def _line(cells: object) -> str:
    assert isinstance(cells, list | tuple)
    return "| " + " | ".join(markdown_text(cell) for cell in cells) + " |"


def latex_table(table: TextTable, name: str) -> str:
    """A floating table; the document needs the package booktabs. ``name``: its label."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.caption)}}}".replace(". }", "}"),
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', name)}}}",
        r"\begin{tabular}{" + "l" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(map(latex_text, table.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex_text, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
