"""What the report of one run shows, gathered from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from consilia.evaluation.final_metrics import WEIGHTED
from consilia.evaluation.metrics import FINAL, VARIANTS, FinalMetric
from consilia.evaluation.rounds import (
    SETTINGS,
    mean,
    patients_of,
    primary,
    reported,
    scored_sites,
    split_metrics,
    test_only_sites,
    too_few,
    training_sites,
    value_of,
)
from consilia.evaluation.summary import ModelSummary, series, summarise
from consilia.record.metrics import PREDICTIONS, Unit
from consilia.record.schema import Metrics, PromptSetting, Record, SegmentationMetrics, SiteMetrics, SurvivalMetrics
from consilia.report import plots, plots_rounds, plots_sites
from consilia.report.format import flat
from consilia.report.over_rounds import learning
from consilia.report.plots_sites import SiteCurves
from consilia.report.site_table import DetailTable, commonest_share, detail_tables, interval_text, tested
from consilia.report.subject import data_set, has_global, sites_text, subject, whose_cases

NAMES = {"last": "last round", "best": "best by validation"}
NAMES_WITHOUT_ROUNDS = {"last": "final model", "best": "best by validation"}
Finals = Mapping[Literal["last", "best"], ModelSummary]


def run_page(record: Record) -> dict[str, Any]:
    """The values of the template ``run.html``."""
    every, task = series(record), record.run.task
    summary = summarise(record)
    finals = summary.finals
    sites = site_rows(record)
    names = NAMES if record.rounds else NAMES_WITHOUT_ROUNDS
    several = several_tasks(record)
    classified = task == "classification"
    details = detail_tables(record, last_models(record)) if classified and not several else []
    chosen = {names[name]: model.version for name, model in finals.items()}
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
        "test_only_sites": test_only_sites(record) if has_global(record) else [],
        "refusals": refusals(record),
        "max_update_norm": max_update_norm(record),
        "absences": record.absences,
        "client_rows": client_rows(record),
        "settings": flat(record.config),
        "subject": subject(record),
        "data_set": data_set(record),
        "training_text": sites_text(training_sites(record)),
        "tested_on": whose_cases(record),
        "details": details,
        "guessed": guessed(record) if details else {},
        "roc": plots_sites.roc(site_curves(record, details)),
        "reliability": plots_sites.reliability(site_curves(record, details), probability_of(record)),
        "learning": plots_rounds.learning(learning(record), chosen) if classified else None,
        "curves": plots.curves(every, chosen, task),
        "site_bars": plots.site_bars(sites, task),
        "missed": missed(record),
        "test_cases": sum(m.count for m in split_metrics(last_models(record)["global"], scored_sites(record)).values()),
        "segmented": [] if classified else segmented_rows(record),
        "followed": followed_rows(record),
        "plane": plots.plane(every, _points(finals, names)) if classified else None,
        "forgetting": plots.forgetting(every) if classified else None,
        "weights": plots.weights(training_sites(record), {"Weight": shares(record)}),
        "variants": variant_rows(record, finals, names),
        "tasks": record.class_names,
        "site_tasks": site_tasks(record),
        "site_metrics": site_metrics(record),
    }


def headline(record: Record, finals: Finals, *, complete: bool) -> list[FinalMetric]:
    """The metrics of the headline table; unless it is to be ``complete`` only those that some version has.

    A mean weighted by patients is that of several sites: of one it would say the same again.
    """
    found = {metric.name: [chosen.metrics[metric.name] for chosen in finals.values()] for metric in _final(record)}
    return [
        metric
        for metric in _final(record)
        if (complete or any(value.value is not None for value in found[metric.name]))
        and (not metric.name.endswith(WEIGHTED) or any((value.defined or 0) > 1 for value in found[metric.name]))
    ]


def _final(record: Record) -> list[FinalMetric]:
    return FINAL.of(record.run.task)


def site_rows(record: Record) -> list[dict[str, Any]]:
    """Per site: cases per split and the metrics of the last version's global and personal model."""
    last = last_models(record)
    rows = []
    for site, info in sorted(record.sites.items(), key=lambda item: (item[1].test_only, item[0])):
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


def guessed(record: Record) -> dict[str, float]:
    """What always giving the commoner class is worth, by the name of the accuracy that it stands beside."""
    by_kind = last_models(record)
    own = tested(by_kind["personal"], training_sites(record))
    found = {
        "global_accuracy": commonest_share(list(tested(by_kind["global"], scored_sites(record)).values())),
        "personal_accuracy": mean(commonest_share([metrics]) for metrics in own.values()),
    }
    return {name: value for name, value in found.items() if value is not None}


def site_curves(record: Record, tables: Sequence[DetailTable]) -> list[SiteCurves]:
    """The curves of every site, of both kinds of model; in brackets its test patients and positives."""
    lines: dict[str, list[Any]] = {}
    titles = {}
    for table in tables:
        for row in table.rows:
            positives = "" if row.metrics.positives is None else f", {row.metrics.positives} {record.class_names[1]}"
            titles[row.site] = f"{row.site}\n({row.patients} patients{positives})"
            if row.metrics.curves is not None:
                style = plots_sites.STYLES[table.kind]
                lines.setdefault(row.site, []).append((f"{table.kind} model", style, row.metrics.curves))
    return [SiteCurves(titles[site], found) for site, found in lines.items()]


