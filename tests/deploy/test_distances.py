"""A federation whose participants are far apart: own networks, and slow links that lose packets or are cut."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from consilia.federation.config import RunConfig
from consilia.record.schema import Record
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from poc.local import LEAD, PROJECT, SERVER, SITE_IS_UP, LocalFederation, logged, tool
from poc.processes import processes_of
from tests.deploy.links import QUEUE_SECONDS, Lane, Link, Network, why_not_here
from tests.deploy.support import (
    JOB_ID,
    Run,
    approve_everywhere,
    ask_again_after,
    assert_same,
    export,
    in_process,
    missed,
    own_environment,
    processes_at,
    send,
    slow_config,
    takes_part_again,
    three_sites,
    until,
    with_the_same_replies,
)

pytestmark = pytest.mark.deploy

NAME = "server.consilia.test"
ONE, TWO, THREE = "hospital-1", "hospital-2", "hospital-3"
PATIENCE = 300.0
SILENCE_SECONDS = 30
"""How long a site waits for the server's answer before it asks again; by default it is five minutes."""
LINK = Link(megabits=20, delay_ms=40, loss_percent=0.5)


class DistantFederation(LocalFederation):
    """Every participant, the lead included, in a network of its own."""

    def __init__(self, folder: Path, sites: dict[str, Path], network: Network) -> None:
        project = yaml.safe_load(PROJECT.read_text())
        for item in project["participants"]:
            item["name"] = NAME if item["type"] == "server" else item["name"]
        file = folder.with_suffix(".yml")
        file.write_text(yaml.safe_dump(project, sort_keys=False))
        super().__init__(folder, sites, project=file)
        self.network = network
        self.prefix = {name: network.command(NAME if name == SERVER else name) for name in (SERVER, *sites)}

    def kit(self, name: str) -> Path:
        return super().kit(NAME if name == SERVER else name)

    def install(self, jobs: Sequence[Path] = (), but: Sequence[str] = ()) -> None:
        super().install(jobs, but)
        ask_again_after(self, SILENCE_SECONDS)

    def wait_for(self, sites: Iterable[str]) -> None:
        until(lambda: all(logged(self.kit(name), SITE_IS_UP) for name in sites), "all sites' logins")

    def approved(self, config: RunConfig, folder: Path, name: str = "job") -> Path:
        """A job of a run, exported and approved at every site."""
        job = export(config, folder, name)
        approve_everywhere(self, job)
        return job

    def submit(self, job: Path) -> tuple[Run, subprocess.Popen[str]]:
        """Submit a job from the lead's place, and follow it there."""
        command = [tool("consilia"), "submit", str(job), "--follow", "--kit", str(self.kit(LEAD))]
        following = subprocess.Popen(
            [*self.network.command(LEAD), *command],
            env=own_environment(self, COLUMNS="400"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        folder, before = self.server_kit / "consilia", set((self.server_kit / "consilia").glob(JOB_ID))
        made = until(lambda: set(folder.glob(JOB_ID)) - before, "the run's folder")
        return Run(self, made.pop().name), following


@pytest.fixture
def distant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DistantFederation]:
    """A federation whose sites the test's parameter makes."""
    if reason := why_not_here():
        pytest.skip(reason)
    sites = request.param(tmp_path / "sites")
    links = dict.fromkeys([*sites, LEAD], LINK)
    with Network(f"consilia-{tmp_path.name[-12:]}-{random.randrange(10**6)}", NAME, links, tmp_path) as network:
        federation = DistantFederation(tmp_path / "federation", sites, network)
        try:
            federation.provision()
            federation.install()
            federation.start()
            yield federation
        finally:
            federation.stop()
    assert processes_of(federation.folder) == []


# ---- the links -------------------------------------------------------------------------------------------------------


def test_a_lane_has_a_rate_a_delay_and_a_loss() -> None:
    lane = Lane(Link(megabits=1, delay_ms=40, loss_percent=0), seed=0)
    for _ in range(3):
        lane.put(bytes(1250), now=100.0)
    # Ten milliseconds each on the line, then forty under way.
    assert list(lane.arrived(100.049)) == []
    assert len(list(lane.arrived(100.0501))) == 1
    assert lane.next_arrival() == pytest.approx(100.06)
    assert len(list(lane.arrived(100.0701))) == 2
    # The queue is full; and what is under way when a link is cut never arrives.
    for _ in range(200):
        lane.put(bytes(1250), now=200.0)
    assert len(list(lane.arrived(199.0 + 2.0))) == pytest.approx(QUEUE_SECONDS / 0.01, abs=2)
    lane.put(bytes(1250), now=300.0)
    lane.is_cut = True
    assert list(lane.arrived(400.0)) == []
    lossy = Lane(Link(megabits=1000, delay_ms=0, loss_percent=5), seed=0)
    for _ in range(2000):
        lossy.put(b"", now=1.0)
    assert len(list(lossy.arrived(2.0))) == pytest.approx(1900, abs=40)


RECEIVE = """
import socket, time
with socket.create_server(("0.0.0.0", 9000)) as server:
    print("ready", flush=True)
    caller, _ = server.accept()
    began, received = time.monotonic(), 0
    while part := caller.recv(65536):
        received += len(part)
    print(received, time.monotonic() - began, flush=True)
"""
SEND = f"""
import socket
with socket.create_connection(("{NAME}", 9000), timeout=2) as server:
    server.sendall(bytes(1_000_000))
"""


def test_networks_know_each_other_by_name_and_share_no_more_than_the_link(tmp_path) -> None:
    if reason := why_not_here():
        pytest.skip(reason)
    with Network(f"consilia-{random.randrange(10**6)}", NAME, {ONE: Link(8, 10, 0)}, tmp_path) as network:
        send = [*network.command(ONE), sys.executable, "-c", SEND]
        receiver = subprocess.Popen(
            [*network.command(NAME), sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE, text=True
        )
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        network.cut(ONE)
        assert "TimeoutError" in subprocess.run(send, capture_output=True, text=True).stderr
        network.restore(ONE)
        subprocess.run(send, check=True)
        received, seconds = receiver.communicate(timeout=20)[0].split()
        assert int(received) == 1_000_000
        # A megabyte is eight megabits.
        assert 1.0 <= float(seconds) < 5
        with pytest.raises(socket.gaierror):
            socket.gethostbyname(NAME)
        names = [network.namespace(name) for name in (NAME, ONE)]
        assert all((Path("/run/netns") / name).exists() for name in names)
    assert not any((place / name).exists() for name in names for place in (Path("/run/netns"), Path("/etc/netns")))


# ---- a federation over them ------------------------------------------------------------------------------------------


def over_the_line(record: Record) -> list[tuple[float, float]]:
    """Of every round: seconds until all sites had answered, and those that its bytes need at the link's rate."""
    return [
        (
            item.seconds["sites"],
            max(item.bytes_down[site] + item.bytes_up[site] for site in item.contributions) * 8 / (LINK.megabits * 1e6),
        )
        for item in record.rounds
    ]


def few_breast_scans(folder: Path) -> dict[str, Path]:
    """Two of the embedded study's scanners, with eight training cases each."""
    return dict(list(load_federation(load_study("fedgpl-classification").data, folder, train_cases=8).items())[:2])


@pytest.mark.long
@pytest.mark.parametrize(
    ("distant", "study", "method", "settings"),
    [
        (three_sites, "wisconsin", "fedkper", ["rounds=5"]),
        (few_breast_scans, "fedgpl-classification", "fedgpl", ["rounds=3", "training.local_epochs=1"]),
    ],
    indirect=["distant"],
    ids=["fedkper", "fedgpl"],
)
def test_a_slow_link_that_loses_packets_gives_the_same_bytes(distant, study, method, settings, tmp_path) -> None:
    config = study_config(load_study(study), method, 0, distant.sites, settings)
    expected = in_process(config, distant.sites, tmp_path / "loop")
    run, following = distant.submit(distant.approved(config, tmp_path / "jobs"))
    shown = following.communicate(timeout=PATIENCE)[0]
    assert following.returncode == 0, shown
    record = run.record()
    assert_same(record, expected)
    for took, line in over_the_line(record):
        print(f"{method}: {took:.2f} s a round, of which its bytes need {line:.2f} s on the line")
        assert took > 2 * LINK.delay_ms / 1000 + line


def told(shown: str, name: str, words: str) -> list[str]:
    """What was shown of a site, with some words."""
    return [line for line in shown.splitlines() if line.startswith(f"{name}: {words}")]


@pytest.mark.long
@pytest.mark.parametrize("distant", [three_sites], indirect=True)
def test_a_link_that_is_cut_for_a_minute_and_one_that_is_cut_for_good(distant, tmp_path) -> None:
    limit = 100
    config = slow_config(51, "rounds=10", f"round_timeout={limit}")
    run, following = distant.submit(distant.approved(config, tmp_path / "jobs"))
    run.wait_for("round", round=2)
    distant.network.cut(TWO)
    missing = run.wait_for("missing", site=TWO)
    time.sleep(45)
    distant.network.restore(TWO)
    run.wait_for("back", site=TWO)
    takes_part_again(run, TWO)
    distant.network.cut(THREE)
    shown = following.communicate(timeout=2 * limit + PATIENCE)[0]
    assert following.returncode == 0, shown
    assert told(shown, TWO, "missing: ") == [f"{TWO}: missing: {missing['reason']}"]
    assert told(shown, TWO, "answers again")
    assert len(told(shown, THREE, "missing: ")) == 1
    assert not told(shown, THREE, "answers again")
    record = run.record()
    gone = missed(record, THREE)
    assert gone == list(range(gone[0], 11))
    assert [(item.site, item.until) for item in record.absences if item.until is None] == [(THREE, None)]
    assert set(record.final["last"].global_) == {ONE, TWO}
    # One round_timeout; from then on what the others take, and the grace.
    first, *later = (record.rounds[number - 1].seconds["sites"] for number in gone)
    assert limit <= first < limit + 10
    assert max(later) < limit / 3
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "copies"), tmp_path / "loop"))


