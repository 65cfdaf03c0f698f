"""Fed-TCGA-BRCA from FLamby's files: a table and a file of splits for each of the six regions.

    python -m benchmarks.flamby_brca FLAMBY/flamby/datasets/fed_tcga_brca $CONSILIA_DATA/tcga_brca

It reads brca.csv (pid, 39 inputs that are standardised already, whether the follow-up ended with the event, its time)
and dataset_creation_scripts/train_test_split.csv (pid, and under fold2 train_0, test_0 and so on: part and region).
The inputs are called x01 to x39 in the order of the file. configs/studies/flamby-tcga-brca.yaml runs on what it writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")
INPUTS = tuple(f"x{number:02d}" for number in range(1, 40))


def prepare(source: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write ``REGION.csv`` and ``REGION-splits.csv``; the training and test cases of each region.

    Raises:
        SystemExit: the files are not FLamby's; says what differs.
    """
    table = pd.read_csv(source / "brca.csv", dtype=str)
    parts = pd.read_csv(source / "dataset_creation_scripts" / "train_test_split.csv", dtype=str)
    if table.shape[1] != len(INPUTS) + 3 or table.columns[0] != "pid":
        raise SystemExit(f"{source}/brca.csv: expected pid, 39 inputs, event and time, got {list(table.columns)}")
    table.columns = pd.Index(["pid", *INPUTS, "event", "time"])
    part = parts.set_index("pid")["fold2"].reindex(table["pid"]).str.extract(r"^(train|test)_([0-5])$")
    if part.isna().any(axis=None):
        raise SystemExit(f"{source}: {int(part[0].isna().sum())} patient(s) of brca.csv are in no fold2 of the splits")
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for number, region in enumerate(REGIONS):
        here = (part[1] == str(number)).to_numpy()
        splits = pd.DataFrame({"case_id": table["pid"][here], "split": part[0].to_numpy()[here]})
        table[here].to_csv(out / f"{region}.csv", index=False)
        splits.to_csv(out / f"{region}-splits.csv", index=False)
        counts[region] = (int((splits["split"] == "train").sum()), int((splits["split"] == "test").sum()))
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files and print the number of cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="FLamby's folder fed_tcga_brca")
    parser.add_argument("out", type=Path, help="folder of the new files")
    options = parser.parse_args(arguments)
    for region, (train, test) in prepare(options.source, options.out).items():
        print(f"{region}: {train} training cases, {test} test cases")


if __name__ == "__main__":
    main()
