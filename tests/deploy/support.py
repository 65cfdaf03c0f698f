"""Jobs in a federation of real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from consilia.core.checkpoint import CheckpointStore
from consilia.core.determinism import single_threaded
from consilia.core.events import no_progress
from consilia.core.files import sha256_of_file, write_json
from consilia.deploy.following import follow
from consilia.deploy.release_filter import approve
from consilia.deploy.session import open_session
from consilia.federation.checkpoints import CHECKPOINT
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.run_folder import PROGRESS, RESULT
from consilia.federation.server_settings import own_server
from consilia.flare.nvflare_internals import PIECE_TIMEOUT
from consilia.flare.recipe import ConsiliaRecipe
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from poc.local import LEAD, SERVER, LocalFederation, tool
from poc.processes import MARK, processes_of
from tests.federation.support import Federation

PATIENCE = 150.0
SILENCE_SECONDS = 20
"""What sites wait for an answer that does not come, where the server's process is killed."""


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.05) -> Any:
    """Wait until the condition is true, and return what it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(pause)
    raise AssertionError(f"after {seconds} s still not: {what}")


def ask_again_after(federation: LocalFederation, seconds: int) -> None:
    """Let the sites, which are not yet started, wait so long for an answer that does not come.

    By default 300 s would pass wherever the server's process dies just as a site hands in its result, and 120 s where
    it dies as a site receives a large model.
    """
    for site in federation.sites:
        file = federation.kit(site) / "local" / "resources.json"
        content = json.loads(file.read_text())
        content["client"]["communication_timeout"] = seconds
        write_json(file, content)
        federation.environment[site] = {PIECE_TIMEOUT: str(seconds / 2), **federation.environment.get(site, {})}


@contextlib.contextmanager
def running(folder: Path, sites: dict[str, Path]) -> Iterator[LocalFederation]:
    """A federation that is provisioned, installed and started; stopped on leaving, with no process left behind."""
    federation = LocalFederation(folder / "federation", sites)
    with federation:
        federation.provision()
        federation.install()
        ask_again_after(federation, SILENCE_SECONDS)
        federation.start()
        yield federation
    assert processes_of(federation.folder) == []


def export(config: RunConfig, folder: Path, name: str = "job", min_clients: int = 2, **options: Any) -> Path:
    """An exported job folder; ``options`` are the recipe's."""
    ConsiliaRecipe(config, name=name, min_clients=min_clients, **options).export(str(folder))
    return folder / name


def two_sites(folder: Path) -> dict[str, Path]:
    """Two of the embedded hospitals, with folders of their own."""
    return _first_sites(2, folder)


def three_sites(folder: Path) -> dict[str, Path]:
    """The same, with a third."""
    return _first_sites(3, folder)


def _first_sites(count: int, folder: Path) -> dict[str, Path]:
    return dict(list(load_federation("wisconsin", folder).items())[:count])


def slow_config(seed: int, *overrides: str, method: str = "fedkper") -> RunConfig:
    """Rounds of a quarter of a second or more. Every test has a seed, and so a run folder, of its own."""
    slowly = ["rounds=8", "training.local_epochs=15", *overrides]
    return study_config(load_study("wisconsin"), method, seed, {}, slowly)


def in_process(config: RunConfig, sites: dict[str, Path], folder: Path) -> Record:
    """The same run in one plain loop, for comparison."""
    return run_inprocess(config, sites, folder, server=own_server(config, sites))


def hashes(record: Record) -> list[str]:
    """SHA-256 of the global model after every round, and of the last one."""
    return [*(item.sha256 for item in record.rounds), record.final["last"].sha256]


