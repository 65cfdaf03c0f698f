"""Seconds per round of Consilia's two engines against a plain PyTorch loop that does the same steps.

    python -m benchmarks.round_time --out round_time.json [--repeats 5] [--workers 2] [--stock]

The plain loop and the in-process engine alternate round by round, then comes the simulator, then all over again. Of 20
rounds the first is left out; with ``--workers`` the engine runs once more, alternating in the same way, its sites in
so many processes. A ratio is the median over the repeats of the ratio within one repeat. In the simulator
the bytes that really passed the loopback device are counted too: nothing else should use it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.common import Measurement, machine, report
from benchmarks.stock import stock_recipe
from benchmarks.workload import MODEL, Workload, plain_rounds, write_sites
from consilia.core.events import Event, Prepared, RoundDone, read_event
from consilia.federation.inprocess import run_inprocess
from consilia.federation.run_folder import PROGRESS
from consilia.federation.server_settings import ServerSettings
from consilia.flare.simulator import run_simulator

BOUNDS = {"inprocess": 1.05, "workers": 0.65, "simulator": 1.5}


class RoundClock:
    """Notes when rounds end, and how many bytes had passed the loopback device by then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.loopback: list[int] = []

    def __call__(self, event: Event) -> None:
        """Takes the progress events of an engine."""
        if isinstance(event, RoundDone):
            self.times.append(time.perf_counter())
            self.loopback.append(loopback_bytes())


def loopback_bytes() -> int:
    """Bytes sent over the loopback device so far, headers included; what is sent there is received there."""
    counters = psutil.net_io_counters(pernic=True)
    return int(counters["lo"].bytes_sent) if "lo" in counters else 0


class Alternation:
    """Times the in-process engine's rounds, and after each of them one round of the plain loop."""

    def __init__(self, plain: Iterator[Any]) -> None:
        self.seconds: dict[str, list[float]] = {"plain": [], "inprocess": []}
        self._plain = plain
        self._started = time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Takes the progress events of the engine."""
        if isinstance(event, Prepared):
            self._started = time.perf_counter()
        if isinstance(event, RoundDone):
            self.seconds["inprocess"].append(time.perf_counter() - self._started)
            self.seconds["plain"].append(self._plain_round())
            self._started = time.perf_counter()

    def _plain_round(self) -> float:
        # The engine's own settings must not slow the baseline down. One thread, as the engine sets it, remains.
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        started = time.perf_counter()
        next(self._plain)
        seconds = time.perf_counter() - started
        torch.set_deterministic_debug_mode(mode)
        return seconds


def time_pair(work: Workload, folder: Path, workers: int = 1) -> dict[str, dict[str, Any]]:
    """Plain loop and in-process engine, round by round; seconds are medians over the rounds from the second on."""
    sites = write_sites(work, folder / "sites")
    both, server = Alternation(plain_rounds(work, sites)), ServerSettings(allow_models=(MODEL,))
    run_inprocess(work.config(), sites, folder / "run", server=server, progress=both, workers=workers)
    return {name: {"seconds": median(values[1:]), "rounds": values} for name, values in both.seconds.items()}


def time_simulator(work: Workload, folder: Path) -> dict[str, Any]:
    """Our engine on NVFlare's simulator; seconds by the server's own clock, checkpoints included."""
    clock = RoundClock()
    sites = write_sites(work, folder / "sites")
    record = run_simulator(
        work.config(), sites, folder / "run", server=ServerSettings(allow_models=(MODEL,)), progress=clock
    )
    events = [read_event(json.loads(line)) for line in (folder / "run" / PROGRESS).read_text().splitlines()]
    seconds = [event.seconds or 0.0 for event in events if isinstance(event, RoundDone)][1:]
    rounds = record.rounds[1:]
    return {
        "seconds": sum(seconds) / len(seconds),
        "phases": {phase: median(item.seconds[phase] for item in rounds) for phase in rounds[0].seconds},
        "loopback_per_round_and_site": (clock.loopback[-1] - clock.loopback[0]) / len(seconds) / work.sites,
        "down": max(max(item.bytes_down.values()) for item in rounds),
        "up": max(max(item.bytes_up.values()) for item in rounds),
    }


def time_stock(work: Workload, folder: Path) -> dict[str, Any]:
    """NVFlare's own FedAvgRecipe doing the same steps."""
    return {"seconds": stock_recipe(work, write_sites(work, folder / "sites"), folder)}


