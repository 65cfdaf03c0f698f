"""Loss and AUROC over the rounds: whether a model still learns, or has begun to learn its training cases by heart."""

from __future__ import annotations

from collections.abc import Mapping

from consilia.evaluation.rounds import mean, pooled_loss, reported, site_mean, views, weighted_mean
from consilia.record.schema import Record

Learning = Mapping[str, Mapping[int, float]]
"""By name of a curve and version, where it is defined."""


def learning(record: Record) -> Learning:
    """Curves of a classification.

    ``train_loss``: what the participants reported, by their numbers of training cases. ``validation_loss`` and
    ``test_loss``: the global model's, over all cases; ``personal_loss``: the participants' own models on their test
    cases. ``validation_auroc``, ``test_auroc``, ``personal_auroc``: means of sites.
    """
    found: dict[str, dict[int, float | None]] = {}
    for version, seen in views(record).items():
        for name, tested in (("validation", seen.validated), ("test", seen.tested), ("personal", seen.own)):
            found.setdefault(f"{name}_loss", {})[version] = pooled_loss(tested.values())
            found.setdefault(f"{name}_auroc", {})[version] = site_mean(tested, "auroc")
    found["train_loss"] = _train_loss(record)
    return {
        name: {version: value for version, value in values.items() if value is not None}
        for name, values in found.items()
    }


def _train_loss(record: Record) -> dict[int, float | None]:
    found: dict[int, float | None] = {}
    cases = {part.round: {s: one.samples for s, one in part.contributions.items()} for part in record.rounds}
    for number, by_site in reported(record, "train_loss").items():
        pooled = weighted_mean((value, cases[number][site]) for site, value in by_site.items())
        found[number] = mean(by_site.values()) if pooled is None else pooled
    return found
