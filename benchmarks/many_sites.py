"""A federation of 1,000 sites of which 2 % take part in a round, against one of 200 sites with as many in a round.

    python -m benchmarks.many_sites --out many_sites.json [--rounds 10]

Twenty sites train and evaluate in every round (``participation``, ``evaluate_at: sampled``); every site has a table of
its own on disk. Memory is the peak of a process of its own, less what it has after its imports, and is held against a
federation of 20 sites, too. Seconds are those of a round, the first one left out; what comes after the last round
(every site gets its personal model) grows with the sites and is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import Measurement, clear_peak, machine, memory, report
from consilia.core.events import Event, RoundDone
from consilia.data.limits import RESEARCH_LIMITS
from consilia.federation.config import RunConfig, run_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import ServerSettings

SAMPLED = 20
SITES = (20, 200, 1000)
CASES, FEATURES = 60, 20
MEMORY_BOUND = 1.1
TIME_BOUND = 1.1


def write_sites(folder: Path, count: int) -> None:
    """``folder/<site>/site.yaml``, each with a table of random rows whose class is the sign of a sum."""
    for number in range(count):
        place, source = folder / f"site-{number:04d}", np.random.default_rng(number)
        place.mkdir(parents=True)
        rows = source.normal(size=(CASES, FEATURES)).round(4)
        table = pd.DataFrame(rows, columns=[f"x{column}" for column in range(FEATURES)])
        table["label"] = np.where(rows[:, :3].sum(1) + source.normal(size=CASES) > 0, "yes", "no")
        table.to_csv(place / "cases.csv", index=False)
        spec = {
            "format": "tabular",
            "file": "cases.csv",
            "numeric": list(table.columns[:-1]),
            "classes": ["no", "yes"],
            "label": {"column": "label"},
        }
        content = {"site": place.name, "limits": RESEARCH_LIMITS.model_dump(), "datasets": {"diagnosis": spec}}
        (place / "site.yaml").write_text(yaml.safe_dump(content))


def config(sites: int, rounds: int) -> RunConfig:
    """FedAvg with :data:`SAMPLED` sites in a round."""
    return run_config(
        {
            "method": "fedavg",
            "model": {
                "class": "consilia.models.mlp.MLP",
                "args": {"in_features": FEATURES, "num_classes": 2, "hidden": [256, 256]},
            },
            "rounds": rounds,
            "participation": SAMPLED / sites,
            "evaluate_at": "sampled",
            "training": {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"},
        }
    )


def child(folder: Path, count: int, rounds: int) -> None:
    """One run, in a process of its own: seconds of its rounds, and peak memory."""
    files = {place.name: place / "site.yaml" for place in sorted(folder.iterdir())[:count]}
    before = memory()
    peaks: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, RoundDone):
            peaks.append(memory(peak=True) - before)

    clear_peak()
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as out:
        chosen = config(count, rounds)
        server = ServerSettings(engine="inprocess", allow_models=(chosen.model.class_,))
        record = run_inprocess(chosen, files, Path(out) / "run", server=server, pages=False, progress=note)
    asked = [len(done.participants) for done in record.rounds]
    if asked != [SAMPLED] * rounds:
        raise SystemExit(f"expected {SAMPLED} sites in every round, got {asked}")
    seconds = [done.seconds["sites"] + done.seconds["aggregate"] for done in record.rounds[1:]]
    print(json.dumps({"bytes": peaks[-1], "bytes_at_the_end": memory(peak=True) - before, "seconds": seconds}))


def measure(folder: Path, rounds: int, sizes: tuple[int, int, int]) -> tuple[list[Measurement], dict[str, Any]]:
    """The measurements, and the single runs behind them."""
    write_sites(folder, max(sizes))
    found = {}
    for count in sizes:
        command = [sys.executable, "-m", "benchmarks.many_sites", "--child", str(count), "--dir", str(folder)]
        place = Path(__file__).parents[1]
        done = subprocess.run(
            [*command, "--rounds", str(rounds)], check=True, stdout=subprocess.PIPE, text=True, cwd=place
        )
        found[count] = json.loads(done.stdout)
    small, fewer, many = sizes
    seconds = {count: median(run["seconds"]) for count, run in found.items()}
    peak = {count: run["bytes"] / 1e6 for count, run in found.items()}
    measurements = [
        *(Measurement(f"seconds of a round, {count} sites", value, "s") for count, value in seconds.items()),
        Measurement(f"seconds, {many} / {fewer} sites", seconds[many] / seconds[fewer], "x", TIME_BOUND),
        *(Measurement(f"peak memory of the rounds, {count} sites", value, "MB") for count, value in peak.items()),
        Measurement(f"peak memory, {many} / {small} sites", peak[many] / peak[small], "x", MEMORY_BOUND),
        Measurement(f"after the rounds, too, {many} sites", found[many]["bytes_at_the_end"] / 1e6, "MB"),
    ]
    return measurements, {"runs": {str(count): run for count, run in found.items()}}


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sites", type=int, nargs=3, default=SITES, help="three sizes of federation")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(options.dir, options.child, options.rounds)
        return
    found = machine()
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as scratch:
        measurements, details = measure(Path(scratch), options.rounds, tuple(options.sites))
    report("Many sites, few of them in a round", measurements, details, found, options.out)


if __name__ == "__main__":
    main()
