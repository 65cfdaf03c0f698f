"""What the report of one run shows, gathered from its plain record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilia.core.task import Task
from consilia.evaluation.figures import ABLATION, FINAL, Figure
from consilia.evaluation.rounds import SETTINGS, individuality, merit, round_figures, task_of, training_sites
from consilia.evaluation.summary import summarise
from consilia.report import plots
from consilia.report.format import flat
from consilia.report.injection_page import injection_values, several_tasks

EPSILON = 1e-6  # s_k = a_k (d_k + 1e-6), specification of FedKPer, 3.1
NAMES = {"last": "last round", "best": "best by validation"}
NAMES_WITHOUT_ROUNDS = {"last": "final model", "best": "best by validation"}


def run_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the template ``run.html``."""
    rows, task = round_figures(record), task_of(record)
    summary = summarise(record)
    finals = {name: summary[name] for name in ("last", "best") if summary[name]}
    sites = site_rows(record)
    panels = weight_panels(record)
    names = NAMES if record["rounds"] else NAMES_WITHOUT_ROUNDS
    several = several_tasks(record)
    return {
        "record": record,
        "run": record["run"],
        "task": task,
        "section": "multitask" if several else task,
        "FINAL": headline(finals, task, complete=task == "classification" and not several),
        "summary": summary,
        "finals": finals,
        "names": names,
        "sites": sites,
        "training": training_sites(record),
        "evaluators": sorted(site for site, info in record["sites"].items() if info["evaluator"]),
        "refusals": refusals(record),
        "client_rows": client_rows(record, panels),
        "settings": flat(record["config"]),
        "curves": plots.curves(rows, {names[name]: figures["version"] for name, figures in finals.items()}, task),
        "site_bars": plots.site_bars(sites, task),
        "segmented": segmented_rows(record) if task == "segmentation" else [],
        "plane": plots.plane(rows, _points(finals, names)) if task == "classification" else None,
        "forgetting": plots.forgetting(rows) if task == "classification" else None,
        "weights": plots.weights(training_sites(record), panels),
        "panels": {title: bool(values) for title, values in panels.items()},
        **prompt_values(record, finals, names),
        **(injection_values(record) if several else {}),
    }


def headline(finals: Mapping[str, Mapping[str, Any]], task: Task, *, complete: bool) -> list[Figure]:
    """The figures of the headline table; unless it is to be ``complete`` only those that some version has."""

    def has(figure: Figure) -> bool:
        place, _, part = figure.key.partition(".")
        return any((chosen[place] or {}).get(part) if part else chosen[place] is not None for chosen in finals.values())

    return [figure for figure in FINAL[task] if complete or has(figure)]


def site_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per site: cases per split and the figures of the last version's global and personal model."""
    last = record["final"].get("last", {"global": {}, "personal": {}})
    rows = []
    for site, info in sorted(record["sites"].items(), key=lambda item: (item[1]["evaluator"], item[0])):
        row = {"site": site, **info}
        for kind in ("global", "personal"):
            metrics = last[kind].get(site, {}).get("test") or {}
            row[kind] = merit(metrics) if metrics else None
            row[f"{kind}_auroc"] = metrics.get("auroc")
        rows.append(row)
    return rows


def segmented_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per site, model of the last version and prompt setting that was evaluated on the site's test cases."""
    last = record["final"].get("last", {"global": {}, "personal": {}})
    rows = []
    for site in sorted(record["sites"]):
        for kind in ("global", "personal"):
            metrics = last[kind].get(site, {}).get("test")
            for setting in SETTINGS if metrics else ():
                if setting in metrics["prompts"]:
                    shared = {"site": site, "kind": kind, "setting": setting}
                    cases = {key: metrics[key] for key in ("count", "empty", "unit")}
                    rows.append({**shared, **cases, **metrics["prompts"][setting]})
    return rows


def prompt_values(
    record: Mapping[str, Any], finals: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, Any]:
    """What Fed-GPL's section shows: the individuality ratio by round and site, and the ablation of the query."""
    from consilia.report.plots_prompts import individuality as drawing

    by_round = individuality(record)
    by_site: dict[str, dict[int, float]] = {}
    for number, ratios in by_round.items():
        for site, value in ratios.items():
            by_site.setdefault(site, {})[number] = value
    means = {number: sum(ratios.values()) / len(ratios) for number, ratios in by_round.items()}
    ablation = [
        {
            "version": names[name],
            "sites": ablated["sites"],
            "figure": figure,
            "without": ablated[figure.key],
            "difference": ablated[f"{figure.key}_difference"],
            "whole": ablated[figure.key] - ablated[f"{figure.key}_difference"],
        }
        for name, figures in finals.items()
        if (ablated := figures["mean_query"]) is not None
        for figure in ABLATION[task_of(record)]
        if ablated[f"{figure.key}_difference"] is not None
    ]
    return {
        "individuality": drawing(by_site, means),
        "individual_sites": {
            site: [ratios[min(ratios)], ratios[max(ratios)]] for site, ratios in sorted(by_site.items())
        },
        "ablation": ablation,
    }


def weight_panels(record: Mapping[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """Title -> site -> round -> value: the weights, and FedKPer's reliability a_k and diversity d_k behind them."""
    weight: dict[str, dict[int, float]] = {}
    reliability: dict[str, dict[int, float]] = {}
    diversity: dict[str, dict[int, float]] = {}
    fedkper = _scored_by_training(record)
    for part in record["rounds"]:
        for site, contribution in part["contributions"].items():
            number, score, right = part["round"], contribution["score"], contribution["train_accuracy"]
            weight.setdefault(site, {})[number] = contribution["weight"]
            if fedkper and right is not None:
                reliability.setdefault(site, {})[number] = right
                if right > 0 and score is not None:
                    diversity.setdefault(site, {})[number] = min(max(score / right - EPSILON, 0.0), 1.0)
    return {"Weight": weight, "Reliability": reliability, "Diversity": diversity}


def _scored_by_training(record: Mapping[str, Any]) -> bool:
    """Whether a score is train accuracy x diversity; with reliability from validation it cannot be taken apart."""
    settings = flat(record["config"])
    chosen = [value for key, value in settings.items() if key.rpartition(".")[2] == "reliability"]
    return record["run"]["method"] == "fedkper" and all(value == "train" for value in chosen)


def client_rows(
    record: Mapping[str, Any], panels: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> list[dict[str, Any]]:
    """Per training site: rounds with an accepted update, and the means over them of what the panels show."""
    rows = []
    for site in training_sites(record):
        row: dict[str, Any] = {"site": site, "rounds": len(panels["Weight"].get(site, {}))}
        row["samples"] = record["sites"][site]["train"]
        for title, values in panels.items():
            found = list(values.get(site, {}).values())
            row[title] = sum(found) / len(found) if found else None
        rows.append(row)
    return rows


def refusals(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Refused and missing updates, in round order."""
    found = []
    for part in record["rounds"]:
        refused = [{"site": site, "reason": reason} for site, reason in sorted(part["refused"].items())]
        missing = [{"site": site, "reason": "no update arrived"} for site in sorted(part["missing"])]
        found += [{"round": part["round"], **one} for one in refused + missing]
    return found


def _points(finals: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    return {
        names[name]: (figures["global_accuracy"], figures["personal_accuracy"])
        for name, figures in finals.items()
        if figures["balance"] is not None
    }
