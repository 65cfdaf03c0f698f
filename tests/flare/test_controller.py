"""What the controller takes from a job's meta.json, which comes from who submitted the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consilia.flare.controller import _cloned_from

NUMBER = "4f9f7f2f-f453-4358-8af1-c11ef5d418e5"


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ({"cloned_from": NUMBER}, NUMBER),
        ({}, None),
        ({"cloned_from": "../startup"}, None),
        ({"cloned_from": "local"}, None),
        ({"cloned_from": f"../{NUMBER}"}, None),
        ({"cloned_from": f"{NUMBER}\n"}, None),
        ({"cloned_from": [NUMBER]}, None),
    ],
)
def test_only_a_jobs_number_is_taken_for_the_job_that_this_one_is_a_clone_of(
    told: dict[str, Any], taken: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(told))
    assert _cloned_from(path) == taken


def test_without_a_meta_file_a_job_is_no_clone(tmp_path: Path) -> None:
    assert _cloned_from(tmp_path / "meta.json") is None
