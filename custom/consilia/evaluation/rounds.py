"""Figures per version of the global model, read from a run's record (the plain JSON object of result.json).

Version r is the global model after round r. "Personal" at version r means the models that round r's participants had
trained before they were aggregated. A figure that cannot be formed is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from consilia.evaluation.forgetting import backward_transfer

Metrics = Mapping[str, Any]
BySite = Mapping[str, Mapping[str, Metrics | None]]


def mean(values: Iterable[float | None]) -> float | None:
    """Plain mean of the defined values; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def training_sites(record: Mapping[str, Any]) -> list[str]:
    """The sites that train, in name order."""
    return sorted(site for site, info in record["sites"].items() if not info["evaluator"])


def scored_sites(record: Mapping[str, Any]) -> list[str]:
    """The sites on which the global model is scored: the evaluators if there are any, else all."""
    evaluators = sorted(site for site, info in record["sites"].items() if info["evaluator"])
    return evaluators or training_sites(record)


def split_metrics(by_site: BySite, sites: Iterable[str], split: str = "test") -> dict[str, Metrics]:
    """Metrics of one split for those of ``sites`` that have it."""
    found = {site: by_site[site][split] for site in sites if site in by_site}
    return {site: metrics for site, metrics in found.items() if metrics is not None}


def pooled_accuracy(metrics: Mapping[str, Metrics]) -> float | None:
    """Correct cases over all cases, summed over sites: a large site counts for more."""
    count = sum(part["count"] for part in metrics.values())
    return sum(part["correct"] for part in metrics.values()) / count if count else None


def site_mean(metrics: Mapping[str, Metrics], key: str) -> float | None:
    """Unweighted mean of one figure over the sites where it is defined."""
    return mean(part[key] for part in metrics.values())


def worst(metrics: Mapping[str, Metrics]) -> tuple[str, float] | None:
    """The site with the lowest accuracy (the first by name on a tie) and that accuracy."""
    ranked = sorted((part["accuracy"], site) for site, part in metrics.items())
    return (ranked[0][1], ranked[0][0]) if ranked else None


def evaluations(record: Mapping[str, Any], model: str) -> dict[int, BySite]:
    """Evaluations of one kind (``global`` or ``personal``), by version in ascending order."""
    by_version: dict[int, dict[str, Any]] = {}
    for evaluation in record["evaluations"]:
        if evaluation["model"] == model:
            by_version.setdefault(evaluation["version"], {}).update(evaluation["sites"])
    return dict(sorted(by_version.items()))


def flip_rates(record: Mapping[str, Any], model: str) -> dict[int, float]:
    """NFR per version r >= 1: negative flips over test cases, both summed over the sites scored at that version.

    A site's first evaluation has nothing to forget and counts with 0 flips, as in the authors' code. Empty for a record
    without federated rounds (a yardstick), whose sites count no flips.
    """
    if not record["rounds"]:
        return {}
    sites = scored_sites(record) if model == "global" else training_sites(record)
    rates: dict[int, float] = {}
    seen: set[str] = set()
    for version, by_site in evaluations(record, model).items():
        metrics = split_metrics(by_site, sites)
        known = {site: part for site, part in metrics.items() if part["negative_flips"] is not None or site not in seen}
        seen.update(metrics)
        count = sum(part["count"] for part in known.values())
        if version >= 1 and count:
            rates[version] = sum(part["negative_flips"] or 0 for part in known.values()) / count
    return rates


def transfer(record: Mapping[str, Any]) -> dict[int, float]:
    """BwT per version, from the global model's accuracy on every training site's test cases; empty for a yardstick."""
    if not record["rounds"]:
        return {}
    sites = training_sites(record)
    accuracy = {
        version: {site: part["accuracy"] for site, part in split_metrics(by_site, sites).items()}
        for version, by_site in evaluations(record, "global").items()
    }
    return backward_transfer(accuracy, {part["round"]: part["participants"] for part in record["rounds"]})


def round_figures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per evaluated version, in order.

    Keys: ``version``; ``global_accuracy`` and ``validation_accuracy`` (global model, pooled over the scored sites' test
    and over all sites' validation cases); ``personal_accuracy`` and ``worst_accuracy`` (mean and lowest over the
    round's participants); ``nfr_global``, ``nfr_personal``, ``bwt``. None where there is no such evaluation.
    """
    whole, personal = evaluations(record, "global"), evaluations(record, "personal")
    flips_global, flips_personal, bwt = flip_rates(record, "global"), flip_rates(record, "personal"), transfer(record)
    rows = []
    for version in sorted({*whole, *personal}):
        tested = split_metrics(whole.get(version, {}), scored_sites(record))
        validated = split_metrics(whole.get(version, {}), record["sites"], "validation")
        own = split_metrics(personal.get(version, {}), training_sites(record))
        lowest = worst(own)
        rows.append(
            {
                "version": version,
                "global_accuracy": pooled_accuracy(tested),
                "validation_accuracy": pooled_accuracy(validated),
                "personal_accuracy": site_mean(own, "accuracy"),
                "worst_accuracy": lowest[1] if lowest else None,
                "nfr_global": flips_global.get(version),
                "nfr_personal": flips_personal.get(version),
                "bwt": bwt.get(version),
            }
        )
    return rows
