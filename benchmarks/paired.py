"""Paired differences of AUROC with bootstrap intervals over patients and seeds, from what benchmarks.folds wrote.

    python -m benchmarks.paired runs/busbra-folds

AUROC: of all test cases of a fold together, then the mean over folds and seeds (every fold has a model of its own,
whose scores do not compare with another's). One draw of patients, within each site, serves all methods and seeds:
differences are paired. 2,000 draws, percentile intervals; they cover patients and training seeds, not other hospitals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.folds import CENTRALISED
from consilia.evaluation.answers import weighted_ranking

DRAWS = 2000
EQUIVALENT = 0.01  # of AUROC
Array = NDArray[np.float64]


def read(folder: Path) -> pd.DataFrame:
    """All predictions below a folder."""
    files = sorted(folder.glob("*/predictions.csv"))
    if not files:
        raise SystemExit(f"{folder}: no */predictions.csv: run benchmarks.folds first")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def common(predictions: pd.DataFrame) -> pd.DataFrame:
    """The folds and seeds that every method has: means over others do not compare."""
    methods = predictions["method"].nunique()
    return predictions[predictions.groupby(["fold", "seed"])["method"].transform("nunique") == methods]


def draws(patients: pd.DataFrame, seed: int = 0) -> Array:
    """How often each patient (rows: site, patient) is drawn, (R, P): first all once, then ``DRAWS`` draws by site."""
    random = np.random.default_rng(seed)
    times = np.ones((DRAWS + 1, len(patients)))
    for _, rows in patients.groupby("site").groups.items():
        size = len(rows)
        times[1:, rows] = random.multinomial(size, np.full(size, 1 / size), size=DRAWS)
    return times


def aurocs(table: pd.DataFrame, patients: pd.DataFrame, times: Array, seeds: Array) -> Array:
    """AUROC (R,) of one method's model: folds averaged, seeds weighted as drawn (R, S)."""
    place = {key: number for number, key in enumerate(zip(patients["site"], patients["patient"], strict=True))}
    by_seed = []
    for _, runs in table.groupby("seed"):
        folds = []
        for _, fold in runs.groupby("fold"):
            columns = [place[key] for key in zip(fold["site"], fold["patient"], strict=True)]
            positive = fold["label"].to_numpy() == 1
            folds.append(weighted_ranking(fold["probability"].to_numpy(), positive, times[:, columns])[0])
        by_seed.append(np.mean(folds, axis=0))
    found: Array = (np.stack(by_seed, axis=1) * seeds).sum(axis=1) / seeds.sum(axis=1)
    return found


def shown(values: Array, sign: str = "") -> str:
    """The value of all cases, and the percentile interval of the draws."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def verdict(difference: Array) -> str:
    """What a paired difference (first value: all cases; others: draws) says of "better than centralised"."""
    low, high = np.nanquantile(difference[1:], [0.025, 0.975])
    if low >= -EQUIVALENT and high <= EQUIVALENT:
        return "equivalent"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not decided"


def at_half(table: pd.DataFrame) -> tuple[float, float]:
    """Sensitivity and specificity of all cases at a probability of 0.5."""
    said, truth = table["probability"] >= 0.5, table["label"] == 1
    return float(said[truth].mean()), float((~said[~truth]).mean())


def by_site(table: pd.DataFrame) -> Iterator[tuple[str, int, int, float]]:
    """Site, cases, positives and AUROC, the mean over folds (where both classes are) and seeds."""
    for site, rows in table.groupby("site"):
        areas = []
        for _, fold in rows.groupby(["seed", "fold"]):
            positive = fold["label"].to_numpy() == 1
            areas.append(weighted_ranking(fold["probability"].to_numpy(), positive, np.ones((1, len(fold))))[0][0])
        seeds = rows["seed"].nunique()
        yield str(site), len(rows) // seeds, int(rows["label"].sum()) // seeds, float(np.nanmean(areas))


def tables(predictions: pd.DataFrame) -> Iterator[str]:
    """Lines of Markdown."""
    predictions = common(predictions)
    yield f"Folds {sorted(set(predictions['fold']))}, seeds {sorted(set(predictions['seed']))}:"
    yield ""
    patients = predictions[["site", "patient"]].drop_duplicates().sort_values(["site", "patient"], ignore_index=True)
    times = draws(patients)
    count = predictions["seed"].nunique()
    seeds = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=len(times)).astype(float)
    seeds[0] = 1
    yield "| | model | seeds | AUROC | less centralised, paired | verdict | sensitivity, specificity at 0.5 |"
    yield "|---|---|---|---|---|---|---|"
    found = {
        key: aurocs(table, patients, times, seeds)
        for key, table in predictions.groupby(["method", "model"], sort=False)
    }
    for (method, kept), values in found.items():
        table = predictions[(predictions["method"] == method) & (predictions["model"] == kept)]
        sensitivity, specificity = at_half(table)
        difference = values - found[CENTRALISED, kept]
        compared = ("", "") if method == CENTRALISED else (shown(difference, "+"), verdict(difference))
        cells = (method, kept, count, shown(values), *compared, f"{sensitivity:.2f}, {specificity:.2f}")
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield "| site | cases | malignant | " + " | ".join(f"{method}, {kept}" for method, kept in found) + " |"
    yield "|---|---|---|" + "---|" * len(found)
    yield from site_rows(predictions, list(found))


def site_rows(predictions: pd.DataFrame, keys: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A line for each site."""
    columns = [
        list(by_site(predictions[(predictions["method"] == method) & (predictions["model"] == kept)]))
        for method, kept in keys
    ]
    for row in zip(*columns, strict=True):
        site, cases, positives, _ = row[0]
        yield f"| {site} | {cases} | {positives} | " + " | ".join(f"{area:.3f}" for *_, area in row) + " |"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print("\n".join(tables(read(parser.parse_args().folder))))


if __name__ == "__main__":
    main()
