"""However a federation on this machine ends, it leaves no process, no port and no file outside its own folder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from poc.local import SERVER
from poc.processes import end_all, processes_of
from tests.conftest import REPOSITORY, not_torchs
from tests.deploy.support import export, left_elsewhere, until
from tests.federation.support import small

pytestmark = pytest.mark.deploy

"""What a run folder in a kit is called."""

CHILD = """
import sys, time
from pathlib import Path
from consilia.deploy.session import open_session
from consilia.simulation.federation import load_federation
from poc.local import LEAD, LocalFederation

folder, job = Path(sys.argv[1]), Path(sys.argv[2])
sites = dict(list(load_federation("wisconsin", folder.parent / "sites").items())[:1])
with LocalFederation(folder, sites) as federation:
    federation.provision()
    federation.install([job])
    federation.start()
    with open_session(federation.kit(LEAD)) as session:
        session.submit(job)
    time.sleep(600)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command with a home and a temporary folder of its own."""
    started: list[subprocess.Popen[bytes]] = []
    for folder in ("user", "temporary"):
        (tmp_path / folder).mkdir()
    # Where this process runs in the background of a script it ignores Ctrl-C, and its children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*command: str) -> subprocess.Popen[bytes]:
        own = {"HOME": str(tmp_path / "user"), "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
        with (tmp_path / "output.txt").open("wb") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=REPOSITORY,
                    env={**os.environ, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return started[0]

    yield start
    signal.signal(signal.SIGINT, before)
    for process in started:
        process.kill()
        process.wait()
    end_all(tmp_path / "federation")


def running_job(folder: Path) -> list[psutil.Process]:
    """The job processes: NVFlare gives each a session of its own."""
    found = []
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error):
            if any(part.endswith(("worker_process", "runner_process")) for part in process.cmdline()):
                found.append(process)
    return found


def naming(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder, the guard's among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if f"{folder}/" in f"{line}/".replace(" ", "/") and process.pid != os.getpid():
                found.append(line)
    return found


def assert_no_trace(tmp_path: Path, folder: Path) -> None:
    until(lambda: not processes_of(folder), "the end of the federation's processes", seconds=30)
    until(lambda: not naming(folder), "the end of everything else that was started", seconds=30)
    project = yaml.safe_load((folder / "project.yml").read_text())
    port = next(item["fed_learn_port"] for item in project["participants"] if item["name"] == SERVER)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    assert not (tmp_path / "user" / ".nvflare").exists()
    assert not_torchs(tmp_path / "temporary") == []
    assert left_elsewhere(folder) == []


def test_a_federation_ends_with_the_process_that_started_it_even_if_that_is_killed(child, tmp_path) -> None:
    folder = tmp_path / "federation"
    job = export(small(rounds=2000, min_sites=1), tmp_path / "jobs", min_clients=1)
    process = child("-c", CHILD, str(folder), str(job))
    until(lambda: len(running_job(folder)) >= 2, "the job at server and site")
    process.kill()
    process.wait()
    assert_no_trace(tmp_path, folder)


def test_a_federation_that_is_interrupted_while_it_starts_leaves_nothing(child, tmp_path) -> None:
    folder = tmp_path / "federation"
    job = export(small(min_sites=1), tmp_path / "jobs", min_clients=1)
    process = child("-c", CHILD, str(folder), str(job))
    until((folder / "kits" / SERVER / "console.log").is_file, "the server's start")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert_no_trace(tmp_path, folder)


@pytest.mark.parametrize(
    ("number", "job"), [(signal.SIGINT, False), (signal.SIGTERM, True)], ids=["SIGINT-starting", "SIGTERM-with-a-job"]
)
@pytest.mark.long
def test_an_interrupted_make_federation_leaves_nothing(number: int, job: bool, child, tmp_path) -> None:
    folder = tmp_path / "federation"
    process = child("-m", "poc", "--method", "fedavg", "--out", str(folder))
    log = folder / "kits" / SERVER / "console.log"
    until(lambda: running_job(folder) if job else log.is_file(), "the federation's processes")
    process.send_signal(number)
    assert process.wait(60) == 130
    assert_no_trace(tmp_path, folder)


FAILING = """
import pytest
from tests.deploy.support import export, submit, until
from tests.federation.support import small

pytest_plugins = ["tests.deploy.conftest"]


def test_that_fails(three, start, tmp_path):
    job = export(small(rounds=2000, min_sites=1), tmp_path / "jobs", min_clients=1)
    federation = start(dict(list(three.items())[:1]), [job])
    run = submit(federation, job)
    run.wait_for("round")
    print(f"federation: {federation.folder}")
    assert False, "on purpose"
"""


@pytest.mark.long
def test_a_failing_test_leaves_nothing(child, tmp_path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    own = (
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
        "--basetemp",
        str(tmp_path / "pytest"),
        "-p",
        "no:cacheprovider",
    )
    process = child("-m", "pytest", *own, str(tmp_path / "test_failing.py"))
    assert process.wait(180) == 1
    output = (tmp_path / "output.txt").read_text()
    # The test failed where it was to fail, and taking the federation down did not.
    assert "1 failed" in output
    assert "error" not in output.splitlines()[-1]
    assert "on purpose" in output
    told = re.search(r"^federation: (.+)$", output, re.MULTILINE)
    assert told is not None
    assert processes_of(Path(told[1])) == []
    assert_no_trace(tmp_path, Path(told[1]))


def test_only_a_folder_of_its_own_is_made_anew(child, tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "project.yml").write_text("not to be lost")
    assert child("-m", "poc", "--out", str(mine)).wait(60) == 2
    assert "mine exists and was not made by this command" in " ".join((tmp_path / "output.txt").read_text().split())
    assert (mine / "project.yml").read_text() == "not to be lost"
