"""Hard days at the sites, with real processes: the round goes on without the site, and the bytes stay what they are.

What the server made of it is compared with the same run in one plain loop, in which the server hears the same sites in
the same rounds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consilia.core.determinism import single_threaded
from consilia.data.federation import load_federation
from consilia.evaluation.forgetting import flips
from consilia.federation.config import RunConfig
from consilia.federation.outputs import REPORT, RESULT
from consilia.federation.run_folder import LOCK
from consilia.federation.site import HISTORY, Site
from consilia.federation.site_errors import FILE as ERRORS
from consilia.federation.study import load_study, study_config
from consilia.flare.outgoing import AUDIT, approve
from poc.local import SERVER, LocalFederation
from poc.processes import processes_of
from tests.deploy.support import (
    Run,
    assert_same,
    export,
    fill,
    in_process,
    kill_participant,
    missed,
    paused,
    personal_models,
    resume,
    small_disk,
    state_of,
    submit,
    takes_part_again,
    until,
    waits_at,
    with_the_same_replies,
)
from tests.federation.support import Federation

pytestmark = pytest.mark.deploy

ONE, TWO, THREE = "hospital-1", "hospital-2", "hospital-3"
STATE_DISK, KIT_DISK = "4m", "8m"


def config_of(seed: int, *overrides: str, method: str = "fedkper") -> RunConfig:
    """Rounds of a quarter of a second or more. Every test has a seed, and so a run folder, of its own."""
    slowly = ["rounds=8", "training.local_epochs=15", *overrides]
    return study_config(load_study("wisconsin"), method, seed, {}, slowly)


def three_sites(folder: Path) -> dict[str, Path]:
    return dict(list(load_federation("wisconsin", folder).items())[:3])


@pytest.fixture(scope="module")
def disks() -> list[Path]:
    """The small disks that could be mounted."""
    return []


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, disks: list[Path]) -> Iterator[LocalFederation]:
    """Three sites; the kit and the state folder of the third are on small disks of their own, if that is permitted."""
    folder = tmp_path_factory.mktemp("hard-days")
    sites = three_sites(folder / "sites")
    federation = LocalFederation(folder / "federation", sites)
    federation.environment[SERVER] = {"NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": "15"}
    try:
        federation.provision()
        federation.install()
        kit = federation.kit(THREE).resolve()
        sizes = {state_of(federation, THREE): STATE_DISK, kit: KIT_DISK}
        disks += [disk for disk, size in sizes.items() if small_disk(disk, size)]
        federation.start()
        yield federation
    finally:
        federation.stop()
        for disk in disks:
            subprocess.run(["umount", str(disk)], check=True)
    assert processes_of(federation.folder) == []


@pytest.fixture
def begin(federation: LocalFederation, tmp_path: Path) -> Callable[..., Run]:
    """Export, approve and submit a job."""

    def submitted(config: RunConfig, name: str = "job") -> Run:
        job = export(config, tmp_path / "jobs", name, min_clients=2)
        for site in federation.sites:
            approve(federation.kit(site), job)
        return submit(federation, job)

    return submitted


def train_lines(federation: LocalFederation, site: str, run: Run) -> list[dict]:
    lines = [json.loads(line) for line in (federation.kit(site) / AUDIT).read_text().splitlines() if line]
    return [line for line in lines if line["job"] == run.job_id and line["task"] == "train"]


def gone(run: Run) -> None:
    until(lambda: not any(run.processes(site) for site in run.federation.sites), "the end of the sites' processes")


def broken_by_a_kill(run: Run, site: str, version: int) -> int:
    """Kill a site's job process in a round, and wait until NVFlare has ended the job; its last full round."""
    run.wait_for("reply", task="train", version=version)
    run.kill(site)
    assert run.wait_end() == "FINISHED:EXECUTION_EXCEPTION"
    assert not (run.folder / RESULT).exists()
    gone(run)
    return max(event["round"] for event in run.events() if event["event"] == "round")


