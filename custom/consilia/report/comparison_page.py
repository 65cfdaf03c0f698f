"""What the comparison of several runs shows, gathered from their plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.evaluation.compare import comparison_table, group_by_label
from consilia.evaluation.rounds import mean, round_figures
from consilia.report import plots_compare
from consilia.report.format import YARDSTICKS, flat


def comparison_page(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of the template ``comparison.html``; the figures are those of the last version."""
    rows = comparison_table(records)
    groups = group_by_label(records)
    methods = [row for row in rows if row["method"] not in YARDSTICKS]
    yardsticks = [row for row in rows if row["method"] in YARDSTICKS]
    levels = {row["label"]: {kind: _last(row, kind)[0] for kind in ("global", "personal")} for row in yardsticks}
    runs = {row["label"]: [round_figures(record) for record in groups[row["label"]]] for row in methods}
    points = {row["label"]: {kind: _last(row, kind) for kind in ("global", "personal")} for row in methods}
    names = sorted({site for record in records for site in record["sites"]})
    by_site = {row["label"]: _by_site(groups[row["label"]], names) for row in methods or yardsticks}
    return {
        "records": records,
        "rows": rows,
        "methods": methods,
        "yardsticks": yardsticks,
        "sites": sorted(names),
        "same_data": len({tuple(sorted(_fingerprints(record).items())) for record in records}) == 1,
        "fingerprints": _fingerprints(records[0]),
        "versions": _versions(records),
        "differences": _differences(groups),
        "curves": plots_compare.curves(runs, levels),
        "plane": plots_compare.plane(points, levels),
        "site_bars": plots_compare.sites(names, by_site),
    }


def _last(row: Mapping[str, Any], kind: str) -> tuple[float | None, float | None]:
    """Mean and sd over seeds of G or L of the last version."""
    figure = row["figures"].get(f"last.{kind}_accuracy", {"mean": None, "sd": None})
    return figure["mean"], figure["sd"]


def _by_site(group: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """kind -> site -> accuracy of the last version, averaged over seeds."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in ("global", "personal"):
        finals = [record["final"]["last"][kind] for record in group if "last" in record["final"]]
        found[kind] = {
            site: mean((final.get(site, {}).get("test") or {}).get("accuracy") for final in finals) for site in names
        }
    return found


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
