"""The metrics of a study's predictions with a weight per patient: of every seed, at every site and over all of them.

- Scores compare within one fold and seed only: AUROC is the sum of concordant pairs over folds / the sum of pairs.
- AUPRC is the mean over folds of average precision, weighted by positives.
- Over sites: AUROC, AUPRC and C-index as plain mean and mean by test patients of the sites with enough cases; AUROC and
  C-index also over pairs within and across sites (``_pooled``; not of personal models, which are unlike at unlike
  sites). All others over the pooled cases; accuracy, Brier score and ECE also as plain mean over all sites.
- A probability that is not finite makes a wrong case, and leaves the metrics of probabilities undefined.

Shapes: N cases, P patients, S seeds, R sets of weights (R, P). An undefined value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.calibration import BINS, confidences, squared_errors
from consilia.evaluation.pairs import Pairs, average_precision, ranked_pairs, survival_pairs
from consilia.evaluation.weighted import mean_of_defined, ratio
from consilia.record.metrics import Metric

Whole = NDArray[np.int64]
OVERALL = ""
"""In place of a site: all of them."""
Values = dict[tuple[str, str], Array]
"""By metric and site, the values by seed (R, S)."""


@dataclass(frozen=True)
class Tested:
    """Test cases of one method's model: where and of whom they are (N,), and what was predicted.

    Attributes:
        patient, seed: places in the draws; fold: any whole number; site: place in ``sites``.
        averaged: of every site, whether it stands in means over sites; patients: how many test patients it has.
        columns: the predictions by name: ``label`` and ``probability`` (N, K); ``dice``; or ``time``, ``event``,
            ``risk``.
    """

    patient: Whole
    seed: Whole
    fold: Whole
    site: Whole
    sites: tuple[str, ...]
    averaged: tuple[bool, ...]
    patients: tuple[int, ...]
    seeds: int
    personal: bool
    columns: Mapping[str, Array] = field(repr=False)

    def rows(self, seed: int, site: int | None) -> Whole:
        """The cases of a seed, at one site or at all."""
        mine = self.seed == seed
        return np.flatnonzero(mine if site is None else mine & (self.site == site))


METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (
        Metric("auroc", "AUROC", "score", True, "mean of sites"),
        Metric("auroc_weighted", "AUROC by patients", "score", True, "mean of sites, weighted by test patients"),
        Metric("auroc_pooled", "AUROC, pooled", "score", True, "pairs within and across sites, of one fold and seed"),
        Metric("auprc", "AUPRC", "score", True, "average precision, mean of sites"),
        Metric("auprc_weighted", "AUPRC by patients", "score", True, "mean of sites, weighted by test patients"),
        Metric("accuracy", "Accuracy", "percent", True, "cases of all sites pooled"),
        Metric("accuracy_sites", "Accuracy, mean of sites", "percent", True, "plain mean of all sites"),
        Metric("balanced_accuracy", "Balanced accuracy", "percent", True, "mean recall of the classes, cases pooled"),
        Metric("sensitivity", "Sensitivity", "percent", True, "at the threshold of validation cases, cases pooled"),
        Metric("specificity", "Specificity", "percent", True, "at the threshold of validation cases, cases pooled"),
        Metric("brier", "Brier score", "score", False, "half the squared distance from the truth, cases pooled"),
        Metric("brier_sites", "Brier score, mean of sites", "score", False, "plain mean of all sites"),
        Metric("ece", "ECE", "score", False, "expected calibration error, ten bins, cases pooled"),
        Metric("ece_sites", "ECE, mean of sites", "score", False, "plain mean of all sites"),
    ),
    "segmentation": (
        Metric("dice", "Dice", "score", True, "mean of all cases"),
        Metric("dice_sites", "Dice, mean of sites", "score", True, "plain mean of all sites"),
        Metric("missed", "Missed", "percent", False, "share of cases with a Dice of 0"),
        Metric("hd95", "HD95", "distance", False, "95th percentile of the outlines' distance, mean of the defined"),
    ),
    "survival": (
        Metric("c_index", "C-index", "score", True, "mean of sites"),
        Metric("c_index_weighted", "C-index by patients", "score", True, "mean of sites, weighted by test patients"),
        Metric("c_index_pooled", "C-index, pooled", "score", True, "pairs within and across sites, of a fold and seed"),
    ),
}
"""By task, the metrics of a study in the order of its tables; the first is the one that its plots show."""

PLAIN_MEANS = {"accuracy": "accuracy_sites", "brier": "brier_sites", "ece": "ece_sites", "dice": "dice_sites"}
"""Of a metric over pooled cases, the name of its plain mean over sites."""
RANKED = ("auroc", "auprc", "c_index")
"""What stands in a mean over those sites alone that have enough test patients and cases of each class."""


def metric_of(task: str, name: str) -> Metric | None:
    """A task's metric by name."""
    return next((metric for metric in METRICS.get(task, ()) if metric.name == name), None)


