"""Print the Markdown tables of docs/results/fedkim.md from the records of its study.

python -m benchmarks.injection_tables runs/hospitals --keep docs/results/fedkim
python -m benchmarks.injection_tables docs/results/fedkim
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.tables import keep, labels_of
from consilia.record.files import load_record

STUDY = "hospitals"
UNDEFINED = "–"
OPEN = ("bleu1", "rouge1", "meteor", "exact")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Plain records by label, one per seed."""


def as_kept(record: dict[str, Any]) -> dict[str, Any]:
    """A plain record with its injection and its last round, as those kept before every round was kept have them."""
    if "last_round" in record:
        return record
    last = record["rounds"][-1] if record["rounds"] else {"seconds": {}, "bytes_up": {}}
    return {**record, "injection": record["sections"]["fedkim"], "last_round": last}


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Plain records by label, in the study's order, from a study's folder or a folder of kept records."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    records += [load_record(path).plain() for path in sorted(folder.glob("*-seed*/result.json"))]
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in labels_of(STUDY)}
    for record in sorted(records, key=lambda record: int(record["run"]["seed"])):
        found.setdefault(record["run"]["label"], []).append(as_kept(record))
    return {label: runs for label, runs in found.items() if runs}


def tables(runs: Runs) -> dict[str, str]:
    """Markdown by title."""
    first = next(iter(runs.values()))[0]["injection"]
    found = {"Seen tasks": closed(runs, first["seen"]), "Unseen tasks": closed(runs, first["unseen"])}
    found["Open questions"] = opened(runs, first["unseen"])
    shots = {label: records for label, records in runs.items() if records[0]["injection"]["few_shot"]}
    if shots:
        found["A few labelled cases"] = few_shot(shots, first["unseen"])
    found["Sites and seconds"] = costs(runs)
    return found


def closed(runs: Runs, tasks: Sequence[str]) -> str:
    """AUROC of closed questions by who answers; 95 % interval of one seed, mean and spread of several."""
    rows = [(label, records, "injected") for label, records in runs.items()]
    base = next(iter(runs.values()))
    named = {"extractor": "small model alone", "linear": "linear, public cases", "majority": "majority answer"}
    rows += [(f"{name} ({next(iter(runs))})", base, who) for who, name in named.items()]
    lines = [_line("", *tasks, "mean"), _line("---", *["---"] * (len(tasks) + 1))]
    for label, records, who in rows:
        metrics = [[_answers(record, who, task, "closed") for record in records] for task in tasks]
        if not any(metric for row in metrics for metric in row):
            continue
        defined = [_value(metric, "auroc") for metric in metrics]
        shown = [value for value in defined if value is not None]
        whole = f"{mean(shown):.3f}" if len(shown) == len(tasks) else UNDEFINED
        lines.append(_line(label, *(_cell(metric, "auroc") for metric in metrics), whole))
    return "\n".join(lines) + "\n"


def opened(runs: Runs, tasks: Sequence[str]) -> str:
    """BLEU-1, ROUGE-1, METEOR and exact answers of open questions."""
    base = next(iter(runs.items()))
    asked = [task for task in tasks if _answers(base[1][0], "injected", task, "open")]
    lines = [_line("BLEU-1 / ROUGE-1 / METEOR / exact", *asked), _line("---", *["---"] * len(asked))]
    rows = [(label, records, "injected") for label, records in runs.items()]
    for label, records, who in [*rows, ("most frequent public answer", base[1], "majority")]:
        cells = [
            " / ".join(
                UNDEFINED
                if (value := _value([_answers(r, who, task, "open") for r in records], key)) is None
                else f"{value:.3f}"
                for key in OPEN
            )
            for task in asked
        ]
        lines.append(_line(label, *cells))
    return "\n".join(lines) + "\n"


def few_shot(runs: Runs, tasks: Sequence[str]) -> str:
    """AUROC of closed questions before and after training on n labelled public cases of the task."""
    numbers = list(next(iter(runs.values()))[0]["injection"]["few_shot"][tasks[0]])
    numbers = sorted(numbers, key=lambda n: float("inf") if n == "all" else int(n))
    lines = [_line("", *(f"{label}, {n}" for label in runs for n in ["0", *numbers]))]
    lines.append(_line("---", *["---"] * (len(runs) * (len(numbers) + 1))))
    for task in tasks:
        cells = []
        for records in runs.values():
            cells.append(_cell([_answers(record, "injected", task, "closed") for record in records], "auroc"))
            for n in numbers:
                found = [record["injection"]["few_shot"].get(task, {}).get(n) or {} for record in records]
                cells.append(_cell([metrics.get("closed") for metrics in found], "auroc"))
        lines.append(_line(task, *cells))
    return "\n".join(lines) + "\n"


def costs(runs: Runs) -> str:
    """Elements trained at the server, bytes a site sends, and seconds of the last round and of the whole run."""
    columns = ["experts and router", "largest update, MB", "sites, s", "injection, s", "whole run, s"]
    lines = [_line("", *columns), _line("---", *["---"] * len(columns))]
    for label, records in runs.items():
        injection, last = records[0]["injection"], records[0]["last_round"]
        sent = max(last["bytes_up"].values(), default=0) / 1e6
        trained = injection["parameters"]["experts"] + injection["parameters"]["router"]
        sites = last["seconds"].get("sites", 0)
        inject = injection["rounds"][-1]["seconds"]
        whole = records[0]["run"]["seconds"]
        lines.append(_line(label, f"{trained:,}", f"{sent:.2f}", f"{sites:.0f}", f"{inject:.0f}", f"{whole:.0f}"))
    return "\n".join(lines) + "\n"


def _answers(record: Mapping[str, Any], who: str, task: str, kind: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = record["injection"]["test"].get(who, {}).get(task, {}).get(kind)
    return found


def _value(metrics: Sequence[Mapping[str, Any] | None], key: str) -> float | None:
    values = [metric[key] for metric in metrics if metric is not None and metric[key] is not None]
    return mean(values) if values else None


def _cell(metrics: Sequence[Mapping[str, Any] | None], key: str) -> str:
    value = _value(metrics, key)
    if value is None:
        return UNDEFINED
    values = [metric[key] for metric in metrics if metric is not None and metric[key] is not None]
    if len(values) > 1:
        return f"{value:.3f} ± {stdev(values):.3f}"
    interval = next(metric for metric in metrics if metric is not None)["intervals"].get(key)
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path, help="also copy the records to this folder")
    options = parser.parse_args(arguments)
    runs = load(options.folder)
    if not runs:
        parser.error(f"{options.folder}: no record (*-seed*/result.json or *-seed*.json)")
    if options.keep is not None:
        keep(options.folder, options.keep)
    for title, table in tables(runs).items():
        print(f"**{title}**\n\n{table}")


if __name__ == "__main__":
    main()
