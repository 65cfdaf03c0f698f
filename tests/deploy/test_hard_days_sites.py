"""Hard days at the sites, with real processes: the round goes on without the site, and the bytes stay what they are.

What the server made of it is compared with the same run in one plain loop, in which the server hears the same sites in
the same rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from psutil import Process

from consilia.deploy.release_filter import AUDIT
from consilia.federation.outputs import REPORT
from consilia.federation.run_folder import LOCK, RESULT
from consilia.federation.site_errors import FILE as ERRORS
from poc.local import LocalFederation
from tests.deploy.disks import fill
from tests.deploy.support import (
    Run,
    assert_same,
    kill_participant,
    missed,
    paused,
    slow_config,
    state_of,
    takes_part_again,
    three_sites,
    until,
    with_the_same_replies,
)

pytestmark = pytest.mark.deploy

ONE, TWO, THREE = "hospital-1", "hospital-2", "hospital-3"


def train_lines(federation: LocalFederation, site: str, run: Run) -> list[dict]:
    lines = [json.loads(line) for line in (federation.kit(site) / AUDIT).read_text().splitlines() if line]
    return [line for line in lines if line["job"] == run.job_id and line["task"] == "train"]


@pytest.mark.long
def test_a_site_that_raises_is_left_out_and_comes_back(hard_days, begin, tmp_path) -> None:
    config = slow_config(1, "rounds=12")
    state = state_of(hard_days, TWO)
    folder, aside = state / "runs" / config.run_id, state / "aside"
    run = begin(config)
    run.wait_for("round", round=2)
    processes = run.running(TWO)
    # A file where the run's folder should be: nothing can be written any more.
    with between_writes(processes, folder):
        folder.rename(aside)
        folder.write_text("")
    told = run.wait_for("refused", site=TWO)
    with paused(processes):
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
    server = [run.folder / RESULT, run.folder / REPORT, hard_days.server_kit / "log.txt"]
    for place in [*server, *hard_days.kit(TWO).rglob("log*")]:
        if place.is_file():
            assert "File exists" not in place.read_text(), place
    assert all(str(state) not in place.read_text() for place in server)
    assert run.comes_to_its_end()


@contextmanager
def between_writes(processes: Sequence[Process], folder: Path) -> Iterator[None]:
    """Stop processes for a while, at a moment at which none of them has begun a file of the folder."""
    done = False
    while not done:
        with paused(processes):
            if not any(path for path in folder.glob(".*") if path.name != LOCK):
                yield
                done = True


def test_a_late_site_is_missed_and_comes_back_and_one_that_vanishes_is_there_for_the_next_job(
    hard_days, begin, tmp_path
) -> None:
    config = slow_config(2, "rounds=10", "round_timeout=6")
    written = state_of(hard_days, TWO) / "runs" / config.run_id / "personal-round.safetensors"
    run = begin(config)
    run.wait_for("round", round=2)
    late, vanishing = run.running(TWO), run.running(THREE)
    # Stopped after it has trained and before it has sent, so that its result must come too late.
    then = written.stat().st_mtime_ns
    until(lambda: written.stat().st_mtime_ns > then, "the end of a training", pause=0.0005)
    with paused(late):
        before = len(run.events())
        until(lambda: short_rounds(run, before), "a round without the site")
    takes_part_again(run, TWO)
    run.wait_for("reply", request="train", version=8)
    # Looking up who belongs to the participant takes a moment, in which the rounds would go on with it.
    with paused(vanishing):
        kill_participant(hard_days, THREE)
    # NVFlare does not let it into the running job again.
    hard_days.start_one(THREE)
    record = run.record()
    rounds, gone = missed(record, TWO), missed(record, THREE)
    assert rounds
    assert gone
    assert gone == list(range(gone[0], 11))
    assert not set(rounds) & set(gone)
    assert all(record.rounds[number - 1].missing == [TWO] for number in rounds)
    assert all(record.rounds[number - 1].missing == [THREE] for number in gone)
    assert record.rounds[rounds[0] - 1].seconds["sites"] >= 6
    told = [(event["event"], event["site"]) for event in run.events() if event["event"] in ("missing", "back")]
    assert told == [("missing", TWO), ("back", TWO), ("missing", THREE)]
    late_one, gone_one = record.absences
    assert (late_one.site, gone_one.site, gone_one.until) == (TWO, THREE, None)
    assert late_one.until is not None
    assert late_one.since < late_one.until
    assert THREE in record.sites
    assert set(record.final["last"].global_) == {ONE, TWO}
    # The late result left the site, if it had been trained by then, and was not mixed in.
    in_time = 10 - len(rounds)
    assert len(train_lines(hard_days, TWO, run)) in (in_time, in_time + 1)
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))
    assert run.comes_to_its_end()
    record = begin(slow_config(9, "rounds=1")).record()
    assert set(record.rounds[0].contributions) == {ONE, TWO, THREE}


def short_rounds(run: Run, start: int) -> list[dict]:
    told = run.events()[start:]
    return [event for event in told if event["event"] == "round" and event["updates"] < event["participants"]]


@pytest.mark.long
def test_a_full_disk_stops_only_the_site_that_has_it(hard_days, disks, begin, tmp_path) -> None:
    if len(disks) < 2:
        pytest.skip("mounting a tmpfs is not permitted here")
    config = slow_config(3, "rounds=40")
    state, kit = disks
    run = begin(config)
    run.wait_for("round", round=2)
    processes = run.running(THREE)
    reasons = []
    for disk in (state, kit):
        before = len(run.events())
        with between_writes(processes, state / "runs" / config.run_id):
            fill(disk)
        told = until(lambda seen=before: refusals(run, THREE, seen), f"a refusal while {disk} is full")
        (disk / "filler").unlink()
        reasons.append(told[0]["reason"])
        takes_part_again(run, THREE)
    assert reasons == [
        f"the site failed with {kind}; the reason is in that site's own log" for kind in ("OSError", "ReleaseRefused")
    ]
    record = run.record()
    rounds = missed(record, THREE)
    assert len(rounds) >= 2
    assert 40 not in rounds
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "sites"), tmp_path / "loop"))
    # What could not be written down was not sent: a line for every update that the server has got, and no more.
    lines = train_lines(hard_days, THREE, run)
    assert sum("error" not in line for line in lines) == 40 - len(rounds)
    assert {line.get("error") for line in lines} <= {None, "OSError"}
    cannot = f"{AUDIT} cannot be written (No space left on device), and what is not written down is not sent"
    assert all(line["sent"] or cannot in line["reason"] for line in lines)


def refusals(run: Run, site: str, start: int) -> list[dict]:
    return [told for told in run.events()[start:] if told["event"] == "refused" and told["site"] == site]
