"""Hard days at the server, with real processes: what was in the last full round is never lost, and the run goes on."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from psutil import Process
from safetensors.torch import load_file

from consilia.core.checkpoint import INDEX
from consilia.core.determinism import state_digest
from consilia.data.allowed import FoundationFolder
from consilia.federation.checkpoints import CHECKPOINT
from consilia.federation.config import run_config
from consilia.federation.outputs import SAVED
from consilia.federation.server_work import FOLDER
from consilia.models.foundation import EMBEDDED_FOLDER, foundation_digest
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from poc.local import SERVER
from tests.deploy.disks import fill, small_disk
from tests.deploy.support import (
    assert_same,
    consilia,
    export,
    hashes,
    in_process,
    paused,
    personal_models,
    resume,
    send,
    slow_config,
    submit,
    two_sites,
    until,
)
from tests.federation.clinics import clinics_config, write_clinics

pytestmark = pytest.mark.deploy

UNFINISHED = ".*.safetensors.*"
BACKBONE = "shared-vit"


@pytest.mark.long
def test_the_server_is_killed_while_it_writes_a_checkpoint(two, start, tmp_path) -> None:
    wide = "model.args={in_features: 30, num_classes: 2, hidden: [3000, 3000]}"
    config = study_config(load_study("wisconsin"), "fedavg", 0, {}, ["rounds=4", "training.local_epochs=1", wide])
    expected = in_process(config, two, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=2)
    federation = start(two, [job])
    run = submit(federation, job)
    run.wait_for("round", round=1)
    processes = run.running(SERVER)
    unfinished = until(lambda: killed_at(processes, run.folder / CHECKPOINT), "a file being written", pause=0.0005)
    # It was hit in the middle, beside the whole checkpoint of the round before.
    assert unfinished.exists()
    assert hashes(run.record()) == hashes(expected)


def killed_at(processes: Sequence[Process], folder: Path) -> Path | None:
    """Kill processes if they are just writing a model in a folder: the unfinished file."""
    if not any(folder.glob(UNFINISHED)):
        return None
    with paused(processes):
        # Finished, perhaps, before they stood still.
        unfinished = next(folder.glob(UNFINISHED), None)
        if unfinished is not None:
            send(signal.SIGKILL, processes)
        return unfinished


@pytest.mark.long
def test_the_server_is_killed_in_an_injection(start, tmp_path) -> None:
    config = clinics_config(("method.evaluation.few_shot=[]", "method.injection.epochs=6"))
    sites = write_clinics(tmp_path / "sites")
    expected = in_process(config, sites, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=len(sites))
    federation = start(sites, [job])
    run = submit(federation, job)
    run.wait_for("prepared")
    processes = run.running(SERVER)
    # In the middle: the first injection has a checkpoint of its own, and no round is complete.
    part = run.folder / FOLDER / "injection" / INDEX
    until(part.is_file, "a checkpoint within the injection", pause=0.002)
    send(signal.SIGKILL, processes)
    assert part.is_file()
    assert not any(event["event"] == "round" for event in run.events())
    assert hashes(run.record()) == hashes(expected)
    for file in ("adapter_model.safetensors", "injected.safetensors"):
        here, there = (folder / SAVED / file for folder in (run.folder, tmp_path / "inprocess"))
        assert state_digest(load_file(here)) == state_digest(load_file(there))


def with_own_backbone(sites: dict[str, Path], place: Path) -> dict[str, FoundationFolder]:
    """Give every site, and the server, a copy of the embedded image model under a name of the federation's own."""
    copies = {}
    for name in (*sites, SERVER):
        folder = place / name
        shutil.copytree(EMBEDDED_FOLDER / "consilia-vit", folder)
        copies[name] = FoundationFolder(folder=folder, digest=foundation_digest(folder))
        if name in sites:
            content = yaml.safe_load(sites[name].read_text())
            content["foundation_models"] = {BACKBONE: copies[name].model_dump(mode="json")}
            sites[name].write_text(yaml.safe_dump(content))
    return copies


@pytest.mark.long
def test_fedgpl_goes_on_when_the_server_s_process_is_killed_and_its_backbone_stays_the_same(start, tmp_path) -> None:
    study = load_study("fedgpl-classification")
    folders = {kind: tmp_path / kind for kind in ("sites", "copies")}
    sites, copies = (
        dict(list(load_federation(study.data, folder, train_cases=8).items())[:2]) for folder in folders.values()
    )
    backbones = with_own_backbone(sites, tmp_path / "backbones")
    with_own_backbone(copies, tmp_path / "backbone-copies")
    digest = foundation_digest(EMBEDDED_FOLDER / "consilia-vit")
    content = study_config(study, "fedgpl", 0, sites, ["rounds=4", "training.local_epochs=1"]).to_json()
    content["model"]["foundation"] = {"model": BACKBONE, "digest": digest}
    config = run_config(content)
    expected = in_process(config, copies, tmp_path / "inprocess")
    here = {BACKBONE: backbones[SERVER]}
    job = export(config, tmp_path / "jobs", min_clients=len(sites), foundation_models=here)
    listed = {name: folder.model_dump(mode="json") for name, folder in here.items()}
    federation = start(sites, [job], server={"foundation_models": listed})
    run = submit(federation, job)
    run.wait_for("round", round=1)
    processes = run.running(SERVER)
    run.wait_for("reply", request="train", version=2)
    send(signal.SIGKILL, processes)
    # A site that was just handing in its update waits 300 s for the answer of the process that is gone.
    assert_same(run.record(450), expected)
    assert {name: foundation_digest(copy.folder) for name, copy in backbones.items()} == dict.fromkeys(
        backbones, digest
    )


@pytest.mark.long
def test_a_full_disk_at_the_server_fails_the_run_and_it_goes_on_when_there_is_room(
    mounted, two, start, tmp_path
) -> None:
    config = slow_config(0, "rounds=20")
    copies = two_sites(tmp_path / "copies")
    expected = in_process(config, copies, tmp_path / "inprocess")
    job = export(config, tmp_path / "jobs", min_clients=2)
    federation = start(two, [job], run=False)
    disk = federation.server_kit.resolve() / "consilia"
    if not small_disk(disk, "8m"):
        pytest.skip("mounting a tmpfs is not permitted here")
    mounted.append(disk)
    federation.start()
    run = submit(federation, job)
    run.wait_for("round", round=2)
    fill(disk)
    assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    followed = consilia(federation, "follow", run.job_id)
    assert followed.returncode == 1
    told = followed.stdout + followed.stderr
    assert re.search(r"the server cannot (keep an update|go on): .*No space left on device", told), told
    # Not put down to a site that happened to send something just then.
    assert not any(event["event"] == "refused" for event in run.events())
    # Reading the checkpoint compares its files with their SHA-256.
    last = run.last_round()
    assert last >= 2
    (disk / "filler").unlink()
    again = resume(run)
    record = again.record()
    assert next(event["round"] for event in again.events() if event["event"] == "round") == last + 1
    assert_same(record, expected)
    assert personal_models(two, config) == personal_models(copies, config)
