"""Print the Markdown tables of docs/results/ from the records of a study.

python -m benchmarks.tables runs/heart-disease --keep docs/results/heart-disease
python -m benchmarks.tables docs/results/heart-disease
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from consilia.core.files import write_json
from consilia.core.task import Task
from consilia.evaluation.compare import comparison_table, to_markdown
from consilia.evaluation.figures import UNDEFINED, Unit, show_spread
from consilia.evaluation.summary import summarise
from consilia.federation.study import EMBEDDED, load_study
from consilia.record.files import load_record

LARGE = 20
STUDIES = Path(__file__).parents[1] / "configs" / "studies"


def _final(when: str, *keys: str) -> list[str]:
    return [f"{when}.{key}" for key in keys]


_CLASSIFIED = (
    "global_accuracy",
    "global_auroc",
    "personal_accuracy",
    "personal_auroc",
    "worst_site.accuracy",
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

TABLES: dict[Task, dict[str, list[str]]] = {
    "classification": {
        "Last round": _final("last", *_CLASSIFIED),
        "Best-validation round": _final("best", *_CLASSIFIED),
        "Mean over rounds (the paper's reading)": [
            "over_rounds.global_accuracy",
            "over_rounds.personal_accuracy",
            "over_rounds.balance",
            "over_rounds.bwt",
            "over_rounds.nfr_global",
            "over_rounds.nfr_personal",
            "over_rounds.consistency_global",
        ],
    },
    "segmentation": {
        "Last round": _final("last", *_SEGMENTED),
        "Best-validation round": _final("best", *_SEGMENTED),
    },
}
"""By task and title, dotted paths in the summary."""

COSTS: dict[Task, dict[str, tuple[str, Unit | Literal["ratio"]]]] = {
    "classification": {
        "AUROC, sites of 20 test cases or more": ("last.large_sites_auroc", "score"),
        "Rounds to within 1\u00a0%": ("over_rounds.rounds_to_within_1_percent", "rounds"),
        "MB up, per site and round": ("megabytes_up", "score"),
        "Mean query, accuracy": ("last.mean_query.accuracy_difference", "signed"),
        "Mean query, AUROC of those sites": ("last.large_sites_mean_query_difference", "signed"),
        "Individuality, first round": ("individuality.first", "ratio"),
        "Individuality, last round": ("individuality.last", "ratio"),
    },
    "segmentation": {
        "Rounds to within 1\u00a0%": ("over_rounds.rounds_to_within_1_percent", "rounds"),
        "MB up, per site and round": ("megabytes_up", "score"),
        "Mean query, Dice, true box": ("last.mean_query.dice_box_difference", "signed"),
        "Mean query, Dice, whole image": ("last.mean_query.dice_image_difference", "signed"),
        "Individuality, first round": ("individuality.first", "ratio"),
        "Individuality, last round": ("individuality.last", "ratio"),
    },
}
"""By task and heading, dotted path and unit of what is shown of segmentations, and of studies with Fed-GPL.