def test_a_site_that_raises_is_left_out_and_comes_back(federation, begin, tmp_path) -> None:
    config = config_of(1, "rounds=12")
    state = state_of(federation, TWO)
    folder, aside = state / "runs" / config.run_id, state / "aside"
    run = begin(config)
    run.wait_for("round", round=2)
    # A file where the run's folder should be: nothing can be written any more.
    folder.rename(aside)
    folder.write_text("")
    told = run.wait_for("refused", site=TWO)
    folder.unlink()
    aside.rename(folder)
    takes_part_again(run, TWO)
    record = run.record()
    rounds = missed(record, TWO)
    assert rounds
    assert 12 not in rounds
    assert missed(record, ONE) == missed(record, THREE) == []
    kind = f"the site failed with {FileExistsError.__name__}; the reason is in that site's own log"
    assert told["reason"] == kind
    assert all(record.rounds[number - 1].refused == {TWO: kind} for number in rounds)
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))
    # What went wrong in full: in the site's own errors.log alone, not in its NVFlare logs nor at the server.
    assert f"[Errno 17] File exists: '{folder}'" in (state / ERRORS).read_text()
    server = [run.folder / RESULT, run.folder / REPORT, federation.server_kit / "log.txt"]
    for place in [*server, *federation.kit(TWO).rglob("log*")]:
        if place.is_file():
            assert "File exists" not in place.read_text(), place
    assert all(str(state) not in place.read_text() for place in server)


def test_a_site_slower_than_the_deadline_is_missed_and_comes_back(federation, begin, tmp_path) -> None:
    config = config_of(2, "rounds=10", "round_timeout=6")
    written = state_of(federation, TWO) / "runs" / config.run_id / "personal-round.safetensors"
    run = begin(config)
    run.wait_for("round", round=2)
    # Stopped after it has trained and before it has sent, so that its result must come too late.
    then = written.stat().st_mtime_ns
    until(lambda: written.stat().st_mtime_ns > then, "the end of a training", pause=0.0005)
    with paused(run, TWO):
        before = sum(event["event"] == "round" for event in run.events())
        until(lambda: sum(event["event"] == "round" for event in run.events()) > before, "a round without the site")
    takes_part_again(run, TWO)
    record = run.record()
    rounds = missed(record, TWO)
    assert rounds
    assert 10 not in rounds
    assert all(record.rounds[number - 1].missing == [TWO] for number in rounds)
    assert 6 <= record.rounds[rounds[0] - 1].seconds["sites"] < 12
    # The late result left the site, and was not mixed in.
    assert len(train_lines(federation, TWO, run)) == 10 - len(rounds) + 1
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))


def test_a_full_disk_stops_only_the_site_that_has_it(federation, disks, begin, tmp_path) -> None:
    if len(disks) < 2:
        pytest.skip("mounting a tmpfs is not permitted here")
    config = config_of(3, "rounds=16")
    state, kit = disks
    run = begin(config)
    run.wait_for("round", round=2)
    reasons = []
    for disk in (state, kit):
        before = len(run.events())
        fill(disk)
        told = until(lambda seen=before: refusals(run, THREE, seen), f"a refusal while {disk} is full")
        (disk / "filler").unlink()
        reasons.append(told[0]["reason"])
        takes_part_again(run, THREE)
    assert reasons == [
        f"the site failed with {kind}; the reason is in that site's own log" for kind in ("OSError", "OutgoingRefused")
    ]
    record = run.record()
    rounds = missed(record, THREE)
    assert len(rounds) >= 2
    assert 16 not in rounds
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))
    # What could not be written down was not sent: a line for every update that the server has got, and no more.
    lines = train_lines(federation, THREE, run)
    assert sum("error" not in line for line in lines) == 16 - len(rounds)
    assert {line.get("error") for line in lines} <= {None, "OSError"}
    cannot = f"{AUDIT} cannot be written (No space left on device), and what is not written down is not sent"
    assert all(line["sent"] or cannot in line["reason"] for line in lines)


def refusals(run: Run, site: str, start: int) -> list[dict]:
    return [told for told in run.events()[start:] if told["event"] == "refused" and told["site"] == site]


def test_a_killed_job_process_ends_the_job_and_a_clone_goes_on(federation, begin, tmp_path) -> None:
    config = config_of(4)
    copies = three_sites(tmp_path / "sites")
    expected = in_process(config, copies, tmp_path / "loop")
    run = begin(config)
    last = broken_by_a_kill(run, TWO, version=3)
    # The site's parent lives on, and needs no restart.
    assert federation.participants[TWO].poll() is None
    again = resume(run)
    record = again.record()
    assert next(event["round"] for event in again.events() if event["event"] == "round") == last + 1 >= 4
    assert_same(record, expected)
    assert personal_models(federation.sites, config) == personal_models(copies, config)


