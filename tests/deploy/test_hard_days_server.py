"""Hard days at the server, with real processes: what was in the last full round is never lost, and a clone goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from consilia.core.checkpoint import INDEX
from consilia.core.determinism import state_digest
from consilia.federation.acting import FOLDER
from consilia.federation.coordinator import CHECKPOINT
from consilia.federation.outputs import INJECTED, RESULT
from consilia.federation.study import load_study, study_config
from consilia.flare.session import open_session
from poc.local import LEAD, SERVER
from tests.deploy.support import export, hashes, in_process, kill_participant, resume, submit, until
from tests.federation.clinics import clinics_config, write_clinics

pytestmark = pytest.mark.deploy

SLOWLY = ["rounds=6", "training.local_epochs=40"]
"""Rounds of a second or so: long enough to be hit in the middle."""


def personal_models(sites: dict[str, Path], run_id: str) -> dict[str, str]:
    """SHA-256 of every site's personal models of a run."""
    found = {}
    for name, file in sites.items():
        for path in sorted((file.parent / "state" / "runs" / run_id).glob("personal-[lb]*.safetensors")):
            found[f"{name}/{path.name}"] = state_digest(load_file(path))
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["its job process", "the whole server"])
def test_the_server_is_killed_in_a_round(whole: bool, three, start, tmp_path) -> None:
    config = study_config(load_study("wisconsin"), "fedkper", 0, {}, SLOWLY)
    expected = in_process(config, three, tmp_path / "inprocess")
    unbroken = personal_models(three, config.run_id)
    job = export(config, tmp_path / "jobs", min_clients=3)
    federation = start(three, [job])
    run = submit(federation, job)
    run.wait_for("reply", task="train", version=3)
    if whole:
        kill_participant(federation, SERVER)
        federation.start_one(SERVER)
        federation.wait_for(three)
        # NVFlare goes on calling the job running, although the new server process knows nothing of it.
        assert run.status() == "RUNNING"
    else:
        run.kill(SERVER)
        assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    assert not (run.folder / RESULT).exists()
    # The sites' processes of the broken job live on for a minute. The clone waits for them: both use one folder.
    assert all(run.processes(name) for name in three)
    again = resume(run)
    record = again.record()
    assert hashes(record) == hashes(expected)
    assert not run.folder.exists()
    assert personal_models(three, config.run_id) == unbroken
    first = next(event for event in again.events() if event["event"] == "round")
    assert first["round"] == 4
    # What has come to its end is not gone on with: a clone of it starts anew.
    assert resume(again).wait_for("round")["round"] == 1


def test_the_server_is_killed_while_it_writes_a_checkpoint(three, start, tmp_path) -> None:
    wide = "model.args={in_features: 30, num_classes: 2, hidden: [3000, 3000]}"
    config = study_config(load_study("wisconsin"), "fedavg", 0, {}, ["rounds=4", "training.local_epochs=1", wide])
    expected = in_process(config, three, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=3)
    federation = start(three, [job])
    run = submit(federation, job)
    run.wait_for("round", round=1)
    processes = run.processes(SERVER)
    unfinished = until(
        lambda: next((run.folder / CHECKPOINT).glob(".*.safetensors.*"), None), "a file being written", pause=0.0005
    )
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    # It was hit in the middle: the unfinished file has stayed behind, beside the whole checkpoint of the round before.
    assert unfinished.exists()
    record = resume(run).record()
    assert hashes(record) == hashes(expected)


def test_the_server_is_killed_in_an_injection(start, tmp_path) -> None:
    config = clinics_config(("method.asking.shots=[]", "method.injection.epochs=6"))
    sites = write_clinics(tmp_path / "sites")
    expected = in_process(config, sites, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=len(sites))
    federation = start(sites, [job])
    run = submit(federation, job)
    # In the middle: the first injection has a checkpoint of its own, and no round is complete.
    part = run.folder / FOLDER / "injection" / INDEX
    until(part.is_file, "a checkpoint within the injection", pause=0.002)
    run.kill(SERVER)
    assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    assert part.is_file()
    assert not any(event["event"] == "round" for event in run.events())
    again = resume(run)
    record = again.record()
    assert hashes(record) == hashes(expected)
    for file in ("adapter_model.safetensors", "injected.safetensors"):
        here, there = (folder / INJECTED / file for folder in (again.folder, tmp_path / "inprocess"))
        assert state_digest(load_file(here)) == state_digest(load_file(there))


def test_an_aborted_job_ends_at_once_and_can_be_gone_on_with(three, start, tmp_path) -> None:
    config = study_config(load_study("wisconsin"), "fedprox", 0, {}, SLOWLY)
    expected = in_process(config, three, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=3)
    federation = start(three, [job])
    run = submit(federation, job)
    run.wait_for("round", round=2)
    with open_session(federation.kit(LEAD)) as session:
        session.abort(run.job_id)
    began = time.monotonic()
    assert run.wait_end() == "FINISHED:ABORTED"
    assert time.monotonic() - began < 30
    assert hashes(resume(run).record()) == hashes(expected)
    # Submitted anew, the same job starts anew.
    assert submit(federation, job).wait_for("round")["round"] == 1
