"""The result of a study: everything that its tables, plots and verdicts are made from, without a single prediction.

Saved as ``study.json``. A value that is not defined is None; labels are as the study file has them. A *cell* is one
data set under one option (a data regime, a site left out); methods compare within a cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, PositiveFloat, ValidationError

from consilia.core.errors import DataError
from consilia.core.files import write_json
from consilia.core.schema import Strict, explain
from consilia.record.study_unseen import Calibration, NewSiteScore

RESULT = "study.json"

Version = Literal["last", "best"]
VERSIONS: tuple[Version, ...] = get_args(Version)
"""The versions of a run's models that are judged: after the last round, and of the best one."""
Kind = Literal["global", "personal"]
MODELS: tuple[Kind, ...] = get_args(Kind)
"""The models of a run that are tested."""
Model = Literal["global", "personal", "balance"]
"""Balance is the mean of the global and the personal model's metric."""

Verdict = Literal["confirmed", "refuted", "equivalent", "not decided"]
Status = Literal["done", "failed", "cannot", "not run", "same as"]
WITHOUT_RESULT: tuple[Status, ...] = ("failed", "cannot", "not run")
ALL = "all"
"""As the data set or option of a claim: the mean of the differences over all of them."""


def cell_title(data: str, option: str) -> str:
    """A cell in words."""
    return f"{data}, {option}" if option else data


class Statement(Strict):
    """What a claim says: ``method`` has a better ``metric`` than ``against``, by ``least`` at the least.

    Attributes:
        least: claimed smallest difference, in units of the metric.
        equivalent_within: differences up to this size count as none; None: 0.01 of AUROC, and of no other metric.
    """

    name: str
    text: str = ""
    metric: str
    model: Model = "global"
    version: Version = "last"
    method: str
    against: str
    data: str = ALL
    option: str = ALL
    least: float = Field(0.0, ge=0)
    equivalent_within: PositiveFloat | None = None


class Support(Strict):
    """The test cases of a site, counted once however many seeds there are.

    Attributes:
        of_each: classification: cases by class; survival: cases without and with an event; else empty.
        averaged: whether the site has enough patients and cases of each class to stand in a mean over sites.
    """

    site: str
    patients: int
    cases: int
    of_each: tuple[int, ...] = ()
    averaged: bool = True


class Cell(Strict):
    """A data set under an option: the metrics that it has, what was tested, and the interval's units."""

    data: str
    option: str
    task: str
    metrics: tuple[str, ...]
    methods: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    patients: int
    cases: int
    of_each: tuple[int, ...] = ()
    sites: tuple[Support, ...]


class Score(Strict):
    """A metric of a method, over all sites, at one ``site``, or of one ``subgroup``.

    Attributes:
        se: standard deviation over the draws.
        runs: how many (fold, seed) runs it comes from.
        units: test patients (at a site or of a subgroup; 0: see the cell).
    """

    data: str
    option: str
    method: str
    version: Version
    model: Model
    metric: str
    site: str = ""
    subgroup: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    runs: int = 0
    units: int = 0


class Spread(Strict):
    """How unlike the averaged sites are: the worst one, largest difference, and sample standard deviation."""

    data: str
    option: str
    method: str
    version: Version
    model: Model
    metric: str
    worst_site: str
    worst: float
    range: float
    sd: float | None
    sites: int


class UnitDifference(Strict):
    """The difference at one site, or on one data set."""

    name: str
    value: float


