"""Seconds per round of Consilia's two engines against a plain PyTorch loop that does the same steps.

    python -m benchmarks.round_time --out round_time.json [--repeats 5] [--stock]

The compared things run in turn (plain, in-process, simulator, plain, ...), each for 20 rounds of which the first is
left out; a ratio is the median over the repeats of the ratio within one repeat. In the simulator the bytes that really
passed the loopback device are counted too: nothing else should use it meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.common import Figure, machine, report
from benchmarks.stock import stock_recipe
from benchmarks.workload import MODEL, Workload, per_round, plain_loop, write_sites
from consilia.federation.inprocess import run_inprocess
from consilia.federation.outputs import PROGRESS
from consilia.recipes.simulate import run_simulator

BOUNDS = {"inprocess": 1.05, "simulator": 1.5}


class RoundClock:
    """Notes when rounds end, and how many bytes had passed the loopback device by then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.loopback: list[int] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes the progress events of an engine."""
        if event["event"] == "round":
            self.times.append(time.perf_counter())
            self.loopback.append(loopback_bytes())


def loopback_bytes() -> int:
    """Bytes sent over the loopback device so far, headers included; what is sent there is received there."""
    counters = psutil.net_io_counters(pernic=True)
    return int(counters["lo"].bytes_sent) if "lo" in counters else 0


def time_plain(work: Workload, folder: Path) -> dict[str, Any]:
    """The yardstick, on one thread as the engines are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, _ = plain_loop(work, write_sites(work, folder / "sites"))
    finally:
        torch.set_num_threads(threads)
    return {"seconds": seconds}


def time_inprocess(work: Workload, folder: Path) -> dict[str, Any]:
    """Our in-process engine."""
    clock = RoundClock()
    sites = write_sites(work, folder / "sites")
    run_inprocess(work.config(), sites, folder / "run", allow_models=[MODEL], progress=clock)
    return {"seconds": per_round(clock.times)}


def time_simulator(work: Workload, folder: Path) -> dict[str, Any]:
    """Our engine on NVFlare's simulator; seconds by the server's own clock, checkpoints included."""
    clock = RoundClock()
    sites = write_sites(work, folder / "sites")
    record = run_simulator(work.config(), sites, folder / "run", allow_models=[MODEL], progress=clock)
    events = [json.loads(line) for line in (folder / "run" / PROGRESS).read_text().splitlines()]
    seconds = [event["seconds"] for event in events if event["event"] == "round"][1:]
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


RUNNERS = {"plain": time_plain, "inprocess": time_inprocess, "simulator": time_simulator, "stock": time_stock}


def measure(work: Workload, names: list[str], repeats: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run the named things in turn, ``repeats`` times."""
    # The first training in a process is slower: the allocator learns the sizes of its buffers, torch imports the rest.
    short = replace(work, rounds=2)
    for name in names:
        if name in ("plain", "inprocess"):
            RUNNERS[name](short, folder / f"warm-{name}")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names:
            runs[name].append(RUNNERS[name](work, folder / f"{repeat}-{name}"))
            print(f"repeat {repeat + 1} of {repeats}: {name} {runs[name][-1]['seconds']:.4f} s per round", flush=True)
    return runs


def figures(work: Workload, runs: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Medians and ratios beside their bounds."""
    found = [Figure(f"{name}: time per round", median(run["seconds"] for run in runs[name]), "s") for name in runs]
    for name in [name for name in runs if name != "plain"]:
        ratios = [run["seconds"] / plain["seconds"] for run, plain in zip(runs[name], runs["plain"], strict=True)]
        found.append(Figure(f"{name} / plain", median(ratios), "x", BOUNDS.get(name)))
    if "simulator" in runs:
        found += byte_figures(work.parameters(), runs["simulator"])
    return found


def byte_figures(parameters: int, runs: list[dict[str, Any]]) -> list[Figure]:
    """Bytes per round and site.

    The device counts both directions together. How the headers, acknowledgements and polls divide between them is not
    seen, so the bound of each direction is put to its content plus the whole of that overhead.
    """
    down, up = runs[0]["down"], runs[0]["up"]
    wire = median(run["loopback_per_round_and_site"] for run in runs)
    bound = 1.01 * 4 * parameters + 64_000
    overhead = wire - down - up
    return [
        Figure("parameters", parameters, ""),
        Figure("model, 4 bytes per parameter", 4 * parameters, "B"),
        Figure("content down (result.json)", down, "B", bound),
        Figure("content up (result.json)", up, "B", bound),
        Figure("loopback, down and up together", wire, "B", 2 * bound),
        Figure("loopback, down at most", down + overhead, "B", bound),
        Figure("loopback, up at most", up + overhead, "B", bound),
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16, help="local steps per site and round")
    parser.add_argument("--engines", nargs="+", choices=["inprocess", "simulator"], default=["inprocess", "simulator"])
    parser.add_argument("--stock", action="store_true", help="also NVFlare's stock recipe (about a minute per repeat)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the first round is left out")
    # Numerical libraries read it when a process starts: it holds for the sites' processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    work = Workload(rounds=options.rounds, steps=options.steps)
    found = machine()
    names = ["plain", *options.engines, *(["stock"] if options.stock else [])]
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as scratch:
        runs = measure(work, names, options.repeats, Path(scratch))
    title = f"{work.sites} sites x {work.steps} steps of batch {work.batch}, {work.rounds} rounds"
    report(title, figures(work, runs), {"runs": runs}, found, options.out)


if __name__ == "__main__":
    main()
