"""Approvals at a site: who gives them, what they bind, and that nothing leaves without one."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import ReservedHeaderKey

from consilia.core.errors import ConfigError, ReleaseRefused
from consilia.deploy.release_filter import approve, approved, withdraw
from consilia.federation.release_manifest import Manifest, manifest_of
from tests.deploy_units.filtered import CONFIG, MANIFEST, NAME, Place, is_refusal, result_of
from tests.federation.support import model_of, small, write_job


def test_nothing_leaves_before_the_site_has_approved_it_and_after_it_took_that_back(tmp_path: Path, caplog) -> None:
    place = Place(tmp_path)
    caplog.set_level(logging.ERROR)
    assert is_refusal(place.process(result_of()))
    assert "is not approved here" in caplog.text
    assert place.lines()[0]["reason"].startswith(f"the manifest of this job ({MANIFEST.digest}) is not approved here")
    path = approve(place.kit, place.job)
    assert path == place.kit / "local" / "approved" / f"heart-job-{MANIFEST.digest[7:19]}.json"
    assert approve(place.kit, place.job) == path
    assert Manifest.model_validate_json(path.read_text()) == MANIFEST
    assert place.process(result_of()).get(ReservedHeaderKey.HEADERS) == {"__content_type__": "DXO"}
    # In the middle of a job, as it may be needed.
    copy = path.with_name("another-name.json")
    copy.write_text(path.read_text())
    assert withdraw(place.kit, place.job) == (copy, path)
    assert list(path.parent.iterdir()) == []
    assert is_refusal(place.process(result_of()))
    with pytest.raises(ConfigError, match="is not approved at hospital-1"):
        withdraw(place.kit, place.job)


def test_no_approval_is_written_through_a_link(tmp_path: Path) -> None:
    place, outside = Place(tmp_path), tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (place.kit / "local" / "approved").symlink_to(outside)
    with pytest.raises(ConfigError, match="approved is a symbolic link"):
        approve(place.kit, place.job)
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o700


def test_an_approval_can_be_read_by_the_user_who_runs_nvflare_whoever_has_given_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    local = place.kit / "local"
    before = os.umask(0o077)
    try:
        path = approve(place.kit, place.job)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 | stat.S_IMODE(local.stat().st_mode)


def test_another_jobs_approval_is_none(tmp_path: Path) -> None:
    config = small("fedavg")
    place = Place(tmp_path / "a", manifest_of(config, model_of(CONFIG)), config)
    approve(place.kit, write_job(tmp_path / "job", MANIFEST.to_json()))
    assert is_refusal(place.process(result_of()))
    assert "is not approved here" in place.lines()[0]["reason"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rounds": 300}, "rounds: its manifest says 3, its configuration 300"),
        ({"training": {**CONFIG.to_json()["training"], "learning_rate": 1e9}}, "training.learning_rate: its manifest"),
        ({"dataset": "psychiatry"}, 'dataset: its manifest says "diagnosis", its configuration "psychiatry"'),
    ],
)
def test_an_approved_manifest_is_no_approval_of_another_configuration(place: Place, changed, words: str) -> None:
    path = place.job / f"app_{NAME}" / "config" / "config_fed_client.json"
    content = json.loads(path.read_text())
    content["executors"][0]["executor"]["args"]["config"] |= changed
    path.write_text(json.dumps(content))
    assert words in place.ask()
    assert is_refusal(place.process(result_of()))
    assert words in place.lines()[0]["reason"]


def test_a_job_whose_executor_does_not_ask_sends_nothing(place: Place) -> None:
    place.context.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
    assert is_refusal(place.filter.process(result_of(), place.context))
    assert place.lines()[0]["reason"] == "the job's executor has not asked for the site's approval"


def test_a_second_executor_with_another_configuration_is_refused(place: Place) -> None:
    assert place.ask() == ""
    other = {**CONFIG.to_json(), "rounds": 300}
    with pytest.raises(ReleaseRefused, match="a second executor of this job has another configuration"):
        place.filter.require_approved(other, MANIFEST.to_json(), place.context)
    assert place.ask() == ""


def test_what_cannot_be_checked_is_not_done(place: Place) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    settings = {**CONFIG.to_json(), "model": {"class": "a.B", "args": deep}}
    for config, manifest in ((settings, MANIFEST.to_json()), (CONFIG.to_json(), {}), ("{x}", MANIFEST.to_json())):
        with pytest.raises(ReleaseRefused):
            place.filter.require_approved(config, manifest, place.context)


def test_a_damaged_approval_stops_everything_and_is_named(place: Place) -> None:
    (place.kit / "local" / "approved" / "half.json").write_text('{"tensors": {}, ')
    assert is_refusal(place.process(result_of()))
    assert "half.json: expected JSON" in place.lines()[0]["reason"]
    with pytest.raises(ConfigError, match=r"half\.json"):
        approved(place.kit / "local")


def test_an_approval_of_an_older_consilia_is_named_and_is_to_be_given_anew(place: Place) -> None:
    old = {name: part for name, part in MANIFEST.to_json().items() if name in ("datasets", "tensors", "fields")}
    (place.kit / "local" / "approved" / "old.json").write_text(json.dumps(old))
    assert is_refusal(place.process(result_of()))
    assert "old.json: the manifest does not say what the job asks of a site" in place.lines()[0]["reason"]
    assert "approve the job anew" in place.lines()[0]["reason"]


def test_only_a_sites_kit_approves(tmp_path: Path) -> None:
    kit = tmp_path / "server"
    (kit / "startup").mkdir(parents=True)
    server = {"servers": [{"service": {"target": "localhost:8002"}, "identity": "localhost"}]}
    (kit / "startup" / "fed_server.json").write_text(json.dumps(server))
    with pytest.raises(ConfigError, match="is the kit of a server"):
        approve(kit, write_job(tmp_path / "job", MANIFEST.to_json()))
