"""``consilia site runs`` and ``consilia site forget``: what a site has taken part in, and how it forgets."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consilia.core.lock import locked
from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.run_folder import LOCK
from consilia.federation.site import Site
from consilia.federation.site_ledger import close_ledger
from tests.cli.support import consilia
from tests.federation.support import initial_state, small


@pytest.fixture
def taken_part(wisconsin: dict[str, Path]) -> tuple[Path, Site]:
    """A site that has trained once and made a personal model: its site.yaml, and the site."""
    path = wisconsin["hospital-1"]
    path.write_text(path.read_text().replace("max_rounds: null", "max_rounds: 20"))
    site = Site(small(label="mine" + 20 * "x"), load_site_config(path))
    for request in (Request(kind="prepare"), Request(kind="train"), Request(kind="personalize", round=3)):
        assert site.answer(request, initial_state(site.config)).error is None
    return path, site


def test_runs_show_what_was_spent_and_forgetting_leaves_a_line(taken_part: tuple[Path, Site]) -> None:
    path, site = taken_part
    run, state = site.config.run_id, site.settings.state_dir
    shown = consilia("site", "runs", "--site", path)
    assert run in shown
    assert "mine" in shown
    # A date in one piece.
    assert datetime.now(UTC).date().isoformat() in shown
    assert "spent 1 of 20 rounds, 1 of no limit evaluations" in shown
    assert f"hours, in {run}" in shown
    assert (site.folder / "personal-last.safetensors").is_file()
    forgotten = consilia("site", "forget", run, "--site", path)
    assert f"hospital-1 has forgotten {run}" in forgotten
    assert not site.folder.exists()
    (line,) = map(json.loads, (state / "forgotten.jsonl").read_text().splitlines())
    assert line["run"] == run
    assert line["bytes"] > 10_000
    # What was spent stays spent.
    shown = consilia("site", "runs", "--site", path)
    assert "forgotten" in shown
    assert "spent 1 of 20 rounds" in shown
    close_ledger(state, site.gate.digest)
    shown = consilia("site", "runs", "--site", path)
    assert f"approval taken back: {run}" in shown
    assert "spent 1" not in shown


def test_a_running_run_an_unknown_one_and_a_link_are_not_forgotten(
    taken_part: tuple[Path, Site], tmp_path: Path
) -> None:
    path, site = taken_part
    with locked(site.folder / LOCK):
        text = consilia("site", "forget", site.config.run_id, "--site", path, code=1)
    assert "in use by another job that is running" in text
    assert "has no run '../..'" in consilia("site", "forget", "../..", "--site", path, code=1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (site.folder.parent / "linked").symlink_to(outside)
    text = consilia("site", "forget", "linked", "--site", path, code=1)
    assert "is a symbolic link" in text
    assert (outside / "precious").is_file()
    assert site.folder.is_dir()


def test_strange_things_among_the_runs_are_told_plainly_and_never_followed(taken_part: tuple[Path, Site]) -> None:
    path, site = taken_part
    runs = site.folder.parent
    (runs / "a file").touch()
    os.mkfifo(runs / "a pipe")
    (runs / "\x1b[31mrun\n").mkdir()
    shown = consilia("site", "runs", "--site", path)
    assert "\x1b" not in shown
    assert "a file" not in shown
    for name in ("a file", "a pipe", "", ".", "..", f"../runs/{site.folder.name}"):
        text = consilia("site", "forget", name, "--site", path, code=1)
        assert f"has no run {name!r}" in text
        assert "\x1b" not in text
    assert site.folder.is_dir()


def test_a_kit_of_somebody_else_has_no_runs(tmp_path: Path) -> None:
    (tmp_path / "startup").mkdir()
    (tmp_path / "local").mkdir()
    content = {"servers": [{"service": {"target": "localhost:8002"}, "identity": "localhost"}]}
    (tmp_path / "startup" / "fed_server.json").write_text(json.dumps(content))
    said = "is no site's kit: only sites have runs and limits of their own"
    assert said in consilia("site", "runs", "--kit", tmp_path, code=1)
    assert said in consilia("site", "forget", "fedkper-1", "--kit", tmp_path, code=1)
