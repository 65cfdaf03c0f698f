"""The server's guard as NVFlare builds it from an installed kit and calls it by its own event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.event import fire_event
from nvflare.private.fed.server.job_cmds import CLONED_META_KEYS

from consilia.deploy.guard import OF_THE_SERVER, SubmissionGuard
from tests.deploy_units.kits import done, kit_of, read

META = {"name": "heart", "resource_spec": {}, "min_clients": 2, "deploy_map": {"app": ["@ALL"]}, "study": "default"}


def blocked(meta: Any, event: str = EventType.SUBMIT_JOB) -> str | None:
    """Why a submission with these meta data is blocked, if it is."""
    context = FLContext()
    context.set_prop(FLContextKey.JOB_META, meta, private=True, sticky=False)
    fire_event(event, [SubmissionGuard()], context)
    reason: str | None = context.get_prop(FLContextKey.JOB_BLOCK_REASON)
    return reason


def test_a_job_as_it_is_exported_passes() -> None:
    assert blocked(META) is None


@pytest.mark.parametrize("key", ["job_id", "cloned_from", "submitter_name", "submitter_org", "submitter_role"])
@pytest.mark.parametrize("value", ["local", ""])
def test_a_key_of_the_servers_own_is_refused_by_its_name(key: str, value: str) -> None:
    assert blocked({**META, key: value}) == f"job refused: meta.json holds ['{key}'], which the server alone sets: " + (
        "take it out"
    )


def test_meta_data_that_cannot_be_read_are_refused() -> None:
    assert blocked(None) == "job refused: its meta data cannot be read"


def test_other_events_are_none_of_its_business() -> None:
    assert blocked({**META, "job_id": "local"}, EventType.START_RUN) is None


def test_no_key_that_a_clone_takes_over_is_the_servers_own() -> None:
    assert not OF_THE_SERVER & CLONED_META_KEYS


def test_it_is_installed_once_beside_nvflares_components_at_the_server(tmp_path: Path) -> None:
    server = kit_of("localhost", tmp_path)
    done(server)
    components = read(server, "resources.json")["components"]
    assert {"job_scheduler", "job_manager"} <= {item["id"] for item in components}
    assert [item["path"] for item in components].count("consilia.deploy.guard.SubmissionGuard") == 1
    before = components
    done(server)
    assert read(server, "resources.json")["components"] == before
