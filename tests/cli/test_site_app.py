"""``consilia site``: what is printed, what is written, and the exit status, at a really provisioned kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilia.deploy.kit import Kit
from tests.cli.support import consilia
from tests.deploy_units.doors import listening
from tests.deploy_units.kits import contents, kit_of, site_yaml, visits_job


@pytest.fixture
def site(tmp_path: Path) -> Kit:
    return kit_of("hospital-1", tmp_path)


@pytest.mark.parametrize("command", ["check", "foundation", "install", "doctor", "manifest", "approve"])
def test_help_teaches_by_example(command: str) -> None:
    text = consilia("site", command, "--help").replace("Usage: consilia", "", 1)
    assert f"consilia site {command} " in text


def test_a_dry_run_shows_the_changes_and_makes_none(site: Kit, tmp_path: Path) -> None:
    before = contents(site)
    text = consilia("site", "install", "--kit", site.folder, "--config", site_yaml(tmp_path / "data"), "--dry-run")
    assert contents(site) == before
    assert '+ "allow_log_streaming": false,' in text
    assert '- "allow_log_streaming": true,' in text
    assert "--- local/resources.json.default +++ local/resources.json" in text
    assert "would write site.yaml, resources.json, privacy.json, authorization.json, comm_config.json" in text


def test_install_says_what_it_wrote_then_that_nothing_is_left_and_undo_what_it_put_back(
    site: Kit, tmp_path: Path
) -> None:
    before = contents(site)
    arguments = ("site", "install", "--kit", site.folder)
    text = consilia(*arguments)
    assert "wrote resources.json, privacy.json, authorization.json, comm_config.json" in text
    assert "note: there is no" in text
    assert "site.yaml yet" in text
    assert "Restart hospital-1 if it is running" in text
    text = consilia(*arguments, "--config", site_yaml(tmp_path / "data"))
    assert "wrote site.yaml. Jobs that start from now on go by it, no restart is needed; --undo puts back" in text
    assert "nothing to change" in consilia(*arguments)
    (site.local / "privacy.json").write_text("{}")
    text = consilia(*arguments, "--undo")
    assert "resources.json: removed" in text
    assert "privacy.json: kept as it is, it was edited" in text
    (site.local / "privacy.json").unlink()
    assert contents(site) == before
    assert "nothing to undo" in consilia(*arguments, "--undo", code=1)


def test_a_folder_that_is_no_kit_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path} is no startup kit" in consilia("site", "install", "--kit", tmp_path, code=1)
    assert f"{tmp_path} is no startup kit" in consilia("site", "doctor", "--kit", tmp_path, code=1)


def test_from_a_bare_kit_to_one_that_is_ready_for_a_job(site: Kit, tmp_path: Path) -> None:
    job = visits_job(tmp_path / "jobs")
    arguments = ("site", "doctor", "--kit", site.folder, "--job", job)
    text = consilia(*arguments, code=1)
    assert "FAILED allow-list" in text
    assert "hospital-1: not ready" in text
    consilia("site", "install", "--kit", site.folder, "--config", site_yaml(tmp_path / "data"))
    text = consilia(*arguments, code=1)
    assert "FAILED approval: what visits asks and sends is not approved here" in text
    assert "not ready, 1 check(s) failed" in text
    consilia("site", "approve", job, "--kit", site.folder)
    with listening(site):
        before = contents(site)
        text = consilia(*arguments)
        assert contents(site) == before, "the doctor only reads"
    assert "hospital-1: ready" in text
    assert "FAILED" not in text
    consilia("site", "approve", job, "--kit", site.folder, "--withdraw")
    assert "FAILED approval" in consilia(*arguments, code=1)