def probability_of(record: Record) -> str:
    """Whose probability a reliability plot shows: of two classes that of class 1, of more that of the answer."""
    return record.class_names[1] if len(record.class_names) == 2 else "the right answer"


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
                        "patients": metrics.patients,
                        "intervals": _prompt_intervals(metrics, setting),
                    }
                    for setting in SETTINGS
                    if setting in metrics.prompts
                ]
    return rows


def followed_rows(record: Record) -> list[dict[str, Any]]:
    """One row per site and model of the last version of a survival."""
    last = last_models(record)
    return [
        {
            **{"site": site, "kind": kind, "patients": patients_of(metrics), "few": too_few(metrics)},
            **{name: getattr(metrics, name) for name in ("count", "events", "c_index", "loss")},
            "interval": interval_text(metrics, "c_index", "score"),
        }
        for site in sorted(record.sites)
        for kind, by_site in last.items()
        if isinstance(metrics := split_metrics(by_site, [site]).get(site), SurvivalMetrics)
    ]


def _prompt_intervals(metrics: SegmentationMetrics, setting: PromptSetting) -> dict[str, str]:
    """The intervals of one prompt setting as text, by metric; of the missed cases in per cent."""
    units: dict[str, Unit] = {metric.name: metric.unit for metric in PREDICTIONS.of("segmentation")}
    found = {name: interval_text(metrics, f"{setting}.{name}", unit) for name, unit in units.items()}
    if (share := interval_text(metrics, f"{setting}.missed", "percent")) is not None:
        found["missed"] = f"{share}\u00a0%"
    return {name: text for name, text in found.items() if text is not None}


def missed(record: Record) -> dict[str, str]:
    """By prompt setting, in how many cases the last version's global model found nothing where there is something."""
    found = split_metrics(last_models(record)["global"], scored_sites(record)).values()
    tested_on = [metrics for metrics in found if isinstance(metrics, SegmentationMetrics)]
    counts = {
        setting: [(one.prompts[setting].missed, one.count - one.empty) for one in tested_on if setting in one.prompts]
        for setting in SETTINGS
    }
    return {
        setting: f"missed {sum(none for none, _ in by_site)} of {sum(cases for _, cases in by_site)} cases"
        for setting, by_site in counts.items()
        if by_site
    }


def variant_rows(record: Record, finals: Finals, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per chosen version, variant of it that was evaluated, and metric."""
    return [
        {
            "version": names[name],
            "variant": key.replace("_", " "),
            "sites": variant.sites,
            "metric": metric,
            "value": value,
            "difference": difference,
            "whole": value - difference,
        }
        for name, chosen in finals.items()
        for key, variant in chosen.variants.items()
        for metric in VARIANTS.of(record.run.task)
        if (difference := variant.differences[metric.name]) is not None
        and (value := variant.metrics[metric.name]) is not None
    ]


def several_tasks(record: Record) -> bool:
    """Whether the run trained several datasets together, or nothing at any site."""
    return not record.sites or any(info.tasks for info in record.sites.values())


def site_tasks(record: Record) -> dict[str, dict[str, int]]:
    """Training cases by site and dataset, of the sites that name any."""
    return {site: info.tasks for site, info in sorted(record.sites.items()) if info.tasks}


def site_metrics(record: Record) -> list[dict[str, Any]]:
    """One row per site and dataset: the last version's global model on the site's own test cases."""
    tested = split_metrics(last_models(record)["global"], sorted(record.sites))
    return [
        {"site": site, "task": task, **found.model_dump()}
        for site, metrics in tested.items()
        if isinstance(metrics, Metrics)
        for task, found in sorted(metrics.tasks.items())
    ]


def shares(record: Record) -> dict[str, dict[int, float]]:
    """Each site's share of the aggregate, by site and round."""
    found: dict[str, dict[int, float]] = {}
    for part in record.rounds:
        for site, contribution in part.contributions.items():
            found.setdefault(site, {})[part.round] = contribution.weight
    return found


def client_rows(record: Record) -> list[dict[str, Any]]:
    """Per training site: rounds with an accepted update, and means over them of its share and of what it reported."""
    fields = {name: by_round for name in record.fields if (by_round := reported(record, name))}
    weights = shares(record)
    return [
        {
            "site": site,
            "samples": record.sites[site].train,
            "rounds": len(weights.get(site, {})),
            "weight": mean(weights.get(site, {}).values()),
            "fields": {
                name: mean(by_site.get(site) for by_site in by_round.values()) for name, by_round in fields.items()
            },
        }
        for site in training_sites(record)
    ]


def refusals(record: Record) -> list[dict[str, Any]]:
    """Refused and missing updates, in round order."""
    found = []
    for part in record.rounds:
        refused = [{"site": site, "reason": reason} for site, reason in sorted(part.refused.items())]
        missing = [{"site": site, "reason": "no update arrived"} for site in sorted(part.missing)]
        found += [{"round": part.round, **one} for one in refused + missing]
    return found


def max_update_norm(record: Record) -> tuple[float, float] | None:
    """The smallest and the largest norm that was allowed to an update's change in a round; None where any was."""
    found = [part.max_update_norm for part in record.rounds if part.max_update_norm is not None]
    return (min(found), max(found)) if found else None


def _points(finals: Finals, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    found = {
        names[name]: (chosen.numbers["global_accuracy"], chosen.numbers["personal_accuracy"])
        for name, chosen in finals.items()
    }
    return {name: (x, y) for name, (x, y) in found.items() if x is not None and y is not None}
