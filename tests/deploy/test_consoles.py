"""NVFlare's own ways to submit a job, its admin console and its command ``nvflare job``; and a submitter who forges."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from consilia.core.errors import ConsiliaError
from consilia.core.files import sha256_of_file
from consilia.record.files import load_record
from consilia.study.study import load_study, study_config
from poc.local import LEAD, LocalFederation
from tests.deploy.support import (
    PATIENCE,
    Run,
    approve_everywhere,
    export,
    hashes,
    in_process,
    nvflare,
    own_environment,
    slow_config,
    submit,
    two_sites,
)

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


def test_console_and_command_give_the_same_run(pair: LocalFederation, tmp_path: Path) -> None:
    federation, config = pair, study_config(load_study("wisconsin"), "fedkper", 20, {}, ["rounds=2"])
    job = export(config, tmp_path / "jobs", "tried")
    approve_everywhere(federation, job)
    expected = hashes(in_process(config, two_sites(tmp_path / "sites"), tmp_path / "inprocess"))

    # The console takes jobs from the kit's transfer folder.
    shutil.copytree(job, federation.kit(LEAD) / "transfer" / "tried")
    submitted = re.search(r"Submitted job: (\S+)", console(federation, "submit_job tried"))
    assert submitted is not None
    run = Run(federation, submitted[1])
    assert hashes(run.record()) == expected
    status = run.wait_end()
    row = next(line for line in console(federation, "list_jobs").splitlines() if submitted[1] in line)
    assert [cell.strip() for cell in row.split("|")][2:4] == ["tried", status]
    told = console(federation, "check_status client")
    assert all(re.search(rf"\| {site} +\|.*\| No Jobs +\|", told) for site in federation.sites), told

    kit = ("--startup-kit", str(federation.kit(LEAD)))
    told = json.loads(nvflare(federation, "--format", "json", "job", "submit", "-j", str(job), *kit))
    job_id = told["data"]["job_id"]
    # Its own exit status is NVFlare's word for the job, which need not be the first job's.
    told = nvflare(federation, "job", "monitor", job_id, "--interval", "1", *kit, status=None)
    status = Run(federation, job_id).status()
    assert status.startswith("FINISHED")
    assert f"status: {status}" in told
    nvflare(federation, "job", "download", job_id, "-o", str(tmp_path / "fetched"), *kit)
    fetched = load_record(tmp_path / "fetched" / job_id / "workspace" / "consilia" / "result.json")
    assert hashes(fetched) == expected
    row = next(line for line in nvflare(federation, "job", "list", *kit).splitlines() if job_id in line)
    assert row.split()[1:3] == ["tried", status]
    # As it should be: sites stream no log.
    logs = "job", "logs", job_id, "--site"
    assert "Job logs are not available for site 'hospital-1'" in nvflare(
        federation, *logs, "hospital-1", *kit, status=1
    )
    assert "is complete: results in" in nvflare(federation, *logs, "server", *kit)


def test_a_site_whose_limits_a_job_exceeds_takes_no_part_and_says_why_at_home(
    pair: LocalFederation, tmp_path: Path
) -> None:
    config = study_config(load_study("wisconsin"), "fedkper", 25, {}, ["rounds=2", "min_sites=1"])
    job = export(config, tmp_path / "jobs", "costly")
    approve_everywhere(pair, job)
    path = pair.kit("hospital-1") / "local" / "site.yaml"
    own = path.read_text()
    path.write_text(own.replace("max_rounds: null", "max_rounds: 1"))
    try:
        record = submit(pair, job).record()
    finally:
        path.write_text(own)
    assert list(record.sites) == ["hospital-2"]
    assert "LimitReached" in record.absent["hospital-1"]
    assert "max_rounds" not in record.absent["hospital-1"]
    log = (pair.kit("hospital-1") / "console.log").read_text(errors="replace")
    assert "limits.max_rounds: the job asks 2, this site allows 1" in log


@pytest.mark.long
def test_a_job_is_aborted_and_cloned_by_nvflare_s_command(pair: LocalFederation, tmp_path: Path) -> None:
    federation, job = pair, export(slow_config(24, "rounds=2000"), tmp_path / "jobs")
    approve_everywhere(federation, job)
    kit = ("--startup-kit", str(federation.kit(LEAD)))
    run = submit(federation, job)
    run.wait_for("round", round=2)
    assert "status: ABORTED" in nvflare(federation, "job", "abort", run.job_id, "--force", *kit)
    told = nvflare(federation, "job", "wait", run.job_id, "--timeout", str(int(PATIENCE)), *kit, status=1)
    assert f"Job {run.job_id} status: ABORTED (FINISHED:ABORTED)" in told
    last = run.last_round()
    told = nvflare(federation, "job", "clone", run.job_id, *kit)
    assert f"source_job_id: {run.job_id}" in told
    cloned = re.search(r"new_job_id: (\S+)", told)
    assert cloned is not None
    again = Run(federation, cloned[1])
    assert again.wait_for("round")["round"] == last + 1
    nvflare(federation, "job", "abort", again.job_id, "--force", *kit)


def locals_of(federation: LocalFederation) -> dict[str, str]:
    """Every file in the sites' ``local/`` and ``startup/``, approvals included, with its SHA-256."""
    folders = [federation.kit(name) / part for name in federation.sites for part in ("local", "startup")]
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): sha256_of_file(path) for path in files}


def test_a_forged_meta_json_is_refused_and_no_sites_local_folder_is_touched(
    pair: LocalFederation, tmp_path: Path
) -> None:
    """What the server alone says of a job, the submitter cannot say."""
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