def metric_values(task: str, tested: Tested, weights: Array) -> Values:
    """All metrics of a task for each row of ``weights`` (R, P), at every site with cases and over all of them."""
    shape = (len(weights), tested.seeds)
    found: Values = {}

    def put(name: str, site: str, seed: int, values: Array) -> None:
        found.setdefault((name, site), np.full(shape, np.nan))[:, seed] = values

    for seed in range(tested.seeds):
        sums: list[Sums] = []
        for place, site in enumerate(tested.sites):
            rows = tested.rows(seed, place)
            if len(rows):
                sums.append(_sums(task, tested, rows, weights))
                for name, values in _of_sums(task, sums[-1]).items():
                    put(name, site, seed, values)
                for name, pairs in _pairs(task, tested, rows, weights).items():
                    put(name, site, seed, pairs)
        if sums:
            for name, values in _of_sums(
                task, {key: np.sum([one[key] for one in sums], axis=0) for key in sums[0]}
            ).items():
                put(name, OVERALL, seed, values)
            if not tested.personal:
                for name, pairs in _pairs(task, tested, tested.rows(seed, None), weights, precision=False).items():
                    put(f"{name}_pooled", OVERALL, seed, pairs)
    _over_sites(tested, found)
    return found


def _over_sites(tested: Tested, found: Values) -> None:
    """Add the means over sites."""
    for name, plain in PLAIN_MEANS.items():
        values = [found[name, site] for site in tested.sites if (name, site) in found]
        if values:
            found[plain, OVERALL] = _site_mean(values, [1] * len(values))
    for name in RANKED:
        sites = [place for place, site in enumerate(tested.sites) if tested.averaged[place] and (name, site) in found]
        if sites:
            values = [found[name, tested.sites[place]] for place in sites]
            found[name, OVERALL] = _site_mean(values, [1] * len(sites))
            found[f"{name}_weighted", OVERALL] = _site_mean(values, [tested.patients[place] for place in sites])


def _site_mean(values: list[Array], weights: list[int]) -> Array:
    """Mean of the defined values (R, S); NaN where none is."""
    stacked, by_site = np.stack(values), np.array(weights, dtype=np.float64)[:, None, None]
    total = (by_site * ~np.isnan(stacked)).sum(axis=0)
    mean: Array = np.divide(
        np.nansum(by_site * stacked, axis=0), total, out=np.full(total.shape, np.nan), where=total > 0
    )
    return mean


# ---- sums over cases -----------------------------------------------------------------------------------------------

Sums = dict[str, Array]
"""Weighted sums over cases, (R, k) each."""


def _sums(task: str, tested: Tested, rows: Whole, weights: Array) -> Sums:
    """What the metrics of pooled cases are made from; a patient's cases are added before the patients are weighed."""
    if task == "survival":
        return {}
    parts = dict(_SUMMANDS[task]({name: values[rows] for name, values in tested.columns.items()}))
    patients, place = np.unique(tested.patient[rows], return_inverse=True)
    drawn = weights[:, patients]
    found = {}
    for name, summands in parts.items():
        by_patient = np.zeros((len(patients), summands.shape[1]))
        np.add.at(by_patient, place, summands)
        found[name] = drawn @ by_patient
    return found


def _of_sums(task: str, sums: Sums) -> dict[str, Array]:
    return _RATIOS[task](sums) if task in _RATIOS else {}


