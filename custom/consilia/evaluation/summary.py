"""The summary of one run: the figures of the chosen models, the figures over all rounds, and what the run cost.

Works on the plain JSON object of result.json (docs/result-schema.md); formulas in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consilia.evaluation.forgetting import inter_peak_forgetting
from consilia.evaluation.rounds import (
    SETTINGS,
    evaluations,
    individuality,
    mean,
    merit_mean,
    pooled_accuracy,
    prompted,
    round_figures,
    rounds_to_within,
    scored_sites,
    site_mean,
    split_metrics,
    task_of,
    training_sites,
    worst,
)

ELEMENT_BYTES = {"float32": 4, "float16": 2}


def summarise(record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run, undefined ones None; accuracies, rates, AUROC, Dice and IoU are fractions.

    Keys: ``last``, ``best`` (None if the record lacks it), ``over_rounds``, ``bytes``, ``seconds``, and
    ``individuality``: Fed-GPL's ratio in the ``first`` and the ``last`` round that have one, as means over sites.
    """
    final = record["final"]
    segmented = task_of(record) == "segmentation"
    figures = segmentation_figures if segmented else final_figures
    individual = [mean(by_site.values()) for _, by_site in sorted(individuality(record).items())] or [None]
    return {
        "last": figures(record, final["last"]) if "last" in final else None,
        "best": figures(record, final["best"]) if "best" in final else None,
        "over_rounds": segmentation_over_rounds(record) if segmented else over_rounds(record),
        "individuality": {"first": individual[0], "last": individual[-1]},
        "bytes": {**_bytes(record["rounds"]), "exchange": _exchange(record.get("exchange"))},
        "seconds": _seconds(record),
    }


def final_figures(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one chosen version: G on the scored sites, L over the training sites' personal models.

    G (``global_accuracy``) sums counts over the evaluators' test cases, or over all sites' where there is no
    evaluator; balanced accuracy and AUROC are means over the same sites. L (``personal_accuracy``) is the unweighted
    mean over training sites. ``balance`` = (G + L) / 2. ``*_sites`` say over how many sites a mean runs. For
    ``mean_query`` see :func:`_mean_query`.
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
        "worst_site": _named(worst(own), "accuracy"),
        "worst_site_global": _named(worst(split_metrics(chosen["global"], trained)), "accuracy"),
        "balance": _balance(general, personal),
        "mean_query": _mean_query(record, chosen),
    }


def segmentation_figures(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one chosen version of a segmentation, each the unweighted mean over sites where it is defined.

    ``global_<figure>_<setting>`` over the scored sites, ``personal_...`` over the training sites' personal models;
    figures are dice, iou and hd95, settings are box, image and jitter. HD95 is None where the sites' units differ;
    ``hd95_unit`` is px, mm, mixed, or None without a site. ``balance`` and the worst sites go by Dice, true box.
    """
    trained = training_sites(record)
    tested = split_metrics(chosen["global"], scored_sites(record))
    own = split_metrics(chosen["personal"], trained)
    units = sorted({part["unit"] for part in (*tested.values(), *own.values())})
    figures: dict[str, Any] = {"version": chosen["version"]}
    for kind, metrics in (("global", tested), ("personal", own)):
        for figure in ("dice", "iou", "hd95"):
            for setting in SETTINGS:
                value = mean(prompted(part, figure, setting) for part in metrics.values())
                figures[f"{kind}_{figure}_{setting}"] = None if figure == "hd95" and len(units) > 1 else value
        figures[f"{kind}_sites"] = len(metrics)
    return {
        **figures,
        "hd95_unit": "mixed" if len(units) > 1 else next(iter(units), None),
        "worst_site": _named(worst(own), "dice"),
        "worst_site_global": _named(worst(split_metrics(chosen["global"], trained)), "dice"),
        "balance": _balance(merit_mean(tested), merit_mean(own)),
        "mean_query": _mean_query(record, chosen),
    }


def _mean_query(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fed-GPL's ablation on the sites that have it, and what it changes there; None where it was not tried.

    Keys: ``sites``; per figure (accuracy and auroc, or dice_box, dice_image and dice_jitter) its value with the query
    replaced by its mean, and ``<figure>_difference``, that value less the one of the whole generator: below 0 the
    personal part of the prompts helps.
    """
    ablated = split_metrics(chosen.get("mean_query", {}), training_sites(record))
    whole = split_metrics(chosen["global"], ablated)
    ablated = {site: ablated[site] for site in whole}
    if not ablated:
        return None
    if task_of(record) == "segmentation":
        pairs = {
            f"dice_{setting}": [mean(prompted(part, "dice", setting) for part in m.values()) for m in (ablated, whole)]
            for setting in SETTINGS
        }
    else:
        pairs = {
            "accuracy": [pooled_accuracy(ablated), pooled_accuracy(whole)],
            "auroc": [site_mean(ablated, "auroc"), site_mean(whole, "auroc")],
        }
    found: dict[str, Any] = {"sites": len(ablated)}
    for key, (without, full) in pairs.items():
        found[key] = without
        found[f"{key}_difference"] = None if without is None or full is None else without - full
    return found


def over_rounds(record: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the evaluated versions r >= 1, the way the paper's table is presumably made.

    L and the worst site here are over each round's participants only, with the model they were about to upload.
    ``rounds_to_within_1_percent`` is the first version from which on the global AUROC stays within 0.01 of the last's.
    """
    every = round_figures(record)
    rows = [row for row in every if row["version"] >= 1]
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
        "rounds_to_within_1_percent": rounds_to_within({row["version"]: row["global_auroc"] for row in every}),
    }


def segmentation_over_rounds(record: Mapping[str, Any]) -> dict[str, Any]:
    """Means of Dice (true box) over the evaluated versions r >= 1; the last key goes by the global Dice."""
    every = round_figures(record)
    rows = [row for row in every if row["version"] >= 1]
    general, personal = mean(row["global_dice"] for row in rows), mean(row["personal_dice"] for row in rows)
    return {
        "versions": len(rows),
        "global_dice": general,
        "personal_dice": personal,
        "worst_dice": mean(row["worst_dice"] for row in rows),
        "balance": _balance(general, personal),
        "rounds_to_within_1_percent": rounds_to_within({row["version"]: row["global_dice"] for row in every}),
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


def _exchange(exchange: Mapping[str, Any] | None) -> dict[str, int] | None:
    """What a site and round costs each way at least (``floor``), and for the whole model in float32 (``full``)."""
    if exchange is None:
        return None
    return {
        "parameters": exchange["parameters"],
        "all_parameters": exchange["all_parameters"],
        "floor": ELEMENT_BYTES[exchange["dtype"]] * exchange["parameters"],
        "full": ELEMENT_BYTES["float32"] * exchange["all_parameters"],
    }


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


def _named(found: tuple[str, float] | None, figure: str) -> dict[str, Any] | None:
    return {"site": found[0], figure: found[1]} if found else None
