"""NVFlare's simulator: the same bytes as in-process, stopped and resumed, and with a site that cannot take part."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.core.errors import ConfigError, RunFailed
from consilia.core.events import Absent, Event, Notice, Replied
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import EVENTS, REPORT
from consilia.federation.run_folder import PROGRESS, RESULT
from consilia.federation.server_settings import ServerSettings, own_server
from consilia.flare.recipe import write_allow_list
from consilia.flare.simulator import PORT_TAKEN, SIMULATOR, STARTS, run_simulator, stop_tree
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.simulation.federation import load_federation
from consilia.study.study import load_study, study_config
from tests.conftest import REPOSITORY, not_torchs
from tests.federation.support import MLP, small, without_clocks
from tests.methods.plugins import plugin, with_method
from tests.methods.runs import kept_at, list_network, run_of

pytestmark = pytest.mark.sim


@pytest.fixture(autouse=True)
def _no_process_left(tmp_path: Path) -> Iterator[None]:
    yield
    # Only what this test started: every simulator process names its workspace, which lies in this test's folder.
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    for process in left:
        stop_tree(process.pid)
    assert [" ".join(process.info["cmdline"])[:200] for process in left] == []


def first(count: int, sites: dict[str, Path]) -> dict[str, Path]:
    """The first sites, where more would only cost time."""
    return dict(list(sites.items())[:count])


def simulate(config, sites, folder: Path, **more):
    return run_simulator(config, sites, folder, server=ServerSettings(allow_models=(MLP,)), **more)


TAKEN_ONCE = """
import multiprocessing.connection, os, socket
from pathlib import Path

class Listener(multiprocessing.connection.Listener):
    def __init__(self, address=None, *arguments, **options):
        if isinstance(address, tuple) and not (mark := Path(os.environ["TAKEN_ONCE"])).exists():
            mark.touch()
            self.other = socket.create_server(address)
        super().__init__(address, *arguments, **options)

multiprocessing.connection.Listener = Listener
"""


@dataclass
class Simulated:
    """A run in the simulator, the same in a plain loop, and what was told of the first."""

    folder: Path
    record: Record
    expected: Record
    events: list[Event]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Three sites. At the simulator's first start another program has taken one of its ports."""
    folder, events = tmp_path_factory.mktemp("simulated"), list[Event]()
    config, sites = small(rounds=8), first(3, load_federation("wisconsin", folder / "sites"))
    expected = run_inprocess(config, sites, folder / "inprocess", server=ServerSettings(allow_models=(MLP,)))
    (folder / "first").mkdir()
    (folder / "first" / "sitecustomize.py").write_text(TAKEN_ONCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "first"))
        patch.setenv("TAKEN_ONCE", str(folder / "taken"))
        record = simulate(config, sites, folder / "sim", progress=events.append)
    assert (folder / "taken").exists()
    return Simulated(folder / "sim", record, expected, events)


def test_the_simulator_gives_the_bytes_of_the_loop(simulated: Simulated) -> None:
    folder, record = simulated.folder, simulated.record
    for name in (RESULT, REPORT, PROGRESS, "global-last.safetensors", "global-best.safetensors"):
        assert (folder / name).is_file()
    # The server writes one file while the run goes on; the sites stream nothing.
    assert len(list((folder / EVENTS).iterdir())) == 1
    assert not list((folder / SIMULATOR).rglob("tb_events"))
    assert list((folder / SIMULATOR).rglob("simulate_job/consilia/" + RESULT))
    assert list((folder / SIMULATOR).rglob("app_server/global_model.safetensors"))
    assert not list((folder / SIMULATOR).rglob("*.pt"))
    assert (record.run.engine, simulated.expected.run.engine) == ("sim", "inprocess")
    assert [item.sha256 for item in record.rounds] == [item.sha256 for item in simulated.expected.rounds]
    assert without_clocks(record) == without_clocks(simulated.expected)
    # Sites answered in different orders in these rounds, or the test would show less than it says.
    order = [event.site for event in simulated.events if isinstance(event, Replied) and event.request == "train"]
    assert len(order) == 8 * 3
    assert len({tuple(order[start : start + 3]) for start in range(0, len(order), 3)}) > 1


