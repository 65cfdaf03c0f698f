"""Parts of a study's result that say how a model does where it was not trained: calibration, and a new site's cases."""

from __future__ import annotations

from typing import Literal

from consilia.core.schema import Strict
from consilia.record.split_metrics import ReliabilityBin


class Calibration(Strict):
    """The reliability of a method's probabilities after the last round, over all test cases or those of a site.

    ``bins``: ten of equal width; ``count`` has every seed's prediction of a case.
    """

    data: str
    option: str
    method: str
    model: Literal["global", "personal"]
    site: str = ""
    bins: tuple[ReliabilityBin, ...]


class NewSiteScore(Strict):
    """A metric on the fixed test of a site that was left out, of the models made from so many of its labelled cases.

    Attributes:
        site: empty: the mean over the sites.
        cases: how many, or ``all``; of none it is the global model.
        labelled: how many these are; None over sites.
        draws: random draws of so many cases.
        runs: (fold, seed) runs.
        patients, of_each: test patients, and cases by class or without and with an event.
        reason: why there is no value, in some runs at least; the metric is empty then.
    """

    data: str
    option: str
    method: str
    site: str = ""
    cases: str
    labelled: int | None = None
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    draws: int = 0
    runs: int = 0
    patients: int = 0
    of_each: tuple[int, ...] = ()
    reason: str = ""
