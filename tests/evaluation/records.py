"""Whole records from the parts that a test is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilia.record.schema import Record

RUN = {
    "id": "x",
    "name": "x",
    "method": "m",
    "label": "X",
    "task": "classification",
    "engine": "inprocess",
    "seed": 1,
    "status": "finished",
    "rounds_planned": 2,
    "rounds_done": 2,
    "started": "2026-05-04T09:00:00+00:00",
    "seconds": 42.0,
}
SITE = {"train": 1, "validation": 0, "test": 1, "test_only": False, "fingerprint": "f"}
ROUND = {
    "contributions": {},
    "refused": {},
    "missing": [],
    "bytes_down": {},
    "bytes_up": {},
    "seconds": {},
    "sha256": "",
}
EMPTY: dict[str, Any] = {
    "config": {},
    "versions": {},
    "class_names": [],
    "fields": {},
    "rounds": [],
    "evaluations": [],
    "final": {},
    "exchange": None,
    "sections": {},
    "server_fingerprint": None,
    "absent": {},
}


def whole(content: Mapping[str, Any]) -> Record:
    """A valid record: what ``content`` leaves out of the run, its sites and its rounds is filled in."""
    return Record.model_validate(
        {
            **EMPTY,
            **content,
            "run": {**RUN, **content.get("run", {})},
            "sites": {site: {**SITE, **info} for site, info in content["sites"].items()},
            "final": {name: {"variants": {}, **chosen} for name, chosen in content.get("final", {}).items()},
            "rounds": [{**ROUND, **part} for part in content.get("rounds", [])],
        }
    )