def _classified(columns: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Summands (N, k) of the metrics of classification."""
    probability, label = columns["probability"], columns["label"].astype(np.int64)
    classes = np.arange(probability.shape[1])
    finite = np.asarray(np.isfinite(probability).all(axis=1))
    said = np.where(finite, np.where(finite[:, None], probability, 0.0).argmax(axis=1), -1)
    truth: NDArray[np.bool_] = np.equal(label[:, None], classes)
    yield "cases", np.ones((len(label), 1))
    yield "right", (said == label)[:, None].astype(np.float64)
    yield "present", truth.astype(np.float64)
    yield "found", (truth & (said[:, None] == classes)).astype(np.float64)
    if len(classes) == 2:
        positive = np.where(finite, probability[:, 1], 0.0) > columns["threshold"]
        right = finite & (positive == (label == 1))
        yield "decided", truth * right[:, None].astype(np.float64)
    yield "brier", squared_errors(probability, label)[:, None]
    confidence, true = confidences(probability, label)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    yield "bins", np.where(bins[:, None] == np.arange(BINS), (confidence - true)[:, None], 0.0)


def _classification(sums: Sums) -> dict[str, Array]:
    cases = sums["cases"][:, 0]
    recalls = [ratio(sums["found"][:, k], sums["present"][:, k]) for k in range(sums["present"].shape[1])]
    found = {
        "accuracy": ratio(sums["right"][:, 0], cases),
        "balanced_accuracy": mean_of_defined(recalls),
        "brier": ratio(sums["brier"][:, 0], cases),
        # sum over bins of n_b / N |mean confidence - share that is true| = sum of |sum of differences| / N
        "ece": ratio(np.abs(sums["bins"]).sum(axis=1), cases),
    }
    if "decided" in sums:
        found["sensitivity"] = ratio(sums["decided"][:, 1], sums["present"][:, 1])
        found["specificity"] = ratio(sums["decided"][:, 0], sums["present"][:, 0])
    return found


def _outlined(columns: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Summands (N, 2) of the metrics of segmentation: the value, and whether there is one."""
    dice = columns["dice"]
    scored = ~np.isnan(dice)
    for name, values in {"dice": dice, "missed": np.where(scored, dice == 0, np.nan), **_distances(columns)}.items():
        yield name, np.stack([np.nan_to_num(values), ~np.isnan(values)], axis=1)


def _distances(columns: Mapping[str, Array]) -> dict[str, Array]:
    return {"hd95": columns["hd95"]} if "hd95" in columns else {}


def _segmentation(sums: Sums) -> dict[str, Array]:
    return {name: ratio(values[:, 0], values[:, 1]) for name, values in sums.items()}


_SUMMANDS: dict[str, Callable[[Mapping[str, Array]], Iterator[tuple[str, Array]]]] = {
    "classification": _classified,
    "segmentation": _outlined,
}
_RATIOS: dict[str, Callable[[Sums], dict[str, Array]]] = {
    "classification": _classification,
    "segmentation": _segmentation,
}


# ---- pairs of cases ------------------------------------------------------------------------------------------------


def _pairs(task: str, tested: Tested, rows: Whole, weights: Array, *, precision: bool = True) -> dict[str, Array]:
    """AUROC or C-index (R,) of the cases in ``rows``, which are of one seed: pairs within folds, summed over folds."""
    columns = {name: values[rows] for name, values in tested.columns.items()}
    folds = [np.flatnonzero(tested.fold[rows] == fold) for fold in np.unique(tested.fold[rows])]
    weighed = [(fold, weights[:, tested.patient[rows[fold]]]) for fold in folds]
    if task == "survival":
        event = columns["event"] > 0
        if not np.isfinite(columns["risk"]).all():
            return {"c_index": np.full(len(weights), np.nan)}
        return {
            "c_index": _share(
                [survival_pairs(columns["time"][f], event[f], columns["risk"][f], drawn) for f, drawn in weighed]
            )
        }
    if task != "classification":
        return {}
    probability = columns["probability"]
    if not np.isfinite(probability).all():
        return {name: np.full(len(weights), np.nan) for name in ("auroc", *["auprc"] * precision)}
    areas, precisions = [], []
    for k in range(1, 2) if probability.shape[1] == 2 else range(probability.shape[1]):
        ranked = [(probability[fold, k], columns["label"][fold] == k, drawn) for fold, drawn in weighed]
        areas.append(_share([ranked_pairs(*one) for one in ranked]))
        if precision:
            precisions.append(_precision(ranked))
    return {"auroc": mean_of_defined(areas), **({"auprc": mean_of_defined(precisions)} if precision else {})}


def _precision(ranked: list[tuple[Array, NDArray[np.bool_], Array]]) -> Array:
    """Average precision (R,): the mean over folds, weighted by positives."""
    found = np.stack([average_precision(*one) for one in ranked])
    positives = np.stack([drawn @ positive for _, positive, drawn in ranked]) * ~np.isnan(found)
    return ratio(np.nansum(positives * found, axis=0), positives.sum(axis=0))


def _share(pairs: list[Pairs]) -> Array:
    concordant, comparable = (sum(parts) for parts in zip(*pairs, strict=True))
    return ratio(np.asarray(concordant), np.asarray(comparable))
