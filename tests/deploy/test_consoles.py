"""NVFlare's own ways to submit a job: its admin console, and its command ``nvflare job``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from consilia.federation.study import load_study, study_config
from consilia.report.record import load_record
from poc.local import LEAD, LocalFederation
from tests.deploy.support import PATIENCE, Run, export, hashes, in_process, nvflare, own_environment

pytestmark = pytest.mark.deploy


def console(federation: LocalFederation, *commands: str) -> str:
    """What the admin console answers; it asks for the user's name first."""
    done = subprocess.run(
        [str(federation.kit(LEAD) / "startup" / "fl_admin.sh")],
        input="\n".join((LEAD, *commands, "bye", "")),
        env=own_environment(federation),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout


def test_console_and_command_give_the_same_run(three: dict[str, Path], start, tmp_path: Path) -> None:
    sites = dict(list(three.items())[:2])
    config = study_config(load_study("wisconsin"), "fedkper", 0, {}, ["rounds=2"])
    job = export(config, tmp_path / "jobs", "tried")
    federation = start(sites, [job])
    expected = hashes(in_process(config, sites, tmp_path / "inprocess"))

    # The console takes jobs from the kit's transfer folder.
    shutil.copytree(job, federation.kit(LEAD) / "transfer" / "tried")
    submitted = re.search(r"Submitted job: (\S+)", console(federation, "submit_job tried"))
    assert submitted is not None
    run = Run(federation, submitted[1])
    assert hashes(run.record()) == expected
    assert run.wait_end() == "FINISHED:COMPLETED"
    row = next(line for line in console(federation, "list_jobs").splitlines() if submitted[1] in line)
    assert [cell.strip() for cell in row.split("|")][2:4] == ["tried", "FINISHED:COMPLETED"]

    kit = ("--startup-kit", str(federation.kit(LEAD)))
    told = json.loads(nvflare(federation, "--format", "json", "job", "submit", "-j", str(job), *kit))
    job_id = told["data"]["job_id"]
    nvflare(federation, "job", "wait", job_id, "--timeout", str(int(PATIENCE)), *kit)
    nvflare(federation, "job", "download", job_id, "-o", str(tmp_path / "fetched"), *kit)
    fetched = load_record(tmp_path / "fetched" / job_id / "workspace" / "consilia" / "result.json")
    assert hashes(fetched) == expected
