"""A whole vision transformer to and fro: Consilia and NVFlare's FedAvg in the simulator, and the site's gate.

    python -m benchmarks.exchange --out exchange.json [--parameters 86_000_000] [--rounds 3] [--repeats 2]

Both run the same model and the same local step (one, on four cases) at every site and differ in what carries them. They
alternate. Seconds per round are those from the end of the first round on. Memory is the largest resident size that a
process ever had (VmHWM), from its start to its end. The gate is the filter that a hospital sets on what leaves it, with
the line in its audit file on the disk; it is timed on a whole update and put beside a round of the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from benchmarks.common import Measurement, machine, memory, report
from benchmarks.stock import CLOCKS, stock_recipe
from benchmarks.workload import LargeWorkload, per_round, width_of, write_sites
from consilia.core.events import Event, RoundDone
from consilia.deploy.release_filter import AUDIT, ReleaseFilter, approve
from consilia.federation.messages import TrainReply, as_reply
from consilia.federation.release_manifest import CLIENT_CONFIG
from consilia.federation.server_settings import ServerSettings
from consilia.flare.messages import reply_to_dxo
from consilia.flare.recipe import ConsiliaRecipe
from consilia.flare.simulator import run_simulator
from consilia.models.exchange import exchanged_state

NOT_WORSE, BOUND = 1.0, ("seconds", "server")
GATE_BOUND = 2.0
"""Percent of a round that the gate may take."""

LOOK_SECONDS = 0.1
SITE_PROCESS = "simulator_worker"
"""In the command line of the simulator's site processes; the server is the process that started them."""


class Watch:
    """Watches every process that this one starts: peak memory of a server and of a site, and processor time by and by.

    Attributes:
        peaks: bytes; the largest resident size that any ``server`` or ``site`` process ever had.
    """

    def __init__(self) -> None:
        self.peaks = {"server": 0, "site": 0}
        self._processor: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def processor_seconds(self, start: float, stop: float) -> float:
        """Processor time of all processes between two times of :func:`time.time`."""
        at, total = zip(*self._processor, strict=True)
        first, last = np.interp([start, stop], at, total)
        return float(last - first)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        total = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                kind = "site" if any(SITE_PROCESS in part for part in process.cmdline()) else "server"
                self.peaks[kind] = max(self.peaks[kind], memory(peak=True, process=process.pid))
                used = process.cpu_times()
                total += used.user + used.system
            except (psutil.Error, OSError, KeyError):
                continue  # It has ended meanwhile.
        self._processor.append((time.time(), total))


def run_consilia(work: LargeWorkload, folder: Path) -> dict[str, Any]:
    """One run in the simulator: checks, spool, aggregation, record and durable checkpoint of every round included."""
    ends: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, RoundDone):
            ends.append(time.time())

    sites, server = write_sites(work, folder / "sites"), ServerSettings(allow_models=(work.model_class,))
    with Watch() as watch:
        record = run_simulator(work.config(), sites, folder / "run", server=server, progress=note)
    phases = {name: median(item.seconds[name] for item in record.rounds[1:]) for name in record.rounds[0].seconds}
    return {**_told(watch, ends), "phases": phases}


def run_stock(work: LargeWorkload, folder: Path) -> dict[str, Any]:
    """NVFlare's FedAvgRecipe as it comes, with a Client API script."""
    sites = write_sites(work, folder / "sites")
    with Watch() as watch:
        stock_recipe(work, sites, folder)
    # A round ends when the next one's model arrives.
    arrivals = [[float(line) for line in path.read_text().split()][1:] for path in (folder / CLOCKS).iterdir()]
    return _told(watch, [median(times) for times in zip(*arrivals, strict=True)])


def _told(watch: Watch, ends: list[float]) -> dict[str, Any]:
    processor = watch.processor_seconds(ends[0], ends[-1]) / (len(ends) - 1)
    return {"seconds": per_round(ends), "processor": processor, **watch.peaks}


