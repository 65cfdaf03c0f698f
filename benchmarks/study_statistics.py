"""Time and memory of a study's statistics: 20 methods x 3 folds x 3 seeds x 1,000 patients, 2,000 draws, 19 claims.

python -m benchmarks.study_statistics           # the global model's last version
python -m benchmarks.study_statistics --all     # global and personal, last and best
python -m benchmarks.study_statistics --groups  # with subgroups by two columns of two values each
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from consilia.study.analysis import analyse
from consilia.study.claims import Claim

SITES = {"a": 300, "b": 290, "c": 120, "d": 290}
METHODS, FOLDS, SEEDS = 20, 3, 3


def predictions(kinds: list[tuple[str, str]]) -> pd.DataFrame:
    """Made-up predictions of two classes; later methods are better."""
    random = np.random.default_rng(0)
    base = pd.DataFrame([(site, str(one), one % FOLDS) for site, size in SITES.items() for one in range(size)])
    base.columns = ["site", "patient", "fold"]
    base = base.assign(label=(random.random(len(base)) < 0.4).astype(int), case=base["patient"], stratum=base["site"])
    parts = []
    for number in range(METHODS):
        for seed in range(SEEDS):
            for version, model in kinds:
                score = (1 + 0.02 * number) * base["label"] + random.normal(size=len(base))
                p1 = 1 / (1 + np.exp(-score))
                labels = {"method": f"method {number}", "seed": seed, "version": version, "model": model}
                parts.append(base.assign(**labels, p0=1 - p1, p1=p1))
    return pd.concat(parts, ignore_index=True).assign(data="made-up", option="")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--groups", action="store_true")
    chosen = parser.parse_args()
    every = [(version, model) for version in ("last", "best") for model in ("global", "personal")]
    table = predictions(every if chosen.all else every[:1])
    if chosen.groups:
        number = table["patient"].astype(int)
        groups = {"group:sex": np.where(number % 3, "men", "women"), "group:age": np.where(number % 2, "old", "young")}
        table = table.assign(**groups)
    runs = table[["data", "option", "method", "fold", "seed"]].drop_duplicates().assign(status="done")
    claims = [Claim(name=str(n), metric="auroc", method=f"method {n}", against="method 0") for n in range(1, METHODS)]
    began, spent = time.perf_counter(), time.process_time()
    analyse(table, runs, pd.DataFrame(), claims)
    wall, processor = time.perf_counter() - began, time.process_time() - spent
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(table):,} predictions: {wall:.1f} s, {processor:.1f} processor-seconds, {memory:.2f} GB")


if __name__ == "__main__":
    main()
