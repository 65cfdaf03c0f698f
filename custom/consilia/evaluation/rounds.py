"""What metrics are computed from: a record's evaluations by version and site.

Version r is the global model after round r. "Personal" at version r means the models that round r's participants had
trained before they were aggregated. A value that cannot be formed is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from consilia.evaluation.forgetting import backward_transfer
from consilia.record.schema import Metrics, PromptSetting, Record, SegmentationMetrics, SiteMetrics, SurvivalMetrics

FEWEST_PATIENTS, FEWEST_OF_A_CLASS = 20, 5
"""A site with fewer test patients, or fewer test cases of a class, is shown, but in no mean but that of accuracies.

Of a survival fewer events take the place of fewer cases of a class."""

Split = Metrics | SegmentationMetrics | SurvivalMetrics
BySite = Mapping[str, SiteMetrics]
Tested = Mapping[str, Split]
"""The metrics of one split, by site."""
Series = Mapping[str, Mapping[int, float | None]]
"""The values of round metrics, by name and version."""

SETTINGS: tuple[PromptSetting, ...] = get_args(PromptSetting)
"""What prompts a segmentation: the true box, the whole image, the true box jittered."""


@dataclass(frozen=True)
class Value:
    """A number; where it is one site's, which; a mean over sites may say that it is over ``defined`` ``of`` them.

    ``few``: no site has enough patients for the mean, which is over all sites where the metric is defined.
    """

    value: float | None
    site: str | None = None
    defined: int | None = None
    of: int | None = None
    few: bool = False


@dataclass(frozen=True)
class View:
    """The metrics of one version by site: what a metric of a version is computed from.

    Args:
        tested: the global model's test metrics at the sites that score it: the test-only sites if there are any.
        home: the global model's test metrics at the training sites.
        own: test metrics of the training sites' personal models.
        validated: the global model's validation metrics at all sites.
        enough: the sites with enough test patients for a mean over sites, see :func:`with_enough`.
    """

    tested: Tested
    home: Tested
    own: Tested
    validated: Tested
    enough: frozenset[str] = frozenset()

    @property
    def units(self) -> list[str]:
        """The units of distances that occur in a segmentation."""
        found = (*self.tested.values(), *self.own.values())
        return sorted({part.unit for part in found if isinstance(part, SegmentationMetrics)})


def mean(values: Iterable[float | None]) -> float | None:
    """Plain mean of the defined values; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def weighted_mean(values: Iterable[tuple[float, int]]) -> float | None:
    """Sum of value times weight over the sum of the weights; None where that is 0."""
    found = list(values)
    whole = sum(weight for _, weight in found)
    return math.fsum(value * weight for value, weight in found) / whole if whole else None


def pooled_loss(parts: Iterable[Split]) -> float | None:
    """Mean loss over the cases of all splits that have one, by their numbers of cases."""
    found = ((part.loss, part.count) for part in parts if not isinstance(part, SegmentationMetrics))
    return weighted_mean((loss, count) for loss, count in found if loss is not None)


def training_sites(record: Record) -> list[str]:
    """The sites that train, in name order."""
    return sorted(site for site, info in record.sites.items() if not info.test_only)


def test_only_sites(record: Record) -> list[str]:
    """The sites that train nothing, in name order."""
    return sorted(site for site, info in record.sites.items() if info.test_only)


def scored_sites(record: Record) -> list[str]:
    """The sites on which the global model is scored: the test-only sites if there are any, else all."""
    return test_only_sites(record) or training_sites(record)


def split_metrics(
    by_site: BySite, sites: Iterable[str], split: Literal["test", "validation"] = "test"
) -> dict[str, Split]:
    """Metrics of one split for those of ``sites`` that have it."""
    found = {site: getattr(by_site[site], split) for site in sites if site in by_site}
    return {site: metrics for site, metrics in found.items() if metrics is not None}


def with_enough(record: Record) -> frozenset[str]:
    """The sites with at least 20 test patients and 5 test cases of each of two classes: same for every version.

    Final evaluations say both. A site that lacks them (an older record) has as many patients as test cases.
    """
    found = {site for site, info in record.sites.items() if info.test >= FEWEST_PATIENTS}
    for final in record.final.values():
        for by_site in (final.global_, final.personal):
            found -= {site for site, part in split_metrics(by_site, found).items() if too_few(part)}
    return frozenset(found)


def too_few(part: Split) -> bool:
    """Whether a split has fewer patients (cases, where these are unknown), or cases of a class, than a mean asks."""
    if isinstance(part, SurvivalMetrics):
        return part.events < FEWEST_OF_A_CLASS or patients_of(part) < FEWEST_PATIENTS
    positives = part.positives if isinstance(part, Metrics) else None
    of_a_class = positives is not None and min(positives, part.count - positives) < FEWEST_OF_A_CLASS
    return of_a_class or patients_of(part) < FEWEST_PATIENTS


def enough_for_a_mean(patients: int, of_each: Sequence[int], task: str) -> bool:
    """Whether so many test patients, and cases by class (of a survival without and with an event), are enough."""
    needed = of_each[1:] if task == "survival" else of_each
    return patients >= FEWEST_PATIENTS and all(count >= FEWEST_OF_A_CLASS for count in needed)


def view(record: Record, whole: BySite, personal: BySite, enough: frozenset[str] | None = None) -> View:
    """The view of one version: the global model's and the personal models' metrics; ``enough`` of the record."""
    trained = training_sites(record)
    return View(
        tested=split_metrics(whole, scored_sites(record)),
        home=split_metrics(whole, trained),
        own=split_metrics(personal, trained),
        validated=split_metrics(whole, sorted(record.sites), "validation"),
        enough=with_enough(record) if enough is None else enough,
    )


