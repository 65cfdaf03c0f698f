"""Print the Markdown tables of docs/results/ from the records of a study.

python -m benchmarks.tables runs/heart-disease --keep docs/results/heart-disease
python -m benchmarks.tables docs/results/heart-disease
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.old_summary import old_summary
from consilia.core.task import Task
from consilia.evaluation.compare import Column, Row, Run, columns, table_of, to_markdown
from consilia.evaluation.metrics import OVER_ROUNDS
from consilia.evaluation.rounds import Value, mean, split_metrics, value_of
from consilia.evaluation.summary import ModelSummary, Part, Summary, summarise
from consilia.methods.fedgpl.method import MEAN_PROMPT
from consilia.record.files import load_record, save_record
from consilia.record.metrics import Metric, Unit
from consilia.record.schema import FinalModels, Record, RunInfo, SiteMetrics
from consilia.study.study import EMBEDDED, load_study

LARGE = 20
STUDIES = Path(__file__).parents[1] / "configs" / "studies"


_CLASSIFIED = (
    "global_accuracy",
    "global_auroc",
    "personal_accuracy",
    "personal_auroc",
    "worst_personal_accuracy",
    "balance",
)
_SEGMENTED = (
    "global_dice_box",
    "global_dice_image",
    "global_dice_jitter",
    "global_iou_box",
    "global_hd95_box",
    "personal_dice_box",
)
_OVER_ROUNDS = (
    "global_accuracy",
    "personal_accuracy",
    "balance",
    "bwt",
    "nfr_global",
    "nfr_personal",
    "consistency_global",
)


def _rounds(task: Task, *names: str) -> list[Column]:
    return [("over_rounds", OVER_ROUNDS.get(task, name)) for name in names]


TABLES: dict[Task, dict[str, list[Column]]] = {
    "classification": {
        "Last round": columns("classification", "last", _CLASSIFIED),
        "Best-validation round": columns("classification", "best", _CLASSIFIED),
        "Mean over rounds (the paper's reading)": _rounds("classification", *_OVER_ROUNDS),
    },
    "segmentation": {
        "Last round": columns("segmentation", "last", _SEGMENTED),
        "Best-validation round": columns("segmentation", "best", _SEGMENTED),
    },
}
"""By task and title, the columns."""

LARGE_SITES = Metric("large_sites_auroc", "AUROC, sites of 20 test cases or more", "score", True, "mean of those sites")


def _cost(part: Part, name: str, heading: str, unit: Unit) -> Column:
    return part, Metric(name, heading, unit, None, "")


def _costs(task: Task, *variants: Column) -> list[Column]:
    return [
        *_rounds(task, "rounds_to_within_1_percent"),
        _cost("costs", "up_max", "MB up, per site and round", "megabytes"),
        *variants,
        _cost("first_report", "prompt_diversity", "Individuality, first round", "ratio"),
        _cost("last_report", "prompt_diversity", "Individuality, last round", "ratio"),
    ]


COSTS: dict[Task, list[Column]] = {
    "classification": [
        ("last", LARGE_SITES),
        *_costs(
            "classification",
            _cost(("difference", MEAN_PROMPT), "accuracy", "Mean query, accuracy", "signed"),
            _cost(("difference", MEAN_PROMPT), LARGE_SITES.name, "Mean query, AUROC of those sites", "signed"),
        ),
    ],
    "segmentation": _costs(
        "segmentation",
        _cost(("difference", MEAN_PROMPT), "dice_box", "Mean query, Dice, true box", "signed"),
        _cost(("difference", MEAN_PROMPT), "dice_image", "Mean query, Dice, whole image", "signed"),
    ),
}
"""By task, the columns of what is shown of segmentations, and of studies with Fed-GPL.

