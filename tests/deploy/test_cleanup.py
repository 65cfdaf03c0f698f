"""However a federation on this machine ends, it leaves no process, no port and no file outside its own folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from poc.local import SERVER
from poc.processes import end_all, processes_of
from tests.conftest import REPOSITORY
from tests.deploy.support import export, until
from tests.federation.support import small

pytestmark = pytest.mark.deploy

CHILD = """
import sys, time
from pathlib import Path
from consilia.data.federation import load_federation
from consilia.flare.session import open_session
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


def files_below(*folders: Path) -> set[tuple[str, int]]:
    """Every file below these folders, and when it was changed."""
    found = set()
    for path in (file for folder in folders for file in folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            found.add((str(path), path.stat().st_mtime_ns))
    return found


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


def assert_no_trace(tmp_path: Path, before: set[tuple[str, int]]) -> None:
    folder = tmp_path / "federation"
    until(lambda: not processes_of(folder), "the end of the federation's processes", seconds=30)
    until(lambda: not naming(folder), "the end of everything else that was started", seconds=30)
    project = yaml.safe_load((folder / "project.yml").read_text())
    port = next(item["fed_learn_port"] for item in project["participants"] if item["name"] == SERVER)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    assert files_below(*nvflares_places()) == before
    assert not (tmp_path / "user" / ".nvflare").exists()
    assert not (tmp_path / "temporary" / "nvflare").exists()


def nvflares_places() -> tuple[Path, Path]:
    """Where NVFlare keeps things by default, beside the folder that it is given."""
    return Path(tempfile.gettempdir()) / "nvflare", Path.home() / ".nvflare"


def test_a_federation_ends_with_the_process_that_started_it_even_if_that_is_killed(child, tmp_path) -> None:
    before = files_below(*nvflares_places())
    folder = tmp_path / "federation"
    job = export(small(rounds=2000, min_sites=1), tmp_path / "jobs", min_clients=1)
    process = child("-c", CHILD, str(folder), str(job))
    until(lambda: len(running_job(folder)) >= 2, "the job at server and site")
    process.kill()
    process.wait()
    assert_no_trace(tmp_path, before)


@pytest.mark.parametrize(
    ("number", "job"), [(signal.SIGINT, False), (signal.SIGTERM, True)], ids=["SIGINT-starting", "SIGTERM-with-a-job"]
)
def test_an_interrupted_make_federation_leaves_nothing(number: int, job: bool, child, tmp_path) -> None:
    before = files_below(*nvflares_places())
    folder = tmp_path / "federation"
    process = child("-m", "poc", "--method", "fedavg", "--out", str(folder))
    until(lambda: running_job(folder) if job else processes_of(folder), "the federation's processes")
    process.send_signal(number)
    assert process.wait(60) == 130
    assert_no_trace(tmp_path, before)
