"""The summary of one run: the figures of the chosen models, the figures over all rounds, and what the run cost.

Works on the plain JSON object of result.json (docs/result-schema.md); formulas in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.evaluation.forgetting import inter_peak_forgetting
from consilia.evaluation.rounds import (
    evaluations,
    mean,
    pooled_accuracy,
    round_figures,
    scored_sites,
    site_mean,
    split_metrics,
    training_sites,
    worst,
)


def summarise(record: Mapping[str, Any]) -> dict[str, Any]:
    """Summary with keys ``last``, ``best`` (None if the record lacks it), ``over_rounds``, ``bytes``, ``seconds``.

    Accuracies, rates and AUROC are fractions, bytes are bytes, seconds are seconds; undefined values are None.
    """
    final = record["final"]
    return {
        "last": final_figures(record, final["last"]) if "last" in final else None,
        "best": final_figures(record, final["best"]) if "best" in final else None,
        "over_rounds": over_rounds(record),
        "bytes": _bytes(record["rounds"]),
        "seconds": _seconds(record),
    }


def final_figures(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one chosen version: G on the scored sites, L over the training sites' personal models.

    G (``global_accuracy``) sums counts over the evaluators' test cases, or over all sites' where there is no
    evaluator; balanced accuracy and AUROC are means over the same sites. L (``personal_accuracy``) is the unweighted
    mean over training sites. ``balance`` = (G + L) / 2. ``*_sites`` say over how many sites a mean runs.
    """
    trained = training_sites(record)
    tested = split_metrics(chosen["global"], scored_sites(record))
    own = split_metrics(chosen["personal"], trained)
    general, personal = pooled_accuracy(tested), site_mean(own, "accuracy")
    return {
        "version": chosen["version"],
        "global_accuracy": general,
        "global_balanced_accuracy": site_mean(tested, "balanced_accuracy"),
        "global_auroc": site_mean(tested, "auroc"),
        "global_sites": len(tested),
        "global_auroc_sites": _defined(tested, "auroc"),
        "personal_accuracy": personal,
        "personal_balanced_accuracy": site_mean(own, "balanced_accuracy"),
        "personal_auroc": site_mean(own, "auroc"),
        "personal_sites": len(own),
        "personal_auroc_sites": _defined(own, "auroc"),
        "worst_site": _named(worst(own)),
        "worst_site_global": _named(worst(split_metrics(chosen["global"], trained))),
        "balance": _balance(general, personal),
    }


def over_rounds(record: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the evaluated versions r >= 1, the way the paper's table is presumably made.

    L and the worst site here are over each round's participants only, with the model they were about to upload.
    """
    rows = [row for row in round_figures(record) if row["version"] >= 1]
    general = mean(row["global_accuracy"] for row in rows)
    personal = mean(row["personal_accuracy"] for row in rows)
    accuracies = [row["global_accuracy"] for row in rows if row["global_accuracy"] is not None]
    return {
        "versions": len(rows),
        "global_accuracy": general,
        "personal_accuracy": personal,
        "worst_accuracy": mean(row["worst_accuracy"] for row in rows),
        "balance": _balance(general, personal),
        "nfr_global": mean(row["nfr_global"] for row in rows),
        "nfr_personal": mean(row["nfr_personal"] for row in rows),
        "bwt": mean(row["bwt"] for row in rows),
        "consistency_global": inter_peak_forgetting(accuracies).consistency,
        "consistency_personal": _personal_consistency(record),
    }


def _personal_consistency(record: Mapping[str, Any]) -> float | None:
    """Consistency of each training site's personal accuracy over its own participations, averaged over sites."""
    by_version = [by_site for version, by_site in evaluations(record, "personal").items() if version >= 1]
    series: dict[str, list[float]] = {site: [] for site in training_sites(record)}
    for by_site in by_version:
        for site, metrics in split_metrics(by_site, series).items():
            series[site].append(metrics["accuracy"])
    return mean(inter_peak_forgetting(accuracies).consistency for accuracies in series.values())


def _bytes(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes per site and round (mean, max) and in all, each way."""
    figures: dict[str, Any] = {"total": 0}
    for way in ("down", "up"):
        sent = [size for part in rounds for size in part[f"bytes_{way}"].values()]
        figures[way] = {"mean": mean(sent), "max": max(sent, default=None), "total": sum(sent)}
        figures["total"] += sum(sent)
    return figures


def _seconds(record: Mapping[str, Any]) -> dict[str, Any]:
    """Wall clock of the run, and per phase the total and the mean over the rounds that had it."""
    phases: dict[str, list[float]] = {}
    for part in record["rounds"]:
        for phase, seconds in part["seconds"].items():
            phases.setdefault(phase, []).append(seconds)
    return {
        "run": record["run"]["seconds"],
        "phases": {phase: {"mean": mean(spent), "total": sum(spent)} for phase, spent in phases.items()},
    }


def _balance(general: float | None, personal: float | None) -> float | None:
    return None if general is None or personal is None else (general + personal) / 2


def _defined(metrics: Mapping[str, Mapping[str, Any]], key: str) -> int:
    return sum(part[key] is not None for part in metrics.values())


def _named(found: tuple[str, float] | None) -> dict[str, Any] | None:
    return {"site": found[0], "accuracy": found[1]} if found else None
