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