"Mean query" is the value with that ablation less the value without: below 0 the personal part of the prompts helps.
"""


def summary_of(record: Record) -> Summary:
    """The summary of a run, with the metrics that only these tables show."""
    summary = summarise(record)
    if record.run.task != "classification":
        return summary
    finals = {key: _with_large_sites(chosen, record.final[key]) for key, chosen in summary.finals.items()}
    return replace(summary, last=finals.get("last"), best=finals.get("best"))


def _with_large_sites(summary: ModelSummary, chosen: FinalModels) -> ModelSummary:
    whole, variant = large_sites_auroc(chosen.global_), large_sites_auroc(chosen.variants.get(MEAN_PROMPT, {}))
    difference = None if whole is None or variant is None else variant - whole
    variants = dict(summary.variants)
    if ablation := variants.get(MEAN_PROMPT):
        differences = {**ablation.differences, LARGE_SITES.name: difference}
        variants[MEAN_PROMPT] = replace(ablation, differences=differences)
    return replace(summary, metrics={**summary.metrics, LARGE_SITES.name: Value(whole)}, variants=variants)


def large_sites_auroc(by_site: Mapping[str, SiteMetrics]) -> float | None:
    """Mean AUROC over the sites of at least :data:`LARGE` test cases: at a smaller one a single case moves it much."""
    tested = [metrics for metrics in split_metrics(by_site, by_site).values() if metrics.count >= LARGE]
    return mean(value_of(metrics, "auroc") for metrics in tested)


def load(folder: Path, study: str | None = None) -> list[Run]:
    """Runs of a study's folder, or of a folder of kept records, in the study's order.

    Args:
        folder: one that is called as a study need not be told which it is.
        study: a study's file or name. Labels that it does not have come last, in the order in which they first ran.
    """
    kept = [load_kept(path) for path in sorted(folder.glob("*-seed*.json"))]
    records = [load_record(path) for path in sorted(folder.glob("*-seed*/result.json"))]
    runs = sorted([*kept, *((one.run, summary_of(one)) for one in records)], key=lambda run: run[0].started)
    own = any((place / f"{folder.name}.yaml").is_file() for place in (STUDIES, EMBEDDED))
    labels = labels_of(study or folder.name) if study or own else []
    order = list(dict.fromkeys([*labels, *(run.label for run, _ in runs)]))
    return sorted(runs, key=lambda run: (order.index(run[0].label), run[0].seed))


def load_kept(path: Path) -> Run:
    """A kept record: the whole ``result.json``, or the summary alone of those from before every round was kept."""
    content = json.loads(path.read_text())
    if "summary" not in content:
        record = load_record(path)
        return record.run, summary_of(record)
    run = RunInfo.model_validate(content["run"])
    return run, old_summary(run.task, content["summary"])


def keep(folder: Path, place: Path) -> None:
    """Copy the records of a study's folder, every round and site included, to where they are kept."""
    for path in sorted(folder.glob("*-seed*/result.json")):
        record = load_record(path)
        save_record(record, place / f"{record.run.name}.json")


def labels_of(study: str) -> list[str]:
    """Methods and baselines of a study. Raises :class:`ConfigError` where there is no such study."""
    named = STUDIES / f"{study}.yaml"
    found = load_study(named if named.is_file() else study)
    return [*found.methods, *found.baselines]


def tables(runs: Sequence[Run]) -> dict[str, str]:
    """Markdown by title; a row that has no value of a table is left out of it."""
    rows = table_of(runs)
    task: Task = rows[0].task
    found = {title: to_markdown(having(rows, shown), shown) for title, shown in TABLES[task].items()}
    if task == "segmentation" or any(row.method == "fedgpl" for row in rows):
        found["Rounds, bytes and prompts"] = to_markdown(having(rows, COSTS[task]), COSTS[task])
    return found


def having(rows: Sequence[Row], shown: Sequence[Column]) -> list[Row]:
    """The rows with at least one of the values."""
    return [row for row in rows if any(row.spread(part, metric.name).n for part, metric in shown)]


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--study", help="file or name, for the order of the rows; default: the folder's name")
    parser.add_argument("--keep", type=Path, help="also copy the records to this folder")
    options = parser.parse_args(arguments)
    runs = load(options.folder, options.study)
    if not runs:
        parser.error(f"{options.folder}: no record (*-seed*/result.json or *-seed*.json)")
    if options.keep is not None:
        keep(options.folder, options.keep)
    for title, table in tables(runs).items():
        print(f"**{title}**\n\n{table}")


if __name__ == "__main__":
    main()