class Contrast(Statement):
    """A claim and what became of it. Differences are turned so that above 0 ``method`` is the better one.

    Attributes:
        value, low, high, se: the difference, its 95 % interval, and its standard deviation over the draws.
        p, holm: two-sided p-value by the draws; the same adjusted for all claims of the study (Holm).
        detectable: the smallest difference that would be seen at 80 % power: 2.8 se.
        runs, planned: (fold, seed) runs that both methods have, and that were planned.
        units, unit: differences by site, or by data set where there are several.
        wilcoxon: p-value of Wilcoxon's signed-rank test over the units, from six on.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    p: float | None = None
    holm: float | None = None
    detectable: float | None = None
    verdict: Verdict = "not decided"
    reason: str = ""
    runs: int = 0
    planned: int = 0
    patients: int = 0
    unit: Literal["site", "data set"] = "site"
    units: tuple[UnitDifference, ...] = ()
    wilcoxon: float | None = None


class TopPair(Strict):
    """The top method less another one, with a simultaneous (max-T) interval."""

    method: str
    value: float
    low: float
    high: float


class Best(Strict):
    """The method of the best value; the ``best`` only where all simultaneous intervals lie above 0.

    Attributes:
        left_out: methods without all runs, which are not compared.
    """

    data: str
    option: str
    version: Version
    model: Model
    metric: str
    top: str
    best: bool
    pairs: tuple[TopPair, ...]
    left_out: tuple[str, ...] = ()


class Ratio(Strict):
    """A metric of a method's global model divided by that of the reference method, on the same draws.

    Over all sites (``site`` is empty) a ratio of means over sites, else of the values at one.
    """

    data: str
    option: str
    method: str
    reference: str
    version: Version
    metric: str
    site: str = ""
    value: float
    low: float | None
    high: float | None


class PlannedRun(Strict):
    """A run of the study's plan. ``seconds`` and ``core_seconds`` are times: they differ from machine to machine.

    Attributes:
        fold: a number for each set of test cases; ``where`` has it in words where a site was left out.
        left_out: the site, of a study that leaves out several in turn.
        prepared: what that site's inputs were prepared with, in words.
    """

    data: str
    option: str
    method: str
    fold: int
    seed: int
    status: Status
    reason: str = ""
    command: str = ""
    rounds: int | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None
    seconds: float | None = None
    core_seconds: float | None = None
    saw: str = ""
    rate: str = ""
    edge: bool = False
    left_out: str = ""
    where: str = ""
    prepared: str = ""


class CurvePoint(Strict):
    """A metric after so many rounds: mean and sample standard deviation over the ``runs`` that have it.

    Attributes:
        version: rounds done.
        traffic: bytes sent and received by then, mean of the runs.
    """

    data: str
    option: str
    method: str
    model: Model
    metric: str
    version: int
    value: float
    sd: float | None
    traffic: float | None
    runs: int


class Subgroup(Strict):
    """The tested patients of one subgroup by an ``attribute``, a column of the sites' tables; as :class:`Support`."""

    data: str
    option: str
    attribute: str
    group: str
    patients: int
    cases: int
    of_each: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What scores call it."""
        return f"{self.attribute}: {self.group}"


class Gap(Strict):
    """By how much a metric is better in one subgroup than in another, after the last round.

    Attributes:
        value: mean over the ``sites`` with enough patients of both of the difference there.
        se: standard deviation over the draws.
    """

    data: str
    option: str
    method: str
    model: Model
    metric: str
    attribute: str
    better: str
    worse: str
    value: float
    low: float | None = None
    high: float | None = None
    se: float | None = None
    sites: int


ForgettingName = Literal["nfr", "bwt", "forgetting"]


class Forgetting(Strict):
    """What a method's models forget over the rounds: means over versions, folds and seeds (docs/metrics.md).

    Attributes:
        metric: negative flip rate, backward transfer, or the loss of a class's recall since it was highest.
        label: the class; empty over all.
        se: standard deviation over the draws.
        runs: how many (fold, seed) runs it comes from.
    """

    data: str
    option: str
    method: str
    model: Model
    metric: ForgettingName
    label: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    runs: int


LeakKind = Literal["own site", "another site", "several sites", "fitted on test"]


class Leak(Strict):
    """How much of one kind of leak between training and test cases a cell has; what is an error has no result.

    Attributes:
        kind: test cases with the content of a training or validation case at their own site, or at another; patients
            with cases at several sites; test cases on which their own preprocessing is fitted (without labels).
        found: cases (patients) of whom that is so, each once however many folds there are.
        of: cases (patients) that were looked at.
    """

    data: str
    option: str
    kind: LeakKind
    found: int
    of: int


class StudyResult(Strict):
    """All of a study. Equal predictions, runs, rounds and claims give an equal result."""

    format_version: Literal[1] = 1
    title: str = ""
    draws: int
    seed: int
    cells: tuple[Cell, ...] = ()
    scores: tuple[Score, ...] = ()
    spreads: tuple[Spread, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    best: tuple[Best, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    new_site: tuple[NewSiteScore, ...] = ()
    runs: tuple[PlannedRun, ...] = ()
    curves: tuple[CurvePoint, ...] = ()
    leaks: tuple[Leak, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    gaps: tuple[Gap, ...] = ()
    forgetting: tuple[Forgetting, ...] = ()
    notes: tuple[str, ...] = ()


def save_result(result: StudyResult, path: Path) -> None:
    """Write ``study.json`` atomically."""
    write_json(path, result.model_dump(mode="json"))


def load_result(path: Path) -> StudyResult:
    """Read ``study.json``.

    Raises:
        DataError: no such file, or not the result of a study.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected the {RESULT} of a study, there is no such file")
    try:
        return StudyResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(explain(error, path)) from error