@pytest.mark.long
@pytest.mark.parametrize("distant", [three_sites], indirect=True)
def test_a_site_whose_parent_is_restarted_does_not_rejoin_and_the_run_ends_by_itself(distant, tmp_path) -> None:
    config = slow_config(52, "rounds=6", "round_timeout=30")
    run, following = distant.submit(distant.approved(config, tmp_path / "jobs"))
    run.wait_for("round", round=2)
    job = {process.pid for process in run.running(THREE)}
    parents = [process for process in processes_at(distant, THREE) if process.pid not in job]
    send(signal.SIGKILL, parents)
    distant.participants[THREE].wait()
    distant.start_one(THREE)
    shown = following.communicate(timeout=PATIENCE)[0]
    assert following.returncode == 0, shown
    record = run.record()
    gone = missed(record, THREE)
    assert gone == list(range(gone[0], 7))
    assert told(shown, THREE, "missing: ")
    assert_same(record, with_the_same_replies(record, config, three_sites(tmp_path / "copies"), tmp_path / "loop"))
    # It is there for the next job.
    again, following = distant.submit(distant.approved(slow_config(53, "rounds=1"), tmp_path / "jobs", "next"))
    assert set(again.record().rounds[0].contributions) == {ONE, TWO, THREE}
    following.communicate(timeout=PATIENCE)
