"""What installed policies mean, by NVFlare's own parsers: what a job may build, what is filtered, who may do what."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.filters.exclude_vars import ExcludeVars
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.security.security import FLAuthorizer

from consilia.deploy.install.policies import ALLOWED_CLASSES, covers, doors
from consilia.deploy.kit import Kit
from consilia.deploy.release_filter import ReleaseFilter
from tests.deploy_units.kits import done, kit_of, read, write


def buildable(kit: Kit, path: str) -> bool:
    try:
        ComponentPathAuthorizer().authorize_component_config({"path": path}, workspace=Workspace(str(kit.folder)))
    except UnsafeComponentError:
        return False
    return True


def allowed(kit: Kit, role: str, org: str, right: str, *, site_org: str, submitter: str = "") -> bool:
    authorizer = FLAuthorizer(site_org, read(kit, "authorization.json"))
    user = Person("somebody", org, role)
    told, _ = authorizer.authorize(AuthzContext(right, user, Person(submitter, org, role)))
    return bool(told)


def test_a_job_may_build_our_three_classes_and_nothing_else(site: Kit) -> None:
    assert not any(buildable(site, path) for path in ALLOWED_CLASSES)
    done(site)
    assert all(buildable(site, path) for path in ALLOWED_CLASSES)
    assert [path for path in DEFAULT_CLASS_ALLOW_LIST if buildable(site, path)] == []
    assert not buildable(site, "consilia.deploy.release_filter.ReleaseFilter")


def test_a_list_of_the_sites_own_keeps_its_entries_and_hears_which_open_another_way_out(site: Kit) -> None:
    own = ["hospital.Own", "nvflare.app_common.filters.exclude_vars.ExcludeVars", "nvflare.app_opt."]
    write(site, "resources.json", {"format_version": 2, "class_allow_list": own, "components": [], "kept": 1})
    notes = done(site)
    assert read(site, "resources.json")["class_allow_list"] == [*own, *ALLOWED_CLASSES]
    assert read(site, "resources.json")["kept"] == 1
    assert buildable(site, "hospital.Own")
    named = [note for note in notes if "class_allow_list" in note]
    assert [own[1] in named[0], own[2] in named[1], len(named)] == [True, True, 2]


def test_a_file_of_the_sites_own_without_a_list_gets_ours_alone(site: Kit) -> None:
    # NVFlare would go on with its default list.
    write(site, "resources.json", {"format_version": 2, "class_list_enforcement_mode": "warn"})
    notes = done(site)
    assert read(site, "resources.json")["class_allow_list"] == list(ALLOWED_CLASSES)
    assert any("class_list_enforcement_mode" in note for note in notes)


@pytest.mark.slow
def test_every_result_filter_that_nvflare_allows_by_default_is_known_as_a_door() -> None:
    filters = []
    for path in DEFAULT_CLASS_ALLOW_LIST:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except ImportError:  # an optional part of NVFlare that is not installed here
            continue
        if isinstance(found, type) and issubclass(found, Filter):
            filters.append(path)
    assert len(filters) >= 4
    assert set(doors(filters)) == set(filters)


@pytest.mark.parametrize(
    ("entry", "path", "expected"),
    [
        ("a.b.C", "a.b.C", True),
        ("a.b", "a.b.C", True),
        ("a.b.", "a.b.C", True),
        ("a.b", "a.bc.D", False),
        ("*", "a.b.C", True),
        ("a.b.C", "a.b.", True),
        ("a.b.C", "a.b.D", False),
        ("a.b.C.d", "a.b.C", False),
    ],
)
def test_entries_are_beginnings_up_to_a_dot(entry: str, path: str, expected: bool) -> None:
    assert covers(entry, path) is expected


def test_log_streaming_is_off(site: Kit) -> None:
    before = json.loads((site.local / "resources.json.default").read_text())
    assert before["allow_log_streaming"] is True
    done(site)
    after = read(site, "resources.json")
    assert after["allow_log_streaming"] is False
    assert {item["id"] for item in before["components"]} - {item["id"] for item in after["components"]} == {
        "site_log_streamer"
    }
    assert after["client"] == before["client"]


def test_the_filter_is_first_in_every_scope_that_a_job_can_name(site: Kit) -> None:
    exclude = {"path": "nvflare.app_common.filters.exclude_vars.ExcludeVars", "args": {"exclude_vars": ["x"]}}
    ours_inward = {"path": "consilia.deploy.release_filter.ReleaseFilter", "direction": "in"}
    scopes = [
        {"name": "public", "properties": {"a": 1}, "task_result_filters": [exclude, ours_inward]},
        {"name": "private", "task_data_filters": [exclude]},
    ]
    write(site, "privacy.json", {"scopes": scopes, "default_scope": "public"})
    done(site)
    manager = create_privacy_manager(Workspace(str(site.folder), site.name), names_only=False)
    kinds = {
        name: [type(item) for item in scope.task_result_filters[FilterKey.OUT]]
        for name, scope in manager.name_to_scopes.items()
    }
    assert kinds == {"public": [ReleaseFilter, ExcludeVars], "private": [ReleaseFilter]}
    assert manager.default_scope.props == {"a": 1}
    assert [type(item) for item in manager.name_to_scopes["private"].task_data_filters[FilterKey.IN]] == [ExcludeVars]


@pytest.mark.parametrize("before", [None, {}, {"scopes": []}])
def test_without_scopes_one_is_made_for_all_jobs(site: Kit, before: Any) -> None:
    if before is not None:
        write(site, "privacy.json", before)
    done(site)
    manager = create_privacy_manager(Workspace(str(site.folder), site.name), names_only=False)
    assert manager.is_policy_defined()
    assert [type(item) for item in manager.get_scope("").task_result_filters[FilterKey.OUT]] == [ReleaseFilter]


RIGHTS = [
    # role, organisation, right, before, after; the site is of hospital_1
    ("project_admin", "consortium", "cat", True, False),
    ("project_admin", "consortium", "sys_info", True, False),
    ("project_admin", "consortium", "byoc", True, False),
    ("project_admin", "consortium", "abort_job", True, True),
    ("project_admin", "consortium", "check_status", True, True),
    ("project_admin", "consortium", "submit_job", True, True),
    ("project_admin", "hospital_1", "grep", True, True),
    ("lead", "consortium", "byoc", True, False),
    ("lead", "hospital_1", "byoc", True, False),
    ("lead", "consortium", "submit_job", True, True),
    ("org_admin", "hospital_1", "tail", True, True),
    ("org_admin", "hospital_1", "restart", True, True),
    ("member", "consortium", "list_jobs", True, True),
]


@pytest.mark.parametrize(("role", "org", "right", "before", "after"), RIGHTS)
def test_nobody_from_outside_reads_files_operates_or_brings_code(
    tmp_path: Path, role: str, org: str, right: str, before: bool, after: bool
) -> None:
    kit = kit_of("hospital-1", tmp_path)
    (kit.local / "authorization.json").write_bytes((kit.local / "authorization.json.default").read_bytes())
    assert allowed(kit, role, org, right, site_org="hospital_1") is before
    done(kit)
    assert allowed(kit, role, org, right, site_org="hospital_1") is after


def test_rights_that_the_site_has_given_by_name_stay_and_are_told(site: Kit) -> None:
    policy = {
        "format_version": "1.0",
        "permissions": {
            "lead": {"byoc": "o:consortium", "cat": ["any", "not n:bob"], "Operate": "all", "view": "any"},
            "project_admin": ["not o:elsewhere"],
        },
    }
    write(site, "authorization.json", policy)
    notes = done(site)
    lead = read(site, "authorization.json")["permissions"]["lead"]
    assert lead == {
        "byoc": "o:consortium",
        "cat": ["o:site", "not n:bob"],
        "Operate": "o:site",
        "view": "any",
        "show_errors": "o:site",
    }
    assert any("'byoc'" in note and "o:consortium" in note for note in notes)
    assert not allowed(site, "project_admin", "consortium", "ls", site_org="hospital_1")
    assert not allowed(site, "project_admin", "elsewhere", "list_jobs", site_org="hospital_1")
    assert allowed(site, "project_admin", "consortium", "list_jobs", site_org="hospital_1")


def test_the_server_keeps_its_jobs_in_its_kit_and_lets_submitters_follow(server: Kit) -> None:
    notes = done(server)
    assert all(buildable(server, path) for path in ALLOWED_CLASSES)
    content = read(server, "resources.json")
    places = {item["id"]: item.get("args", {}) for item in content["components"]}
    assert places["job_manager"]["uri_root"] == str(server.folder / "storage" / "jobs")
    assert places["log_receiver"] == {"dest_dir": str(server.folder / "storage" / "logs")}
    assert content["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] == str(
        server.folder / "storage" / "snapshots"
    )
    assert "allow_log_streaming" not in content
    assert not (server.local / "privacy.json").exists()
    who = {"org": "elsewhere", "right": "app_command", "site_org": "consortium"}
    assert allowed(server, "lead", submitter="somebody", **who)
    assert not allowed(server, "lead", submitter="another", **who)
    assert not allowed(server, "member", submitter="somebody", **who)
    assert not any("class_allow_list" in note for note in notes)


def test_the_servers_own_place_of_jobs_stays(server: Kit) -> None:
    own = json.loads((server.local / "resources.json.default").read_text())
    next(item for item in own["components"] if item["id"] == "job_manager")["args"]["uri_root"] = "/srv/jobs"
    next(item for item in own["components"] if item["id"] == "log_receiver")["args"] = {"dest_dir": "/srv/logs"}
    write(server, "resources.json", own)
    done(server)
    places = {item["id"]: item.get("args", {}) for item in read(server, "resources.json")["components"]}
    assert places["job_manager"]["uri_root"] == "/srv/jobs"
    assert places["log_receiver"]["dest_dir"] == "/srv/logs"