def test_where_a_port_was_taken_the_simulator_is_started_again(simulated: Simulated) -> None:
    notices = [event.reason for event in simulated.events if isinstance(event, Notice)]
    assert notices == ["a port was taken by another program: starting again"]


# Their messages among real processes, and the same bytes: tests/deploy/test_wire.py.
@pytest.mark.long
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_fedgpl_in_the_simulator_gives_the_bytes_of_the_loop(task: str, phantoms, tmp_path: Path) -> None:
    study = load_study(f"fedgpl-{task}")
    sites = first(2, phantoms(study.data, tmp_path / "sites", train_cases=8))
    config = study_config(study, "fedgpl", 0, sites, ["rounds=2", "training.local_epochs=1"])
    records = [
        run_inprocess(config, sites, tmp_path / "inprocess", server=own_server(config, sites)),
        run_simulator(config, sites, tmp_path / "sim", server=own_server(config, sites)),
    ]
    assert records[0].exchange == records[1].exchange
    assert len({tuple(item.sha256 for item in record.rounds) for record in records}) == 1
    assert len({record.final["last"].sha256 for record in records}) == 1
    assert without_clocks(records[0]) == without_clocks(records[1])


# The way of a plugin file to the simulator's processes is one, and that of a payload; others differ in what travels.
@pytest.mark.parametrize(
    "method",
    ["qfedavg", "scaffold", *(pytest.param(name, marks=pytest.mark.long) for name in ("ditto", "fedbn", "fedyogi"))],
)
def test_what_a_method_sends_and_keeps_gives_the_bytes_of_the_loop(method, wisconsin, tmp_path, monkeypatch) -> None:
    # For the network of these runs.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    sites = first(2, list_network(wisconsin))
    found = []
    with with_method(method):
        config = run_of(method, rounds=3, participation=1.0)
        for engine in (run_inprocess, run_simulator):
            record = engine(config, sites, tmp_path / engine.__name__, server=own_server(config, sites))
            found.append((without_clocks(record), kept_at(sites, config.run_id)))
    assert found[0] == found[1]
    assert len(found[0][1]) >= 2 * 2


def port_taken_from(command: list[str], home: Path) -> bool:
    """Run NVFlare's simulator to its end, or until its log tells that a port that it had chosen was taken."""
    log = home / "nvflare.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "HOME": str(home)})
    end = time.monotonic() + 300
    try:
        while process.poll() is None and PORT_TAKEN not in log.read_text(errors="replace"):
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
    finally:
        stop_tree(process.pid)
        process.wait()
    return PORT_TAKEN in log.read_text(errors="replace")


