"""What the report of one run shows, gathered from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from consilia.evaluation.metrics import FINAL, VARIANTS, FinalMetric
from consilia.evaluation.rounds import (
    SETTINGS,
    mean,
    primary,
    reported,
    split_metrics,
    test_only_sites,
    training_sites,
    value_of,
)
from consilia.evaluation.summary import ModelSummary, series, summarise
from consilia.record.schema import Metrics, Record, SegmentationMetrics, SiteMetrics
from consilia.report import plots
from consilia.report.format import flat
from consilia.report.injection_page import injection_values, several_tasks

EPSILON = 1e-6  # s_k = a_k (d_k + 1e-6), specification of FedKPer, 3.1
NAMES = {"last": "last round", "best": "best by validation"}
NAMES_WITHOUT_ROUNDS = {"last": "final model", "best": "best by validation"}
Finals = Mapping[Literal["last", "best"], ModelSummary]
Panels = Mapping[str, Mapping[str, Mapping[int, float]]]


def run_page(record: Record) -> dict[str, Any]:
    """The values of the template ``run.html``."""
    every, task = series(record), record.run.task
    summary = summarise(record)
    finals = summary.finals
    sites = site_rows(record)
    panels = weight_panels(record)
    names = NAMES if record.rounds else NAMES_WITHOUT_ROUNDS
    several = several_tasks(record)
    classified = task == "classification"
    return {
        "record": record,
        "run": record.run,
        "task": task,
        "section": "multitask" if several else task,
        "headline": headline(record, finals, complete=classified and not several),
        "summary": summary,
        "finals": finals,
        "names": names,
        "sites": sites,
        "training": training_sites(record),
        "evaluators": test_only_sites(record),
        "refusals": refusals(record),
        "client_rows": client_rows(record, panels),
        "settings": flat(record.config),
        "curves": plots.curves(every, {names[name]: chosen.version for name, chosen in finals.items()}, task),
        "site_bars": plots.site_bars(sites, task),
        "segmented": [] if classified else segmented_rows(record),
        "plane": plots.plane(every, _points(finals, names)) if classified else None,
        "forgetting": plots.forgetting(every) if classified else None,
        "weights": plots.weights(training_sites(record), panels),
        "panels": {title: bool(values) for title, values in panels.items()},
        **prompt_values(record, finals, names),
        **(injection_values(record) if several else {}),
    }


def headline(record: Record, finals: Finals, *, complete: bool) -> list[FinalMetric]:
    """The metrics of the headline table; unless it is to be ``complete`` only those that some version has."""
    return [
        metric
        for metric in FINAL.of(record.run.task)
        if complete or any(chosen.numbers[metric.name] is not None for chosen in finals.values())
    ]


def site_rows(record: Record) -> list[dict[str, Any]]:
    """Per site: cases per split and the metrics of the last version's global and personal model."""
    last = last_models(record)
    rows = []
    for site, info in sorted(record.sites.items(), key=lambda item: (item[1].evaluator, item[0])):
        row = {"site": site, **info.model_dump()}
        for kind, by_site in last.items():
            metrics = split_metrics(by_site, [site]).get(site)
            row[kind] = None if metrics is None else primary(metrics)
            row[f"{kind}_auroc"] = value_of(metrics, "auroc") if isinstance(metrics, Metrics) else None
        rows.append(row)
    return rows


def last_models(record: Record) -> dict[str, dict[str, SiteMetrics]]:
    """The metrics of the last version by kind of model and site; empty where the record has none."""
    last = record.final.get("last")
    return {"global": last.global_ if last else {}, "personal": last.personal if last else {}}


def segmented_rows(record: Record) -> list[dict[str, Any]]:
    """One row per site, model of the last version and prompt setting that was evaluated on the site's test cases."""
    last = last_models(record)
    rows: list[dict[str, Any]] = []
    for site in sorted(record.sites):
        for kind, by_site in last.items():
            metrics = split_metrics(by_site, [site]).get(site)
            if isinstance(metrics, SegmentationMetrics):
                rows += [
                    {
                        **{"site": site, "kind": kind, "setting": setting},
                        **{"count": metrics.count, "empty": metrics.empty, "unit": metrics.unit},
                        **metrics.prompts[setting].model_dump(),
                    }
                    for setting in SETTINGS
                    if setting in metrics.prompts
                ]
    return rows


