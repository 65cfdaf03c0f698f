"""The doctor on the policies of really provisioned kits: every hole is found, and what is right passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consilia.deploy.doctor.policies import check_policies, readable
from consilia.deploy.install.plan import install, plan_installation
from consilia.deploy.install.policies import ALLOWED_CLASSES
from consilia.deploy.kit import Kit
from tests.deploy_units.kits import bad, done, kit_of, read, site_yaml, write


@pytest.fixture
def site(site: Kit, tmp_path: Path) -> Kit:
    done(site, site_yaml(tmp_path / "data"))
    return site


@pytest.fixture
def server(server: Kit) -> Kit:
    done(server)
    return server


def test_before_the_installation_everything_that_matters_fails_and_after_it_nothing(tmp_path: Path) -> None:
    kit = kit_of("hospital-1", tmp_path)
    found = list(readable(kit))
    assert {finding.check for finding in found if finding.level == "FAILED"} == {
        "allow-list",
        "log streaming",
        "job processes",
        "messages",
        "own processes",
        "filter of what leaves",
        "rights",
    }
    assert all("consilia site install" in finding.todo for finding in found if "Consilia cannot run" in finding.text)
    install(plan_installation(kit))
    assert bad(check_policies(kit)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"class_allow_list": [*ALLOWED_CLASSES, "consilia."]},
        {"class_allow_list": [*ALLOWED_CLASSES, "consilia.flare.executor"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "*"]},
        {"class_allow_list": [*ALLOWED_CLASSES[1:]]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare."]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare.app_common.filters.svt_privacy.SVTPrivacy"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent"]},
        {"class_allow_list": [*ALLOWED_CLASSES, "short"]},
        {"class_list_enforcement_mode": "warn"},
        {"class_list_enforcement_mode": "maybe"},
    ],
)
def test_an_allow_list_with_a_hole_fails(site: Kit, change: dict[str, Any]) -> None:
    write(site, "resources.json", {**read(site, "resources.json"), **change})
    assert set(bad(check_policies(site))) == {("allow-list", "FAILED")}


def test_other_classes_of_the_sites_own_are_told(site: Kit) -> None:
    listed = [*ALLOWED_CLASSES, "hospital.Own", "nvflare.app_common.workflows.fedavg.FedAvg"]
    write(site, "resources.json", {**read(site, "resources.json"), "class_allow_list": listed})
    (finding,) = [item for item in check_policies(site) if item.level != "ok"]
    assert (finding.check, finding.level) == ("allow-list", "warning")
    assert finding.text.startswith(
        "hospital.Own, nvflare.app_common.workflows.fedavg.FedAvg: a job may have these built"
    )


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("nvflare.app_common.executors.client_api_executor.ClientAPIExecutor", "runs a command that the job names"),
        ("nvflare.app_opt.p2p.", "sends its own messages"),
    ],
)
def test_a_class_that_sends_or_runs_something_of_the_jobs_own_is_a_fault(site: Kit, entry: str, what: str) -> None:
    listed = [*ALLOWED_CLASSES, entry]
    write(site, "resources.json", {**read(site, "resources.json"), "class_allow_list": listed})
    (finding,) = [item for item in check_policies(site) if item.level != "ok"]
    assert (finding.check, finding.level) == ("allow-list", "FAILED")
    assert entry in finding.text
    assert what in finding.text


def test_what_nvflare_would_tell_the_server_of_resources_is_named(site: Kit) -> None:
    write(site, "resources.json", {**read(site, "resources.json"), "data_root": "/data/patients"})
    (finding,) = [item for item in check_policies(site) if item.level != "ok"]
    assert (finding.check, finding.level) == ("registration", "warning")
    assert "data_root" in finding.text
    assert "/data/patients" not in finding.text


OURS = {"path": "consilia.deploy.release_filter.ReleaseFilter"}
OTHER = {"path": "nvflare.app_common.filters.exclude_vars.ExcludeVars"}


@pytest.mark.parametrize(
    ("filters", "level"),
    [
        ([OURS], None),
        ([OURS, OTHER], None),
        ([{**OURS, "direction": "OUT"}], None),
        ([OTHER, OURS], "FAILED"),
        ([{**OURS, "direction": "in"}], "FAILED"),
        ([], "FAILED"),
        ([{"path": "no.such.Filter"}], "FAILED"),
    ],
)
def test_the_filter_must_come_first_in_every_scope(site: Kit, filters: list[Any], level: str | None) -> None:
    scopes = [{"name": "a", "task_result_filters": [OURS]}, {"name": "b", "task_result_filters": filters}]
    write(site, "privacy.json", {**read(site, "privacy.json"), "scopes": scopes, "default_scope": "a"})
    assert bad(check_policies(site)) == ([] if level is None else [("filter of what leaves", level)])


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ({}, []),
        ({"byoc": "o:hospital_1", "cat": "o:site"}, []),
        ({"cat": "any"}, [("rights", "FAILED")]),
        ({"operate": "any", "shell_commands": "any"}, [("rights", "FAILED")] * 2),
        ({"byoc": "any"}, [("rights", "FAILED")]),
        ({"view": "nonsense"}, [("rights", "FAILED")]),
    ],
)
def test_rights_of_strangers(site: Kit, rights: dict[str, str], expected: list[tuple[str, str]]) -> None:
    policy = read(site, "authorization.json")
    policy["permissions"]["lead"].update(rights)
    write(site, "authorization.json", policy)
    assert bad(check_policies(site)) == expected


def test_a_damaged_file_is_a_finding(site: Kit) -> None:
    (site.local / "resources.json").write_text("{")
    (finding,) = readable(site)
    assert finding.level == "FAILED"
    assert "resources.json" in finding.text


def test_at_the_server_submitters_must_be_able_to_follow(server: Kit) -> None:
    assert bad(check_policies(server)) == []
    (server.local / "authorization.json").unlink()
    assert bad(check_policies(server)) == [("rights", "warning")]


def test_a_server_without_the_guard_fails(server: Kit) -> None:
    resources = read(server, "resources.json")
    assert bad(check_policies(server)) == []
    kept = [item for item in resources["components"] if "SubmissionGuard" not in item["path"]]
    write(server, "resources.json", {**resources, "components": kept})
    assert bad(check_policies(server)) == [("submissions", "FAILED")]