"Mean query" is the figure with that ablation less the figure without: below 0 the personal part of the prompts helps.
"""


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """What stays in the repository of a run: what was run, on what data, and the summary; not every round."""
    kept = {key: record[key] for key in ("schema", "run", "config", "versions", "sites", "class_names")}
    summary = summarise(record)
    for key, chosen in record["final"].items():
        whole, mean_query = (large_sites_auroc(chosen[part]) for part in ("global", "mean_query"))
        difference = None if whole is None or mean_query is None else mean_query - whole
        summary[key] |= {"large_sites_auroc": whole, "large_sites_mean_query_difference": difference}
    return {**kept, "summary": summary, "sha256": {k: v["sha256"] for k, v in record["final"].items()}}


def large_sites_auroc(by_site: Mapping[str, Any]) -> float | None:
    """Mean AUROC over the sites of at least :data:`LARGE` test cases: at a smaller one a single case moves it much."""
    tested = [site["test"] for site in by_site.values() if site["test"] and site["test"]["count"] >= LARGE]
    found = [metrics["auroc"] for metrics in tested if metrics.get("auroc") is not None]
    return sum(found) / len(found) if found else None


def load(folder: Path, study: str | None = None) -> list[dict[str, Any]]:
    """Compact records of a study's folder, or of a folder of compact records, in the study's order.

    Args:
        folder: one that is called as a study need not be told which it is.
        study: a study's file or name. Labels that it does not have come last, in the order in which they first ran.
    """
    kept = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    run = [compact(load_record(path).plain()) for path in sorted(folder.glob("*-seed*/result.json"))]
    records = sorted(kept + run, key=lambda record: record["run"]["started"])
    own = any((place / f"{folder.name}.yaml").is_file() for place in (STUDIES, EMBEDDED))
    labels = labels_of(study or folder.name) if study or own else []
    order = list(dict.fromkeys([*labels, *(record["run"]["label"] for record in records)]))
    return sorted(records, key=lambda record: (order.index(record["run"]["label"]), record["run"]["seed"]))


def labels_of(study: str) -> list[str]:
    """Methods and yardsticks of a study. Raises :class:`ConfigError` where there is no such study."""
    named = STUDIES / f"{study}.yaml"
    found = load_study(named if named.is_file() else study)
    return [*found.methods, *found.yardsticks]


def tables(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Markdown by title; a row that has no figure of a table is left out of it."""
    rows = comparison_table(records)
    task: Task = rows[0]["task"]
    found = {title: to_markdown(having(rows, keys), keys) for title, keys in TABLES[task].items()}
    if task == "segmentation" or any(row["method"] == "fedgpl" for row in rows):
        found["Rounds, bytes and prompts"] = costs(rows, COSTS[task])
    return found


def having(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with at least one of the figures."""
    return [row for row in rows if any((row["figures"].get(key) or {}).get("mean") is not None for key in keys)]


def costs(rows: Sequence[dict[str, Any]], columns: Mapping[str, tuple[str, Unit | Literal["ratio"]]]) -> str:
    """A Markdown table of figures that have no heading in the reports."""
    rows = having([with_megabytes(row) for row in rows], [key for key, _ in columns.values()])
    lines = [f"| | seeds | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for row in rows:
        cells = [cost_text(row["figures"].get(key), unit) for key, unit in columns.values()]
        lines.append(f"| {row['label']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cost_text(figure: Mapping[str, Any] | None, unit: Unit | Literal["ratio"]) -> str:
    """One cell; ratios, which may be tiny, with two significant digits."""
    if figure is None or figure["mean"] is None:
        return UNDEFINED
    if unit != "ratio":
        return show_spread(figure["mean"], figure["sd"], unit)
    return f"{figure['mean']:.2g}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.1g}")


def with_megabytes(row: dict[str, Any]) -> dict[str, Any]:
    """The row with ``bytes.up.max`` in millions, as ``megabytes_up``; undefined where no site sent anything."""
    sent = row["figures"]["bytes.up.max"]
    scaled = {key: None if sent[key] is None else sent[key] / 1e6 for key in ("mean", "sd")}
    return {**row, "figures": {**row["figures"], "megabytes_up": {**scaled, "n": sent["n"]}}}


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--study", help="file or name, for the order of the rows; default: the folder's name")
    parser.add_argument("--keep", type=Path, help="also write the compact records to this folder")
    options = parser.parse_args(arguments)
    records = load(options.folder, options.study)
    if not records:
        parser.error(f"{options.folder}: no record (*-seed*/result.json or *-seed*.json)")
    if options.keep is not None:
        for record in records:
            write_json(options.keep / f"{record['run']['name']}.json", record)
    for title, table in tables(records).items():
        print(f"**{title}**\n\n{table}")


if __name__ == "__main__":
    main()
