"""``consilia config``: every key of a run's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from consilia.cli.console import console, print_table
from consilia.federation.config import RunConfig
from consilia.federation.config_keys import config_keys
from consilia.study.study import Study, load_study, method_of, require_method, study_values


def config_command(method: str, study_source: str | None) -> None:
    """Print a row per key; with a study also the values that it gives the method."""
    study = load_study(study_source) if study_source else Study()
    require_method(study, method)
    name, values = method_of(study, method), study_values(study, method) if study_source else {}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("key", no_wrap=True)
    table.add_column("type", overflow="fold", min_width=12, max_width=18)
    table.add_column("default", overflow="fold", max_width=14)
    if values:
        table.add_column("in the study", overflow="fold", max_width=14)
    table.add_column("meaning", min_width=24)
    for key in config_keys(RunConfig, name):
        own = [_shown(_value(values, key.name))] if values else []
        table.add_row(key.name, key.type, key.default or "required", *own, key.meaning)
    print_table(table)
    console.print("Set one with --set KEY=VALUE, or in a study file under run or the method's entry.", highlight=False)


def _value(values: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)
