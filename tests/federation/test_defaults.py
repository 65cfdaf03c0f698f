"""The defaults of a run's configuration: another default needs another config_version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consilia.core.errors import ConfigError
from consilia.federation.config import CONFIG_VERSION, RunConfig, run_config
from consilia.methods.registry import BUILT_IN, method_class
from tests.conftest import REPOSITORY
from tests.federation.support import small

SNAPSHOT = REPOSITORY / "tests" / "federation" / "defaults.json"


def defaults() -> dict[str, Any]:
    """Every default, by key; of a method by its name."""
    run = RunConfig.model_construct().model_dump(mode="json", exclude={"method", "model", "label", "config_version"})
    methods = {
        name: method_class(name).Config.model_validate({"method": name}).model_dump(mode="json", exclude={"method"})
        for name in BUILT_IN
    }
    # Tasks are data, with a file of their own.
    methods["fedkim"].pop("task_definitions")
    return {"config_version": CONFIG_VERSION, "run": run, "methods": methods}


def test_an_existing_default_changes_with_the_version_only() -> None:
    """A new key is added to the file; a changed value needs a new CONFIG_VERSION in federation/config.py, too."""
    kept, now = json.loads(SNAPSHOT.read_text()), json.loads(json.dumps(defaults()))
    if kept["config_version"] == now["config_version"]:
        for part in ("run", *(f"methods.{name}" for name in kept["methods"])):
            old, new = (_part(side, part) for side in (kept, now))
            assert {key: new.get(key) for key in old} == old, f"{part}: change CONFIG_VERSION with a default"
    assert kept == now, f"write what defaults() gives to {SNAPSHOT}"


def _part(side: dict[str, Any], path: str) -> dict[str, Any]:
    for key in path.split("."):
        side = side[key]
    return side


def test_a_key_left_at_its_default_changes_no_run() -> None:
    plain = small()
    assert small(robust={"rule": "mean"}, round_timeout=3600, max_update_norm="auto").run_id == plain.run_id
    assert small(round_timeout=60).run_id != plain.run_id
    values = {**plain.to_json(), "config_version": CONFIG_VERSION + 1}
    with pytest.raises(ConfigError, match="install the version of Consilia that wrote this configuration"):
        run_config(values)
