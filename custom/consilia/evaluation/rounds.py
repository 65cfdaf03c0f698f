"""Figures per version of the global model, read from a run's record (the plain JSON object of result.json).

Version r is the global model after round r. "Personal" at version r means the models that round r's participants had
trained before they were aggregated. A figure that cannot be formed is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from consilia.core.task import Task
from consilia.evaluation.forgetting import backward_transfer

TASKS: tuple[Task, ...] = get_args(Task)
Metrics = Mapping[str, Any]
BySite = Mapping[str, Mapping[str, Metrics | None]]

SETTINGS = ("box", "image", "jitter")
"""What prompts a segmentation: the true box, the whole image, the true box jittered."""
MERIT: dict[Task, str] = {"classification": "accuracy", "segmentation": "dice"}
"""The one figure by which models are ranked and drawn."""


def task_of(record: Mapping[str, Any]) -> Task:
    """The task of a run; records from before there were two are of classification."""
    task: Task = record["run"].get("task", "classification")
    return task


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


def prompted(metrics: Metrics, figure: str, setting: str) -> float | None:
    """One figure (``dice``, ``iou``, ``hd95``) of a segmentation under one prompt setting; None if not evaluated."""
    value: float | None = metrics["prompts"].get(setting, {}).get(figure)
    return value


def merit(metrics: Metrics) -> float | None:
    """Accuracy of a classification; Dice of a segmentation with the true box, else under the first setting it has."""
    if "prompts" not in metrics:
        accuracy: float = metrics["accuracy"]
        return accuracy
    return prompted(metrics, "dice", "box" if "box" in metrics["prompts"] else min(metrics["prompts"]))


def merit_mean(metrics: Mapping[str, Metrics]) -> float | None:
    """Unweighted mean over the sites of their accuracy or Dice."""
    return mean(merit(part) for part in metrics.values())


def worst(metrics: Mapping[str, Metrics]) -> tuple[str, float] | None:
    """The site with the lowest accuracy or Dice (the first by name on a tie) and that value."""
    ranked = sorted((value, site) for site, part in metrics.items() if (value := merit(part)) is not None)
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
    """One row per evaluated version, in order; None where there is no such evaluation.

    Classification: ``version``; ``global_accuracy`` and ``validation_accuracy`` (global model, pooled over the scored
    sites' test and over all sites' validation cases); ``global_auroc`` (mean of the scored sites);
    ``personal_accuracy`` and ``worst_accuracy`` (mean and lowest over the round's participants); ``nfr_global``,
    ``nfr_personal``, ``bwt``. Segmentation: ``version``; ``global_dice``, ``validation_dice``, ``personal_dice`` and
    ``worst_dice`` (means over sites and the lowest); ``global_dice_image``, ``global_dice_jitter`` (means over sites).
    Both: ``individuality``, the mean over the round's participants.
    """
    whole, personal = evaluations(record, "global"), evaluations(record, "personal")
    individual = {version: mean(by_site.values()) for version, by_site in individuality(record).items()}
    figures = _segmentation_row if task_of(record) == "segmentation" else _classification_row
    rows = []
    for version in sorted({*whole, *personal}):
        tested = split_metrics(whole.get(version, {}), scored_sites(record))
        validated = split_metrics(whole.get(version, {}), record["sites"], "validation")
        own = split_metrics(personal.get(version, {}), training_sites(record))
        row = figures(tested, validated, own)
        rows.append({"version": version, **row, "individuality": individual.get(version)})
    if task_of(record) == "classification":
        forgotten = {
            "nfr_global": flip_rates(record, "global"),
            "nfr_personal": flip_rates(record, "personal"),
            "bwt": transfer(record),
        }
        for row in rows:
            row.update({key: by_version.get(row["version"]) for key, by_version in forgotten.items()})
    return rows


def individuality(record: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Fed-GPL's individuality ratio by round and site, where a site gave one."""
    found: dict[int, dict[str, float]] = {}
    for part in record["rounds"]:
        for site, contribution in part.get("contributions", {}).items():
            if (value := contribution.get("individuality")) is not None:
                found.setdefault(part["round"], {})[site] = value
    return found


def rounds_to_within(values: Mapping[int, float | None], margin: float = 0.01) -> int | None:
    """The first version from which on every value lies within ``margin`` of the last version's; None below two."""
    defined = {version: value for version, value in sorted(values.items()) if value is not None}
    if len(defined) < 2:
        return None
    *_, (settled, last) = defined.items()
    for version, value in reversed(defined.items()):
        if abs(value - last) > margin + 1e-12:  # 0.91 - 0.90 is a little more than 0.01
            break
        settled = version
    return settled


Tested = Mapping[str, Metrics]


def _classification_row(tested: Tested, validated: Tested, own: Tested) -> dict[str, Any]:
    lowest = worst(own)
    return {
        "global_accuracy": pooled_accuracy(tested),
        "global_auroc": site_mean(tested, "auroc"),
        "validation_accuracy": pooled_accuracy(validated),
        "personal_accuracy": site_mean(own, "accuracy"),
        "worst_accuracy": lowest[1] if lowest else None,
    }


def _segmentation_row(tested: Tested, validated: Tested, own: Tested) -> dict[str, Any]:
    lowest = worst(own)
    return {
        "global_dice": merit_mean(tested),
        **{
            f"global_dice_{setting}": mean(prompted(part, "dice", setting) for part in tested.values())
            for setting in ("image", "jitter")
        },
        "validation_dice": merit_mean(validated),
        "personal_dice": merit_mean(own),
        "worst_dice": lowest[1] if lowest else None,
    }