def value_of(metrics: Split, name: str, setting: PromptSetting | None = None) -> float | None:
    """One metric of a split, ``operating.sensitivity`` say; None where it was not evaluated.

    Of a segmentation it is that under one prompt setting.
    """
    found: Any = metrics.prompts.get(setting or "box") if isinstance(metrics, SegmentationMetrics) else metrics
    for part in name.split("."):
        found = None if found is None else getattr(found, part)
    value: float | None = found
    return value


def primary(metrics: Split) -> float | None:
    """Accuracy of a classification; Dice of a segmentation with the true box, else under the first setting it has.

    Of a survival the C-index.
    """
    if isinstance(metrics, SurvivalMetrics):
        return metrics.c_index
    if isinstance(metrics, Metrics):
        return metrics.accuracy
    return value_of(metrics, "dice", "box" if "box" in metrics.prompts else min(metrics.prompts))


def pooled_accuracy(tested: Tested) -> float | None:
    """Correct cases over all cases, summed over sites: a large site counts for more."""
    found = [part for part in tested.values() if isinstance(part, Metrics)]
    count = sum(part.count for part in found)
    return sum(part.correct for part in found) / count if count else None


def site_mean(tested: Tested, name: str, setting: PromptSetting | None = None) -> float | None:
    """Unweighted mean of one metric over the sites where it is defined."""
    return mean(value_of(part, name, setting) for part in tested.values())


def patients_of(metrics: Split) -> int:
    """Test patients; cases, where an evaluation does not say."""
    return metrics.count if metrics.patients is None else metrics.patients


def mean_over_sites(
    tested: Tested, name: str, enough: frozenset[str] | None = None, *, weighted: bool = False
) -> Value:
    """Mean of a metric over the sites where it is defined: plain, or ``weighted`` by test patients.

    With ``enough`` only over these sites; if it is defined at none of them over all where it is, marked as ``few``.
    """
    defined = {site: value for site, part in tested.items() if (value := value_of(part, name)) is not None}
    used = {site: value for site, value in defined.items() if enough is None or site in enough}
    few = bool(defined) and not used
    used = used or defined
    value = weighted_mean((found, patients_of(tested[site]) if weighted else 1) for site, found in used.items())
    return Value(value, defined=len(used), of=len(tested), few=few)


def primary_mean(tested: Tested) -> float | None:
    """Unweighted mean over the sites of their accuracy, Dice or C-index."""
    return mean(primary(part) for part in tested.values())


def worst(tested: Tested) -> Value | None:
    """The lowest accuracy, Dice or C-index, and its site (the first by name on a tie)."""
    ranked = sorted((value, site) for site, part in tested.items() if (value := primary(part)) is not None)
    return Value(*ranked[0]) if ranked else None


def evaluations(record: Record, model: Literal["global", "personal"]) -> dict[int, dict[str, SiteMetrics]]:
    """Evaluations of one kind, by version in ascending order."""
    by_version: dict[int, dict[str, SiteMetrics]] = {}
    for evaluation in record.evaluations:
        if evaluation.model == model:
            by_version.setdefault(evaluation.version, {}).update(evaluation.sites)
    return dict(sorted(by_version.items()))


def views(record: Record) -> dict[int, View]:
    """The view of every evaluated version, in ascending order."""
    whole, personal, enough = evaluations(record, "global"), evaluations(record, "personal"), with_enough(record)
    return {
        version: view(record, whole.get(version, {}), personal.get(version, {}), enough)
        for version in sorted({*whole, *personal})
    }


def flip_rates(record: Record, model: Literal["global", "personal"]) -> dict[int, float]:
    """NFR per version r >= 1: negative flips over test cases, both summed over the sites scored at that version.

    A site's first evaluation has nothing to forget and counts with 0 flips, as in the authors' code. Empty for a record
    without federated rounds (a baseline), whose sites count no flips.
    """
    if not record.rounds:
        return {}
    rates: dict[int, float] = {}
    seen: set[str] = set()
    sites = scored_sites(record) if model == "global" else training_sites(record)
    for version, by_site in evaluations(record, model).items():
        metrics = {site: part for site, part in split_metrics(by_site, sites).items() if isinstance(part, Metrics)}
        known = {site: part for site, part in metrics.items() if part.negative_flips is not None or site not in seen}
        seen.update(metrics)
        count = sum(part.count for part in known.values())
        if version >= 1 and count:
            rates[version] = sum(part.negative_flips or 0 for part in known.values()) / count
    return rates


def transfer(record: Record) -> dict[int, float]:
    """BwT per version, from the global model's accuracy on every training site's test cases; empty for a baseline.

    A site trained in a round if its update was accepted: of another one the global model has learnt nothing.
    """
    if not record.rounds:
        return {}
    sites = training_sites(record)
    accuracy = {
        version: {
            site: part.accuracy for site, part in split_metrics(by_site, sites).items() if isinstance(part, Metrics)
        }
        for version, by_site in evaluations(record, "global").items()
    }
    return backward_transfer(accuracy, {part.round: list(part.contributions) for part in record.rounds})


def reported(record: Record, name: str) -> dict[int, dict[str, float]]:
    """A number that sites report with their updates, by round and site, where a site reported it."""
    found: dict[int, dict[str, float]] = {}
    for part in record.rounds:
        for site, contribution in part.contributions.items():
            if name in contribution.fields:
                found.setdefault(part.round, {})[site] = contribution.fields[name]
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