@dataclass
class Run:
    """A job that was submitted."""

    federation: LocalFederation
    job_id: str

    @property
    def folder(self) -> Path:
        """The run's state at the server."""
        return self.federation.server_kit / "consilia" / self.job_id

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / PROGRESS
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, event: str, seconds: float = PATIENCE, **values: Any) -> dict[str, Any]:
        """The first event of this kind with these values."""

        def found() -> dict[str, Any] | None:
            for told in self.events():
                if told["event"] == event and all(told.get(key) == value for key, value in values.items()):
                    return told
            return None

        told: dict[str, Any] = until(found, f"event {event} {values} of job {self.job_id}", seconds)
        return told

    def record(self, seconds: float = PATIENCE) -> Record:
        """The run's record, as soon as it is written."""

        def ended() -> bool:
            failed = [told["reason"] for told in self.events() if told["event"] == "failed"]
            assert not failed, failed
            return (self.folder / RESULT).is_file()

        until(ended, f"{self.folder / RESULT}", seconds)
        return load_record(self.folder / RESULT)

    def status(self) -> str:
        with open_session(self.federation.kit(LEAD)) as session:
            return str(session.meta(self.job_id)["status"])

    def wait_end(self, seconds: float = PATIENCE) -> str:
        """NVFlare's status when the job has ended."""
        with open_session(self.federation.kit(LEAD)) as session:
            return str(
                until(
                    lambda: status if (status := session.meta(self.job_id)["status"]).startswith("FINISHED") else None,
                    f"the end of job {self.job_id}",
                    seconds,
                    pause=0.5,
                )
            )

    def comes_to_its_end(self) -> bool:
        """Whether ``consilia follow`` calls the run complete. NVFlare may not, if a process fails in ending."""
        with open_session(self.federation.kit(LEAD)) as session:
            return follow(session, self.job_id, no_progress).complete

    def processes(self, name: str) -> list[psutil.Process]:
        """This job's processes of a participant."""
        found = []
        for process in processes_at(self.federation, name):
            # It may have ended meanwhile.
            with contextlib.suppress(psutil.Error):
                if self.job_id in process.cmdline():
                    found.append(process)
        return found

    def running(self, name: str) -> list[psutil.Process]:
        """The same, where there must be some: look them up before the moment in which they are to be hit."""
        found = self.processes(name)
        assert found, f"no process of job {self.job_id} at {name}"
        return found

    def last_round(self) -> int:
        """The last full round, after which a clone goes on. Its event may be missing, as it is told after."""
        version: int = CheckpointStore(self.folder / CHECKPOINT).load().state["version"]
        return version


def approve_everywhere(federation: LocalFederation, job: Path) -> None:
    """Approve a job at every site of a running federation."""
    for site in federation.sites:
        approve(federation.kit(site), job)


def submit(federation: LocalFederation, job: Path) -> Run:
    with open_session(federation.kit(LEAD)) as session:
        return Run(federation, session.submit(job))


def clone(run: Run) -> Run:
    """Submit a job once more by NVFlare's own means."""
    with open_session(run.federation.kit(LEAD)) as session:
        return Run(run.federation, session.clone(run.job_id))