def measure(
    work: Workload, repeats: int, folder: Path, *, simulator: bool, stock: bool, workers: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """Run everything in turn, ``repeats`` times."""
    # The first training in a process is slower: the allocator learns the sizes of its buffers, torch imports the rest.
    time_pair(replace(work, rounds=2), folder / "warm")
    runs: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(repeats):
        found = time_pair(work, folder / f"{repeat}-pair")
        if workers > 1:
            pair = time_pair(work, folder / f"{repeat}-workers", workers)
            found |= {"workers": pair["inprocess"], "plain beside workers": pair["plain"]}
        if simulator:
            found["simulator"] = time_simulator(work, folder / f"{repeat}-simulator")
        if stock:
            found["stock"] = time_stock(work, folder / f"{repeat}-stock")
        for name, run in found.items():
            runs.setdefault(name, []).append(run)
        shown = ", ".join(f"{name} {run['seconds']:.4f}" for name, run in found.items())
        print(f"repeat {repeat + 1} of {repeats}, seconds per round: {shown}", flush=True)
    return runs


def measurements(work: Workload, runs: dict[str, list[dict[str, Any]]]) -> list[Measurement]:
    """Medians and ratios beside their bounds."""
    found = [Measurement(f"{name}: time per round", median(run["seconds"] for run in runs[name]), "s") for name in runs]
    for name in [name for name in runs if not name.startswith("plain")]:
        beside = runs["plain beside workers" if name == "workers" else "plain"]
        ratios = [run["seconds"] / plain["seconds"] for run, plain in zip(runs[name], beside, strict=True)]
        found.append(Measurement(f"{name} / plain", median(ratios), "x", BOUNDS.get(name)))
    if "simulator" in runs:
        found += byte_measurements(work.parameters(), runs["simulator"])
    return found


def byte_measurements(parameters: int, runs: list[dict[str, Any]]) -> list[Measurement]:
    """Bytes per round and site.

    The device counts both directions together. How the headers, acknowledgements and polls divide between them is not
    seen, so the bound of each direction is put to its content plus the whole of that overhead.
    """
    down, up = runs[0]["down"], runs[0]["up"]
    wire = median(run["loopback_per_round_and_site"] for run in runs)
    bound = 1.01 * 4 * parameters + 64_000
    overhead = wire - down - up
    return [
        Measurement("parameters", parameters, ""),
        Measurement("model, 4 bytes per parameter", 4 * parameters, "B"),
        Measurement("content down (result.json)", down, "B", bound),
        Measurement("content up (result.json)", up, "B", bound),
        Measurement("loopback, down and up together", wire, "B", 2 * bound),
        Measurement("loopback, down at most", down + overhead, "B", bound),
        Measurement("loopback, up at most", up + overhead, "B", bound),
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16, help="local steps per site and round")
    parser.add_argument("--workers", type=int, default=1, help="also the in-process engine with so many processes")
    parser.add_argument("--no-simulator", action="store_true", help="the in-process engine only")
    parser.add_argument("--stock", action="store_true", help="also NVFlare's stock recipe (about a minute per repeat)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the first round is left out")
    # Numerical libraries read it when a process starts: it holds for the sites' processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    work = Workload(rounds=options.rounds, steps=options.steps)
    found = machine()
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as scratch:
        runs = measure(
            work,
            options.repeats,
            Path(scratch),
            simulator=not options.no_simulator,
            stock=options.stock,
            workers=options.workers,
        )
    title = f"{work.sites} sites x {work.steps} steps of batch {work.batch}, {work.rounds} rounds"
    report(title, measurements(work, runs), {"runs": runs}, found, options.out)


if __name__ == "__main__":
    main()
