"""The threshold of a model that several sites share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from consilia.evaluation.rounds import weighted_mean
from consilia.record.schema import Metrics, SiteMetrics

Threshold = float | Literal["own"] | None
"""At what a model is evaluated: a number, that of the site's own validation cases, or none, for which 0.5 stands."""


def mean_threshold(by_site: Mapping[str, SiteMetrics]) -> float | None:
    """The mean of the thresholds that the sites' validation cases choose, by number of these cases; None without any.

    Sites of several datasets choose none: one number would stand for unlike questions.
    """
    splits = [site.validation for site in by_site.values() if isinstance(site.validation, Metrics)]
    return weighted_mean((part.threshold, part.count) for part in splits if part.threshold is not None)