def test_a_site_with_stale_personal_state_counts_its_flips_from_what_it_remembers(federation, begin, tmp_path) -> None:
    config = config_of(5)
    copies = three_sites(tmp_path / "sites")
    remembered = {}

    class Noting(Site):
        """Notes which test cases every version had right; the history itself keeps the last three."""

        def _flips(self, kind, version, correct):
            remembered[self.name, kind, version] = correct
            return super()._flips(kind, version, correct)

    loop = Federation(config, copies, tmp_path / "loop")
    loop.sites = {name: Noting(config, file) for name, file in copies.items()}
    with single_threaded():
        expected = loop.run()
    run = begin(config)
    own = state_of(federation, TWO) / "runs" / config.run_id
    until((own / "personal-round.safetensors").is_file, "the first training", pause=0.0005)
    with paused(run, TWO):
        shutil.copytree(own, tmp_path / "old", ignore=shutil.ignore_patterns(LOCK, ".*"))
    kept = load_file(tmp_path / "old" / HISTORY)
    assert set(kept) <= {"global/0", "personal/1", "global/1"}
    last = broken_by_a_kill(run, ONE, version=3)
    shutil.rmtree(own)
    shutil.copytree(tmp_path / "old", own)
    record = resume(run).record()
    assert_same(record, expected)
    assert personal_models(federation.sites, config) == personal_models(copies, config)
    # All figures are those of the unbroken run but the flips of its first evaluations after the gap.
    unlike = {}
    for here, there in zip(record.evaluations, expected.evaluations, strict=True):
        assert (here.version, here.model) == (there.version, there.model)
        for site, figures in here.sites.items():
            if figures != there.sites[site]:
                unlike[site, here.model, here.version] = figures.test
    assert set(unlike) == {(TWO, "global", last), (TWO, "personal", last + 1)}
    for (site, model, version), test in unlike.items():
        now = remembered[site, model, version]
        then = [int(key.partition("/")[2]) for key in kept if key.startswith(f"{model}/")]
        before = remembered[site, model, max(then)] if then else torch.zeros_like(now)
        assert (test.negative_flips, test.positive_flips) == flips(before, now)


def test_a_site_with_other_splits_cannot_go_on_with_a_run(federation, begin, tmp_path) -> None:
    config = config_of(6)
    run = begin(config)
    broken_by_a_kill(run, ONE, version=3)
    splits = state_of(federation, TWO) / "diagnosis" / "splits.csv"
    kept = splits.read_text()
    first = next(line for line in kept.splitlines() if line.endswith(",test"))
    splits.write_text(kept.replace(first, first.removesuffix("test") + "train"))
    try:
        again = resume(run)
        record = again.record()
    finally:
        splits.write_text(kept)
    assert record.absent == {TWO: "it has other data than when the run began"}
    assert TWO in record.rounds[2].contributions
    assert TWO not in record.rounds[-1].participants
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))


def test_two_jobs_at_once_and_the_same_job_twice(federation, begin, tmp_path) -> None:
    configs = config_of(7), config_of(7, method="fedavg")
    first, other = begin(configs[0], "first"), begin(configs[1], "other")
    first.wait_for("prepared")
    # The first is held up until the second stands before the folders that the first has locked.
    with paused(first, ONE):
        second = begin(configs[0], "second")
        until(lambda: all(waits_at(second, site, configs[0]) for site in federation.sites), "the second job's sites")
        assert not second.events()
        assert not (first.folder / RESULT).exists()
    expected = {}
    for config in configs:
        copies = three_sites(tmp_path / f"sites-{config.label}")
        expected[config.label] = in_process(config, copies, tmp_path / config.label), personal_models(copies, config)
    assert_same(other.record(), expected["fedavg"][0])
    assert personal_models(federation.sites, configs[1]) == expected["fedavg"][1]
    assert_same(first.record(), expected["fedkper"][0])
    # The second has had its turn when the first was over: the same run anew, all the way.
    record = second.record()
    assert_same(record, expected["fedkper"][0])
    assert record.evaluations == expected["fedkper"][0].evaluations
    assert personal_models(federation.sites, configs[0]) == expected["fedkper"][1]


def test_a_site_that_vanishes_is_missing_and_is_there_for_the_next_job(federation, begin, tmp_path) -> None:
    config = config_of(8, "rounds=5", "round_timeout=6")
    run = begin(config)
    run.wait_for("reply", task="train", version=2)
    kill_participant(federation, TWO)
    record = run.record()
    rounds = missed(record, TWO)
    assert rounds
    assert rounds == list(range(rounds[0], 6))
    assert all(record.rounds[number - 1].missing == [TWO] for number in rounds)
    assert TWO in record.sites
    assert set(record.final["last"].global_) == {ONE, THREE}
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))
    assert run.wait_end() == "FINISHED:COMPLETED"
    federation.start_one(TWO)
    federation.wait_for(federation.sites)
    record = begin(config_of(9, "rounds=1")).record()
    assert set(record.rounds[0].contributions) == {ONE, TWO, THREE}