def prompt_values(record: Record, finals: Finals, names: Mapping[str, str]) -> dict[str, Any]:
    """What Fed-GPL's section shows: the individuality ratio by round and site, and the mean-prompt ablation."""
    from consilia.report.plots_prompts import individuality as drawing

    by_round = reported(record, "prompt_diversity")
    by_site: dict[str, dict[int, float]] = {}
    for number, ratios in by_round.items():
        for site, ratio in ratios.items():
            by_site.setdefault(site, {})[number] = ratio
    means = {number: sum(ratios.values()) / len(ratios) for number, ratios in by_round.items()}
    ablation = [
        {
            "version": names[name],
            "sites": variant.sites,
            "metric": metric,
            "without": value,
            "difference": difference,
            "whole": value - difference,
        }
        for name, chosen in finals.items()
        for variant in chosen.variants.values()
        for metric in VARIANTS.of(record.run.task)
        if (difference := variant.differences[metric.name]) is not None
        and (value := variant.metrics[metric.name]) is not None
    ]
    return {
        "individuality": drawing(by_site, means),
        "individual_sites": {
            site: [ratios[min(ratios)], ratios[max(ratios)]] for site, ratios in sorted(by_site.items())
        },
        "ablation": ablation,
    }


def weight_panels(record: Record) -> dict[str, dict[str, dict[int, float]]]:
    """Title -> site -> round -> value: the weights, and FedKPer's reliability a_k and diversity d_k behind them."""
    weight: dict[str, dict[int, float]] = {}
    reliability: dict[str, dict[int, float]] = {}
    diversity: dict[str, dict[int, float]] = {}
    fedkper = _scored_by_training(record)
    for part in record.rounds:
        for site, contribution in part.contributions.items():
            number, fields = part.round, contribution.fields
            score, correct = fields.get("weight"), fields.get("train_accuracy")
            weight.setdefault(site, {})[number] = contribution.weight
            if fedkper and correct is not None:
                reliability.setdefault(site, {})[number] = correct
                if correct > 0 and score is not None:
                    diversity.setdefault(site, {})[number] = min(max(score / correct - EPSILON, 0.0), 1.0)
    return {"Weight": weight, "Reliability": reliability, "Diversity": diversity}


def _scored_by_training(record: Record) -> bool:
    """Whether a score is train accuracy x diversity; with reliability from validation it cannot be taken apart."""
    settings = flat(record.config)
    chosen = [value for key, value in settings.items() if key.rpartition(".")[2] == "reliability"]
    return record.run.method == "fedkper" and all(value == "train" for value in chosen)


def client_rows(record: Record, panels: Panels) -> list[dict[str, Any]]:
    """Per training site: rounds with an accepted update, and means over them of what it reported and panels show."""
    rows = []
    fields = {name: by_round for name in record.fields if (by_round := reported(record, name))}
    for site in training_sites(record):
        row: dict[str, Any] = {"site": site, "rounds": len(panels["Weight"].get(site, {}))}
        row["samples"] = record.sites[site].train
        row["fields"] = {
            name: mean(by_site.get(site) for by_site in by_round.values()) for name, by_round in fields.items()
        }
        for title, values in panels.items():
            found = list(values.get(site, {}).values())
            row[title] = sum(found) / len(found) if found else None
        rows.append(row)
    return rows


def refusals(record: Record) -> list[dict[str, Any]]:
    """Refused and missing updates, in round order."""
    found = []
    for part in record.rounds:
        refused = [{"site": site, "reason": reason} for site, reason in sorted(part.refused.items())]
        missing = [{"site": site, "reason": "no update arrived"} for site in sorted(part.missing)]
        found += [{"round": part.round, **one} for one in refused + missing]
    return found


def _points(finals: Finals, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    found = {
        names[name]: (chosen.numbers["global_accuracy"], chosen.numbers["personal_accuracy"])
        for name, chosen in finals.items()
    }
    return {name: (x, y) for name, (x, y) in found.items() if x is not None and y is not None}