def time_gate(work: LargeWorkload, folder: Path, messages: int) -> list[float]:
    """Seconds that the filter takes for each of so many updates: manifest approved, audit line on the disk."""
    kit, job = folder / "kit", folder / "kit" / "job"
    for part in ("startup", "local"):
        (kit / part).mkdir(parents=True)
    kit_file = {"servers": [{"service": {"target": "localhost:8002"}}], "client": {"fqsn": "site-1"}}
    for name in ("fed_server.json", "fed_client.json"):
        (kit / "startup" / name).write_text(json.dumps(kit_file))
    workspace = Workspace(root_dir=str(kit), site_name="site-1")
    (kit / "startup" / "fed_server.json").unlink()
    ConsiliaRecipe(work.config()).export(str(folder / "jobs"))
    (exported,) = (folder / "jobs").glob("*/app*/config")
    shutil.copytree(exported, workspace.get_app_config_dir("job"))
    approve(kit, job)
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, SimpleNamespace(get_workspace=lambda: workspace), private=True, sticky=True)
    context.set_prop(ReservedKey.RUN_NUM, "job", private=False, sticky=True)
    context.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
    content = TrainReply(round=1, cases=work.cases, fields={"train_loss": 2.3}, seconds=1.5)
    update = exchanged_state(work.model())
    gate, seconds = ReleaseFilter(), []
    (executor,) = json.loads((exported / CLIENT_CONFIG).read_text())["executors"]
    arguments = executor["executor"]["args"]
    gate.require_approved(arguments["config"], arguments["release_manifest"], context)
    # The first message makes the table of fields; so does a job's first, which "prepare" is.
    for _ in range(messages + 1):
        result = reply_to_dxo(as_reply(content, update)).to_shareable()
        started = time.perf_counter()
        passed = gate.process(result, context)
        seconds.append(time.perf_counter() - started)
        if passed is not result:
            raise RuntimeError(f"the filter has refused the update: {(kit / AUDIT).read_text().splitlines()[-1]}")
    return seconds[1:]


def measure(work: LargeWorkload, gate: LargeWorkload, repeats: int, messages: int, folder: Path) -> dict[str, Any]:
    """Run everything in turn; a folder is deleted before the next is filled."""
    runs: dict[str, list[dict[str, Any]]] = {"consilia": [], "nvflare": []}
    for repeat in range(repeats):
        # Who comes second finds a busier disk: they take turns in that, too.
        order = [("consilia", run_consilia), ("nvflare", run_stock)]
        for name, run in order if repeat % 2 == 0 else reversed(order):
            runs[name].append(run(work, folder / name))
            shutil.rmtree(folder / name)
            print(f"repeat {repeat + 1} of {repeats}, {name}: {runs[name][-1]}", flush=True)
    found = run_consilia(gate, folder / "gate-round")
    shutil.rmtree(folder / "gate-round")
    return {"runs": runs, "gate": {"round": found["seconds"], "messages": time_gate(gate, folder / "gate", messages)}}


def measurements(work: LargeWorkload, gate: LargeWorkload, found: dict[str, Any]) -> list[Measurement]:
    """Medians, and ratios beside their bounds: a ratio is the median of the ratios within a repeat."""
    runs = found["runs"]
    made = [Measurement("parameters", work.parameters(), "")]
    for key, words, unit, scale in (
        ("seconds", "time per round", "s", 1.0),
        ("processor", "processor time per round, all processes", "s", 1.0),
        ("server", "peak memory of the server", "GB", 1e9),
        ("site", "peak memory of a site", "GB", 1e9),
    ):
        made += [Measurement(f"{name}: {words}", median(run[key] for run in runs[name]) / scale, unit) for name in runs]
        ratios = [ours[key] / theirs[key] for ours, theirs in zip(runs["consilia"], runs["nvflare"], strict=True)]
        made.append(
            Measurement(f"{words}, consilia / nvflare", median(ratios), "x", NOT_WORSE if key in BOUND else None)
        )
    message, whole = median(found["gate"]["messages"]), found["gate"]["round"]
    return [
        *made,
        Measurement("gate: parameters", gate.parameters(), ""),
        Measurement("gate: time per message", 1000 * message, "ms"),
        Measurement("gate: time of a round", whole, "s"),
        Measurement("gate / round", 100 * message / whole, "%", GATE_BOUND),
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--parameters", type=int, default=86_000_000, help="about; the width is in whole heads")
    parser.add_argument("--gate-parameters", type=int, default=22_000_000, help="the same, for the site's gate")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--messages", type=int, default=20, help="that the gate is timed on")
    parser.add_argument("--dir", type=Path, help="where runs and checkpoints lie (8 GB); default: a temporary folder")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the first round is left out")
    # Numerical libraries read it when a process starts: it holds for the sites' processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    # NVFlare's processes import the model's class from here.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    work = LargeWorkload(sites=options.sites, rounds=options.rounds, width=width_of(options.parameters))
    gate = LargeWorkload(sites=options.sites, rounds=options.rounds, width=width_of(options.gate_parameters))
    found = machine()
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-", dir=options.dir) as scratch:
        details = measure(work, gate, options.repeats, options.messages, Path(scratch))
    title = f"Full exchange of a vision transformer, {work.sites} sites, {work.rounds} rounds"
    report(title, measurements(work, gate, details), details, found, options.out)


if __name__ == "__main__":
    main()
