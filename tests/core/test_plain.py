"""Text of strangers: what is escaped, what stays whole, what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from consilia.core.files import write_csv
from consilia.core.plain import UNNAMED_ERROR, PlainText, error_kind, one_line, plain, plain_json
from consilia.core.terminal import PlainConsole

HOSTILE = {
    "line break": ("a\nb", r"a\nb"),
    "carriage return": ("a\rb", r"a\rb"),
    "escape sequence": ("\x1b[2Ja", r"\x1b[2Ja"),
    "eight-bit escape": ("\x9b2Ja", r"\x9b2Ja"),
    "bell": ("\x07", r"\x07"),
    "nul": ("a\0b", r"a\x00b"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "right to left": ("site\u202egnp.exe", r"site\u202egnp.exe"),
    "isolate": ("\u2066a", r"\u2066a"),
    "zero width": ("hosp\u200bital", r"hosp\u200bital"),
    "byte order mark": ("\ufeffa", r"\ufeffa"),
    "tag letter": ("\U000e0041", r"\U000e0041"),
    "filler": ("hosp\u3164ital\uffa0", r"hosp\u3164ital\uffa0"),
    "variant": ("hospital\ufe0f", r"hospital\ufe0f"),
    "half a letter": ("\ud800", r"\ud800"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_shown_as_itself_is_escaped(name: str) -> None:
    text, shown = HOSTILE[name]
    assert plain(text) == shown
    assert plain(plain(text)) == shown
    assert plain_json({text: [text, {"a": text}, 1, None]}) == {shown: [shown, {"a": shown}, 1, None]}
    with pytest.raises(ValidationError, match="no control characters"):
        TypeAdapter(PlainText).validate_python(text)


@pytest.mark.parametrize(
    "honest", ["Grün", "Кашель", "肺炎", "طبيعي", "a\u00a0b", "n° 7 | <x> [red] $a$ \\ 100 %", "", "🫀"]
)
def test_honest_names_stay_whole(honest: str) -> None:
    assert plain(honest) == honest
    assert TypeAdapter(PlainText).validate_python(honest) == honest


def test_a_long_text_is_cut_and_own_lines_become_one() -> None:
    assert plain("x" * 11, 10) == "xxxxxxx..."
    assert plain("x" * 10, 10) == "x" * 10
    assert one_line("two values\n  - a\r\n  - b") == r"two values   - a\r   - b"


@pytest.mark.parametrize("name", ["ValueError", "_Own", "A" * 80])
def test_the_kind_of_an_error(name: str) -> None:
    assert error_kind(name) == name


@pytest.mark.parametrize("name", ["", "A" * 81, "Value Error", "a.b", "x\ny", "Größe", "1a", "a\n", "[red]"])
def test_what_cannot_be_the_kind_of_an_error_is_not_repeated(name: str) -> None:
    assert error_kind(name) == UNNAMED_ERROR


FORMULAS = ["=1+1", "+1-2", "-2+3", "@SUM(A1)", " =1", "＝1", "=cmd|' /C calc'!A0", "-", "+A", "-1e", '=HYPERLINK("x")']


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_a_text_in_a_csv(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path / "a.csv", [text, "value"], [[text, 1]])
    with (tmp_path / "a.csv").open(newline="") as file:
        heading, row = list(csv.reader(file))
    assert heading == [f"'{text}", "value"]
    assert row == [f"'{text}", "1"]


def test_a_csv_leaves_numbers_and_names_as_they_are_and_escapes_the_rest(tmp_path: Path) -> None:
    row = ["-5", "+1.5", "-2e-7", "p-1", "a@b", "Grün", -3, -0.25, float("nan"), 'a"b,c']
    write_csv(tmp_path / "a.csv", ["x"], [row, ["\t=1", "\r=1", "a\nb", "-007"]], private=True)
    with (tmp_path / "a.csv").open(newline="") as file:
        _, honest, hostile = list(csv.reader(file))
    assert honest == ["-5", "+1.5", "-2e-7", "p-1", "a@b", "Grün", "-3", "-0.250000", "", 'a"b,c']
    assert hostile == [r"\t=1", r"\r=1", r"a\nb", "-007"]
    assert (tmp_path / "a.csv").stat().st_mode & 0o077 == 0


def test_a_terminal_shows_markup_and_escape_sequences_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    text = "[bold]a[/wrong] :smile: \x1b[2J\x1b]8;;http://x\x07"
    table = Table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text))
    for terminal in (False, True):
        console = PlainConsole(force_terminal=terminal, width=200, legacy_windows=False)
        console.print(text, highlight=False)
        console.print(Text(text))
        console.print(table, style="red")
        shown = capsys.readouterr().out
        assert shown.count("[bold]a[/wrong] :smile: \\x1b[2J\\x1b]8;;") == 6
        assert "\x1b[2J" not in shown
        assert "\x1b]" not in shown
        assert ("\x1b[31m" in shown) == terminal
