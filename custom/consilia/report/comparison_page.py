"""What the comparison of several runs shows, gathered from their plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.core.task import Task
from consilia.evaluation.compare import comparison_table, group_by_label
from consilia.evaluation.figures import ABLATION, FIGURES, Figure
from consilia.evaluation.rounds import mean, merit, round_figures, task_of
from consilia.report import plots_compare
from consilia.report.format import YARDSTICKS, flat
from consilia.report.injection_comparison import answer_tables
from consilia.report.injection_page import several_tasks

LEVELS: dict[Task, dict[str, str]] = {
    "classification": {"global": "last.global_accuracy", "personal": "last.personal_accuracy"},
    "segmentation": {
        "global": "last.global_dice_box",
        "personal": "last.personal_dice_box",
        "global_image": "last.global_dice_image",
    },
}
"""By task, the figures that the drawings take from the last version."""

KINDS = ("global", "personal")
_GLOBAL = "The global model after the last round"
_OWN = "The personal models made from it at every training site, and the balance of both"
TABLES: dict[Task, tuple[tuple[str, str, str], ...]] = {
    "classification": (
        (_GLOBAL, "last", "global_accuracy global_balanced_accuracy global_auroc worst_site_global.accuracy"),
        (_OWN, "last", "personal_accuracy personal_balanced_accuracy personal_auroc worst_site.accuracy balance"),
        (
            "The version that was best on validation cases",
            "best",
            "global_accuracy global_auroc personal_accuracy personal_auroc balance",
        ),
    ),
    "segmentation": (
        (_GLOBAL, "last", "global_dice_box global_dice_jitter global_dice_image worst_site_global.dice"),
        (
            f"{_GLOBAL}: IoU, and HD95 in {{unit}}",
            "last",
            "global_iou_box global_iou_jitter global_iou_image global_hd95_box global_hd95_jitter global_hd95_image",
        ),
        (_OWN, "last", "personal_dice_box personal_dice_jitter personal_dice_image worst_site.dice balance"),
        (
            "The version that was best on validation cases",
            "best",
            "global_dice_box global_dice_jitter global_dice_image global_hd95_box personal_dice_box",
        ),
    ),
}
"""By task, the tables of figures: caption, chosen version and keys."""


def comparison_page(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of the template ``comparison.html``; the figures are those of the last version."""
    rows, task = comparison_table(records), task_of(records[0])
    groups = group_by_label(records)
    methods = [row for row in rows if row["method"] not in YARDSTICKS]
    yardsticks = [row for row in rows if row["method"] in YARDSTICKS]
    levels = {row["label"]: {kind: _last(row, kind)[0] for kind in LEVELS[task]} for row in yardsticks}
    runs = {row["label"]: [round_figures(record) for record in groups[row["label"]]] for row in methods}
    points = {row["label"]: {kind: _last(row, kind) for kind in KINDS} for row in methods}
    names = sorted({site for record in records for site in record["sites"]})
    by_site = {row["label"]: _by_site(groups[row["label"]], names) for row in methods or yardsticks}
    return {
        "records": records,
        "task": task,
        "tables": _tables(rows, task, _units(records), every=not any(map(several_tasks, records))),
        "answers": answer_tables(records),
        "ablation": [item for item in ABLATION[task] if _defined(rows, f"last.mean_query.{item.key}")],
        "individual": _defined(rows, "individuality.last"),
        "exchange": _defined(rows, "bytes.exchange.floor"),
        "rows": rows,
        "methods": methods,
        "yardsticks": yardsticks,
        "sites": sorted(names),
        "same_data": _same_data(records),
        "fingerprints": next((found for record in records if (found := _fingerprints(record))), {}),
        "versions": _versions(records),
        "differences": _differences(groups),
        "curves": plots_compare.curves(runs, levels, task),
        "plane": plots_compare.plane(points, levels) if task == "classification" else None,
        "site_bars": plots_compare.sites(names, by_site, task),
    }


def _last(row: Mapping[str, Any], kind: str) -> tuple[float | None, float | None]:
    """Mean and sd over seeds of one of the last version's ``LEVELS``."""
    figure = row["figures"].get(LEVELS[row["task"]][kind], {"mean": None, "sd": None})
    return figure["mean"], figure["sd"]


def _defined(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(row["figures"].get(key, {}).get("mean") is not None for row in rows)


def _units(records: Sequence[Mapping[str, Any]]) -> str:
    """The unit of HD95 in the final figures of segmentations; both if both occur."""
    finals = [chosen[kind] for record in records for chosen in record["final"].values() for kind in KINDS]
    tested = [metrics for by_site in finals for part in by_site.values() if (metrics := part["test"])]
    return " or ".join(sorted({metrics["unit"] for metrics in tested if "unit" in metrics}))


def _tables(rows: Sequence[Mapping[str, Any]], task: Task, unit: str, *, every: bool) -> list[dict[str, Any]]:
    """The tables of figures: ``caption``, ``prefix``, ``figures``.

    Those without any figure are left out of a segmentation, and of runs of several tasks (not ``every``).
    """
    found = []
    for caption, when, keys in TABLES[task]:
        figures: list[Figure] = [FIGURES[task][f"{when}.{key}"] for key in keys.split()]
        if (every and task == "classification") or any(_defined(rows, f"{when}.{figure.key}") for figure in figures):
            found.append({"caption": caption.format(unit=unit), "prefix": f"{when}.", "figures": figures})
    return found


def _by_site(group: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """kind -> site -> accuracy or Dice of the last version, averaged over seeds."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        finals = [record["final"]["last"][kind] for record in group if "last" in record["final"]]
        tested = {site: [part for final in finals if (part := final.get(site, {}).get("test"))] for site in names}
        found[kind] = {site: mean(merit(part) for part in parts) for site, parts in tested.items()}
    return found


def _same_data(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all runs saw the same sites' data, and the same data of the server; a run without sites saw none."""
    sites = {tuple(sorted(found.items())) for record in records if (found := _fingerprints(record))}
    servers = {(record.get("injection") or {}).get("fingerprint") for record in records}
    return len(sites) <= 1 and len(servers) == 1


def _fingerprints(record: Mapping[str, Any]) -> dict[str, str]:
    return {site: info["fingerprint"] for site, info in record["sites"].items()}


def _versions(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Library -> every version used, so that a mixture shows."""
    found: dict[str, set[str]] = {}
    for record in records:
        for library, version in record["versions"].items():
            found.setdefault(library, set()).add(version or "not installed")
    return {library: ", ".join(sorted(versions)) for library, versions in sorted(found.items())}


def _differences(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, str]]:
    """Config key -> label -> value(s), for the keys in which the labels differ; the seed is no difference."""
    settings: dict[str, dict[str, str]] = {}
    for label, group in groups.items():
        for record in group:
            for key, value in flat(record["config"]).items():
                values = settings.setdefault(key, {})
                if key.rpartition(".")[2] != "seed" and value not in values.get(label, "").split(" / "):
                    values[label] = f"{values[label]} / {value}" if label in values else value
    return {
        key: values
        for key, values in sorted(settings.items())
        if values and len({values.get(label) for label in groups}) > 1
    }
