"""A submitter who forges what the server alone says of a job, in a federation of real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from consilia.core.errors import ConsiliaError
from consilia.core.files import sha256_of_file
from consilia.study.study import load_study, study_config
from poc.local import LocalFederation
from tests.deploy.support import approve_everywhere, export, submit

pytestmark = pytest.mark.deploy


def locals_of(federation: LocalFederation) -> dict[str, str]:
    """Every file in the sites' ``local/`` and ``startup/``, approvals included, with its SHA-256."""
    folders = [federation.kit(name) / part for name in federation.sites for part in ("local", "startup")]
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): sha256_of_file(path) for path in files}


def test_a_forged_meta_json_is_refused_and_no_sites_local_folder_is_touched(
    pair: LocalFederation, tmp_path: Path
) -> None:
    job = export(study_config(load_study("wisconsin"), "fedkper", 23, {}, ["rounds=1"]), tmp_path / "jobs")
    approve_everywhere(pair, job)
    before = locals_of(pair)
    assert sum("/local/approved/" in path for path in before) >= 2
    for key, value in (("job_id", "local"), ("cloned_from", "another-job")):
        forged = shutil.copytree(job, tmp_path / key / "job")
        meta = json.loads((job / "meta.json").read_text())
        (forged / "meta.json").write_text(json.dumps({**meta, key: value}))
        with pytest.raises(ConsiliaError, match=rf"meta\.json holds \['{key}'\], which the server alone sets"):
            submit(pair, forged)
    # Nothing of it is kept, and nothing was deployed.
    assert list((pair.server_kit / "storage").rglob("local")) == []
    assert locals_of(pair) == before