def resume(run: Run) -> Run:
    """Go on with a job by ``consilia resume``, as a user does."""
    done = consilia(run.federation, "resume", run.job_id)
    told = re.search(r": goes on as (\S+)", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told is not None, done.stdout
    return Run(run.federation, told[1])


def consilia(federation: LocalFederation, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the lead's, carried out by a process of its own."""
    return subprocess.run(
        [tool("consilia"), command, *arguments, "--kit", str(federation.kit(LEAD))],
        env=own_environment(federation, COLUMNS="400"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def participant_of(federation: LocalFederation, process: psutil.Process) -> str | None:
    """Whose process it is, by the kit that its command line names."""
    parts = {part for word in process.cmdline() for part in word.split("/")}
    return next((name for name in (SERVER, *federation.sites) if name in parts), None)


def processes_at(federation: LocalFederation, name: str) -> list[psutil.Process]:
    """All processes of a participant."""
    found = []
    for process in processes_of(federation.folder):
        # It may have ended meanwhile.
        with contextlib.suppress(psutil.Error):
            if participant_of(federation, process) == name:
                found.append(process)
    return found


def kill_participant(federation: LocalFederation, name: str) -> None:
    """Kill a participant as a power cut does: the parent first, that it starts nothing anew."""
    process = federation.participants[name]
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found += processes_at(federation, name)
    for each in found:
        if each.is_running():
            each.kill()
    process.wait()
    psutil.wait_procs(found, timeout=5)


def end_orphans(run: Run) -> None:
    """End the sites' processes of a job whose server is gone. They would by themselves, in a minute or so."""
    for site in run.federation.sites:
        send(signal.SIGKILL, run.processes(site))


def send(number: int, processes: Sequence[psutil.Process]) -> None:
    """Send a signal to processes; one that has ended needs none."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _stands(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def paused(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes for a while, as a machine that swaps or sleeps does."""
    send(signal.SIGSTOP, processes)
    try:
        until(lambda: all(map(_stands, processes)), "the processes' standstill")
        yield
    finally:
        send(signal.SIGCONT, processes)


def answered(run: Run, name: str) -> int:
    """How many trainings of a site the server has accepted."""
    return sum(
        told["event"] == "reply" and told["request"] == "train" and told["site"] == name for told in run.events()
    )


def takes_part_again(run: Run, name: str) -> None:
    """Wait until the server has accepted one more training of this site."""
    before = answered(run, name)
    until(lambda: answered(run, name) > before, f"an update from {name}")


def with_the_same_replies(record: Record, config: RunConfig, sites: dict[str, Path], folder: Path) -> Record:
    """The same run in one plain loop, in which the server hears a site only where the record says that it did."""

    evaluated = {item.version: item.sites for item in record.evaluations if item.model == "global"}

    class Bent(Federation):
        def bend(self, site: str, task: Broadcast, reply: Reply) -> Reply | None:
            if task.request.kind == "train":
                heard: Iterable[str] = record.rounds[task.request.round].contributions
            elif task.request.final:
                heard = record.final["last" if task.request.keep == "last" else "best"].global_
            elif task.request.kind == "evaluate":
                heard = evaluated[task.request.round]
            else:
                heard = sites
            return reply if site in heard else None

    with single_threaded():
        return Bent(config, sites, folder).run()


def state_of(federation: LocalFederation, site: str) -> Path:
    """Where a site keeps its splits and its personal models."""
    return federation.sites[site].parent / "state"


def missed(record: Record, site: str) -> list[int]:
    """The rounds that a site was asked for and is not in."""
    return [item.round for item in record.rounds if site in item.participants and site not in item.contributions]


def assert_same(record: Record, expected: Record) -> None:
    """The global model is the same after every round, the best one too."""
    assert hashes(record) == hashes(expected)
    assert record.final["best"].sha256 == expected.final["best"].sha256


def personal_models(sites: dict[str, Path], config: RunConfig) -> dict[str, str]:
    """SHA-256 of what each site keeps: its model of the last round, and those it personalised after the rounds."""
    found = {}
    for name, file in sites.items():
        kept = {path.name: path for path in (file.parent / "state" / "runs" / config.run_id).glob("personal-*")}
        assert {"personal-round.safetensors", "personal-last.safetensors"} <= kept.keys()
        found |= {f"{name}/{kind}": sha256_of_file(path) for kind, path in kept.items()}
    return found


def own_environment(federation: LocalFederation, **more: str) -> dict[str, str]:
    """Environment of a command that belongs to the federation: a home of its own, and found when it is stopped."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, MARK: str(federation.folder), "HOME": str(federation.folder / "home"), "PATH": beside, **more}


def nvflare(federation: LocalFederation, *arguments: str, status: int | None = 0, **environment: str) -> str:
    """What NVFlare's own command prints; it must end with this status, or None for any."""
    done = subprocess.run(
        [tool("nvflare"), *arguments],
        env=own_environment(federation, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert status in (done.returncode, None), f"{arguments}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout if status == 0 else done.stdout + done.stderr


NVFLARES_PLACE = Path("/tmp/nvflare")
JOB_ID = "*-*-*-*-*"


def left_elsewhere(folder: Path) -> list[Path]:
    """What a federation's jobs have left where NVFlare's server keeps jobs by default, which any other may use too."""
    jobs = {path.name for path in (folder / "kits").glob(f"*/{JOB_ID}")}
    return [path for path in NVFLARES_PLACE.rglob("*") if path.name in jobs]