# In make test the shipped job runs in a provisioned federation, and others in this simulator.
@pytest.mark.long
def test_the_shipped_job_run_by_nvflares_own_command_gives_the_same_bytes(wisconsin, tmp_path) -> None:
    config = study_config(load_study("wisconsin"), "fedkper", 0, {})
    sites = first(2, wisconsin)
    expected = run_inprocess(config, sites, tmp_path / "inprocess", server=ServerSettings(allow_models=(MLP,)))
    local = tmp_path / "workspace" / "local"
    write_allow_list(local)
    (local / "sites").mkdir()
    for name, path in sites.items():
        content = yaml.safe_load(path.read_text())
        (local / "sites" / f"{name}.yaml").write_text(
            yaml.safe_dump({**content, "state_dir": str(path.parent / "state")})
        )
    (local / "server.yaml").write_text(yaml.safe_dump({"state_dir": str(tmp_path / "server"), "engine": "sim"}))
    command = [
        str(Path(sys.executable).with_name("nvflare")),
        "simulator",
        str(REPOSITORY / "jobs" / "fedkper-wisconsin"),
    ]
    command += ["-w", str(tmp_path / "workspace"), "-c", ",".join(sites), "-t", str(len(sites))]
    # NVFlare's own command does not know how to start again where another program has taken its port.
    for _ in range(STARTS):
        if not port_taken_from(command, tmp_path):
            break
    record = load_record(tmp_path / "server" / RESULT)
    assert [item.sha256 for item in record.rounds] == [item.sha256 for item in expected.rounds]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: the simulator's sockets lie in it, and their paths have 107 characters at most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_ctrl_c_leaves_a_resumable_run_and_no_process_or_temporary_file(wisconsin, temporary, tmp_path) -> None:
    for name in ("hospital-3", "hospital-4"):
        shutil.rmtree(wisconsin[name].parent)
    arguments = ["--study", "wisconsin", "--data", str(tmp_path / "sites")]
    arguments += ["--rounds", "12", "--set", "training.local_epochs=2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    here = CliRunner().invoke(app, ["run", "fedkper", *arguments, "--engine", "inprocess", "--out", str(whole)])
    assert here.exit_code == 0, here.output
    command = [sys.executable, "-m", "consilia.cli", "run", "fedkper", *arguments]
    process = subprocess.Popen(
        [*command, "--out", str(broken)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the tests themselves run in the background of a shell, they have inherited that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # type: ignore[arg-type,return-value]
    )
    deadline = time.monotonic() + 120
    while (broken / PROGRESS).exists() is False or '"round": 3,' not in (broken / PROGRESS).read_text():
        assert time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on" in " ".join(text.split())
    assert not_torchs(temporary) == []
    assert not (broken / RESULT).exists()
    assert (broken / "checkpoint" / "checkpoint.json").is_file()
    resumed = subprocess.run([*command, "--out", str(broken)], check=True, capture_output=True, text=True)
    assert "Resuming after round" in resumed.stdout
    one, other = load_record(whole / RESULT), load_record(broken / RESULT)
    assert [item.sha256 for item in one.rounds] == [item.sha256 for item in other.rounds]
    assert one.plain()["evaluations"] == other.plain()["evaluations"]
    assert one.plain()["final"] == other.plain()["final"]


# Without processes in tests/federation; a site that fails among real processes in tests/deploy.
@pytest.mark.long
def test_a_site_without_its_data_is_named_and_the_others_go_on(wisconsin, tmp_path) -> None:
    for path in wisconsin["hospital-2"].parent.glob("*.csv"):
        path.unlink()
    events: list[Event] = []
    record = simulate(small(rounds=2), first(3, wisconsin), tmp_path / "run", progress=events.append)
    assert sorted(record.sites) == ["hospital-1", "hospital-3"]
    absent = [event for event in events if isinstance(event, Absent)]
    assert [(event.site, "DataError" in event.reason) for event in absent] == [("hospital-2", True)]


def test_a_run_that_cannot_start_says_why(wisconsin, tmp_path) -> None:
    for path in wisconsin.values():
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**content, "allow_models": ["consilia.models.cnn.FourLayerCNN"]}))
    with pytest.raises(
        RunFailed,
        match=r"(?s)0 site\(s\) with training data .* min_sites is 2.*failed with ConfigError.*is not listed",
    ):
        simulate(small(rounds=2), first(2, wisconsin), tmp_path / "run")


BROKEN = """
from consilia.methods import Method, Server


class Broken(Server):
    def step(self, previous, mean, number):
        raise ValueError("boom")


class Own(Method):
    name = "own"

    def server(self, context):
        return Broken(self, context)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BROKEN, r"(?s)the run ended with ValueError: boom \(own\.py, line 7\); the traceback is in .*errors\.log"),
        (BROKEN + "\n    def exchanged(self, model):\n        return []\n", "method own exchanges nothing of MLP"),
    ],
)
def test_a_plugins_mistake_is_told_as_in_one_process(wisconsin, tmp_path, text, message) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    with plugin(file), pytest.raises(RunFailed, match=message):
        simulate(small("own", rounds=1), first(2, wisconsin), tmp_path / "run")


def test_a_folder_with_spaces_is_refused_before_anything_starts(wisconsin, tmp_path) -> None:
    with pytest.raises(ConfigError, match="spaces in its path"):
        simulate(small(), wisconsin, tmp_path / "my runs")
