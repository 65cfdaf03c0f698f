"""errors.log."""

from __future__ import annotations

from consilia.federation.site_errors import last_error, note_error


def test_errors_are_appended_in_full_for_the_owner_alone(tmp_path) -> None:
    for text in ("row 3 of patient 17", "row 4 of patient 18"):
        try:
            raise ValueError(text)
        except ValueError as error:
            path = note_error(tmp_path / "state", "task train", error)
    assert path.read_text().count("task train") == 2
    assert path.stat().st_mode & 0o077 == 0
    assert last_error(tmp_path / "state") == "ValueError: row 4 of patient 18"
    assert last_error(tmp_path) is None


def test_a_disk_that_takes_nothing_does_not_hide_the_error(tmp_path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    note_error(tmp_path / "state", "task train", OSError("no space left on device"))


def test_what_an_error_quotes_begins_no_entry_and_steers_no_terminal(tmp_path) -> None:
    forged = "2026-01-01T00:00:00+00:00 request train"
    path = note_error(tmp_path, "task train", ValueError(f"no key 'a\n{forged}\n\x1b[2J\u202e'"))
    lines = path.read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("  ")] == [lines[0]]
    assert r"\x1b[2J\u202e" in lines[-2]
    assert f"  {forged}" in lines
