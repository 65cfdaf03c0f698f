"""Choose a setting per method on validation: one grid and one budget for all methods of a study.

    python -m benchmarks.tune configs/studies/heart-disease.yaml --grid training.learning_rate=0.003,0.01,0.03,0.1

Prints, for every method and grid value, the best validation value over the rounds (the study's ``select_by``, as
:mod:`consilia.federation.selection` has it, global model); test splits play no part. Records are kept in --out, so a
grid can be extended without running anything twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from consilia.federation.inprocess import run_inprocess
from consilia.federation.selection import validation_value
from consilia.federation.server_settings import own_server
from consilia.record.schema import Record
from consilia.study.folder import finished
from consilia.study.study import load_study, study_config, study_sites


def best_validation(record: Record, metric: str) -> float:
    """The best value over the sites of a validation metric among versions >= 1 (of the loss: the lowest)."""
    values = [
        value
        for evaluation in record.evaluations
        if evaluation.model == "global" and evaluation.version >= 1
        if (value := validation_value(evaluation.sites, metric)) is not None
    ]
    return min(values) if metric == "loss" else max(values)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--grid", required=True, help="key=value,value,... of the run's configuration")
    parser.add_argument("--methods", nargs="*", help="default: all of the study")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--set", action="append", default=[], help="another key=value, the same for all runs")
    parser.add_argument("--train-cases", type=float, help="fraction of each site's training cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    key, _, values = arguments.grid.partition("=")
    if arguments.train_cases is not None:
        study = study.model_copy(update={"train_cases": arguments.train_cases})
    sites = study_sites(study, arguments.out / "sites")
    table: dict[str, dict[str, float]] = {}
    for label in arguments.methods or study.methods:
        for value in values.split(","):
            overrides = [
                f"{key}={value}",
                *arguments.set,
                *([f"rounds={arguments.rounds}"] if arguments.rounds else []),
            ]
            config = study_config(study, label, arguments.seed, sites, overrides)
            place = arguments.out / f"{label}-{value}"
            record = finished(place, config, sites) or run_inprocess(
                config, sites, place, server=own_server(config, sites)
            )
            table.setdefault(label, {})[value] = best_validation(record, config.primary_metric)
        row = table[label]
        best = max(row, key=lambda value: row[value] * (-1 if config.primary_metric == "loss" else 1))
        print(f"{label:28}", *(f"{v}: {x:.3f}{'*' if v == best else ' '}" for v, x in row.items()), flush=True)
    (arguments.out / "tune.json").write_text(json.dumps({"grid": arguments.grid, "best_validation": table}, indent=1))


if __name__ == "__main__":
    main()
