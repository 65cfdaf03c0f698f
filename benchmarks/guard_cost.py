"""What the guard of messages and a site's limits cost, beside the seconds of a round.

    python -m benchmarks.guard_cost --out guard_cost.json [--rounds 10]

The guard stands in every process of a run in NVFlare's simulator, and each of its looks at a message is timed there
(the thread's processor time). Of a round that lasts as long as the server's work and a site's, the guard's part is that
of the server, twice, since in a provisioned federation two processes of it look at each message, and of the site with
most messages. The limits are asked at one site as a round asks them: a request is opened and counted on
disk, time and memory are looked at before every batch, and metrics are rounded. All is divided by the seconds of that
run's rounds; the first round is left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Measurement, machine, report
from benchmarks.workload import DATASET, MODEL, Workload, write_sites
from consilia.core.events import Event, RoundDone
from consilia.data.limits import SiteLimits
from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.metric_release import releasable
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site_gate import SiteGate
from consilia.flare.simulator import run_simulator

HOOK = Path(__file__).with_name("guard_hook")
"""A folder with a ``sitecustomize.py``, which Python runs in every process that has it on its path."""
LOOKS = "CONSILIA_GUARD_LOOKS"
AT_SERVER = 2
"""Processes that look at a message there: the server's own, which hands it on, and the job's."""
BOUND = 0.01
METRICS: dict[str, Any] = {"count": 100, "correct": 71, "accuracy": 0.71, "auroc": 0.8123456, "loss": 0.6543219}


def time_guard(work: Workload, folder: Path) -> dict[str, float]:
    """Of a round in the simulator: its seconds, those of the guard at the server and at its busiest site, the looks."""
    ends: list[float] = []

    def clock(event: Event) -> None:
        if isinstance(event, RoundDone):
            ends.append(time.time())

    looks = folder / "looks"
    looks.mkdir()
    before = dict(os.environ)
    os.environ.update({LOOKS: str(looks), "PYTHONPATH": os.pathsep.join([str(HOOK), before.get("PYTHONPATH", "")])})
    try:
        sites = write_sites(work, folder / "sites")
        server = ServerSettings(allow_models=(MODEL,))
        run_simulator(work.config(), sites, folder / "run", server=server, progress=clock)
    finally:
        os.environ.clear()
        os.environ.update(before)
    lines = [line.split() for path in looks.iterdir() for line in path.read_text().splitlines()]
    spent: dict[str, list[float]] = {}
    for me, at, nanoseconds in lines:
        if ends[0] <= float(at) <= ends[-1]:
            spent.setdefault(me, []).append(int(nanoseconds) / 1e9)
    return shares(spent, ends[-1] - ends[0], len(ends) - 1)


def shares(spent: Mapping[str, Sequence[float]], seconds: float, rounds: int) -> dict[str, float]:
    """What :func:`time_guard` returns, from the seconds of each look by process and those of all rounds."""
    at = {"server": 0.0, "site": 0.0}
    for process, each in spent.items():
        place = "server" if process.startswith("server") else "site"
        at[place] = max(at[place], sum(each))
    found = {
        "round": seconds,
        **at,
        "looks": float(sum(map(len, spent.values()))),
        "all": sum(map(sum, spent.values())),
    }
    return {name: value / rounds for name, value in found.items()}


def time_limits(work: Workload, folder: Path, repeats: int) -> float:
    """Seconds that a site's limits take in a round: what is asked before, in and after its training."""
    _, path = min(write_sites(work, folder).items())
    often = SiteLimits(max_rounds=10**9, max_evaluations=10**9, min_training_cases=1, max_batch_fraction=1.0)
    settings = load_site_config(path).model_copy(update={"limits": often})
    gate = SiteGate(work.config(), settings, "sha256:" + "0" * 64, {DATASET: work.cases})

    def requests() -> None:
        with gate.opened(Request(kind="train")):
            for _ in range(work.steps):
                gate.poll()
        releasable(METRICS, 50, often)

    return median(timed(requests) for _ in range(repeats))


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measurements(guard: dict[str, float], limits: float) -> list[Measurement]:
    """The costs of a round beside its seconds."""
    cost = AT_SERVER * guard["server"] + guard["site"] + limits
    return [
        Measurement("round", guard["round"], "s"),
        Measurement("messages looked at in a round, all processes", guard["looks"], ""),
        Measurement("guard, per message", 1e6 * guard["all"] / max(guard["looks"], 1), "us"),
        Measurement("guard at the server, per round, two looks", 1e3 * AT_SERVER * guard["server"], "ms"),
        Measurement("guard at the busiest site, per round", 1e3 * guard["site"], "ms"),
        Measurement("limits, per site and round", 1e3 * limits, "ms"),
        Measurement("guard and limits / round", cost / guard["round"], "", BOUND),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16, help="local steps per site and round")
    parser.add_argument("--repeats", type=int, default=200, help="requests at the site whose limits are timed")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the first round is left out")
    os.environ["OMP_NUM_THREADS"] = "1"
    work = Workload(rounds=options.rounds, steps=options.steps)
    found = machine()
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as scratch:
        guard = time_guard(work, Path(scratch))
        limits = time_limits(work, Path(scratch) / "limits", options.repeats)
    title = f"{work.sites} sites x {work.steps} steps of batch {work.batch}, {work.rounds} rounds in the simulator"
    report(title, measurements(guard, limits), {"guard": guard, "limits": limits}, found, options.out)


if __name__ == "__main__":
    main()
