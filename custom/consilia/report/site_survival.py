"""A site's own report about its own patients' survival. Written at the site, for the site; it never leaves.

The steps of a Kaplan-Meier curve are the times of single events, so that nothing of this page is in what a site sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import DataError
from consilia.core.files import write_bytes, write_csv
from consilia.data.dataset import Split
from consilia.evaluation.bootstrap import Array
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS
from consilia.evaluation.survival import survival_metrics
from consilia.report.format import plural
from consilia.report.html import page
from consilia.report.site_answers import named_patients, patients_of
from consilia.report.site_report import ABOUT
from consilia.report.site_words import EXPLAINED, few_patients, title

GROUPS = ("lower risk", "higher risk")
AT_RISK = 5
"""Times, from 0 to the longest, at which the number at risk is shown."""


@dataclass(frozen=True)
class RiskGroups:
    """The cases of a split in two halves by what a model says of them: at most the median log hazard, and above it.

    Attributes:
        name: of the model.
        log_hazards: (N,).
        times: of each case's follow-up (N,).
        events: whether it ended with the event (N,).
    """

    name: str
    log_hazards: Array
    times: Array
    events: np.ndarray

    @cached_property
    def high(self) -> np.ndarray | None:
        """Which cases are of the higher half, (N,); None where all are alike, or a log hazard is not finite."""
        if not len(self.times) or not np.isfinite(self.log_hazards).all():
            return None
        above: np.ndarray = self.log_hazards > np.median(self.log_hazards)
        return above if above.any() else None

    def of_group(self, place: int) -> tuple[Array, np.ndarray]:
        """Times and events of the lower (0) or the higher (1) half."""
        assert self.high is not None
        chosen = self.high == bool(place)
        return self.times[chosen], self.events[chosen]

    def curve(self, place: int) -> tuple[Array, Array]:
        """Kaplan-Meier estimate of one half: the times of its steps from 0, and the share without the event from 1."""
        from scipy.stats import ecdf

        found = ecdf(_censored(*self.of_group(place))).sf
        return np.concatenate([[0.0], found.quantiles]), np.concatenate([[1.0], found.probabilities])

    @cached_property
    def log_rank(self) -> float | None:
        """p of the log-rank test between the halves; None without an event."""
        from scipy.stats import logrank

        if self.high is None or not self.events.any():
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            p = float(logrank(*(_censored(*self.of_group(place)) for place in (0, 1))).pvalue)
        return p if np.isfinite(p) else None

    def at_risk(self, place: int, moments: Sequence[float]) -> list[int]:
        """How many cases of one half are still under observation at some moments."""
        times, _ = self.of_group(place)
        return [int((times >= moment).sum()) for moment in moments]


def _censored(times: Array, events: np.ndarray) -> Any:
    from scipy.stats import CensoredData

    return CensoredData.right_censored(times, ~events)


def write_survival_report(
    path: Path,
    *,
    site: str,
    dataset: str,
    event: str,
    log_hazards: Mapping[str, Tensor],
    test: Split,
    about: str = ABOUT,
    table_only: bool = False,
) -> Path:
    """Write the report to ``path`` and every case's answer to ``<stem>_predictions.csv`` beside it; returns the latter.

    Only the owner can read the two files.

    Args:
        path: the HTML file.
        site: its name.
        dataset: its name.
        event: what it is called.
        log_hazards: (N,) by model (``global``, ``personal``, or any name).
        test: the N cases.
        about: which cases these are, in a sentence.
        table_only: leave out the page.

    Raises:
        DataError: the numbers of cases do not fit together.
    """
    for name, found in log_hazards.items():
        if tuple(found.shape) != (len(test),):
            raise DataError(f"survival report: expected {name} log hazards ({len(test)},), got {tuple(found.shape)}")
    times, events = test.labels[:, 0].numpy(), test.labels[:, 1].numpy() > 0
    models = [RiskGroups(name, found.double().numpy(), times, events) for name, found in log_hazards.items()]
    table = path.with_name(f"{path.stem}_predictions.csv")
    columns = _columns(models, test)
    write_csv(table, list(columns), zip(*columns.values(), strict=True), private=True)
    if table_only:
        return table
    values = _page_values(models, test, event) if models and len(test) else {"models": []}
    html = page("site_survival.html", site=site, dataset=dataset, event=event, table=table.name, about=about, **values)
    write_bytes(path, html.encode(), private=True)
    return table


def _columns(models: Sequence[RiskGroups], test: Split) -> dict[str, list[Any]]:
    """Of the csv: case id, patient where known, time, event, and per model its log hazard and the half it falls in."""
    columns: dict[str, list[Any]] = {"case_id": list(test.case_ids)}
    if test.patients:
        columns["patient"] = list(test.patients)
    columns |= {"time": test.labels[:, 0].tolist(), "event": test.labels[:, 1].long().tolist()}
    for one in models:
        columns[f"{one.name}_log_hazard"] = one.log_hazards.tolist()
        columns[f"{one.name}_group"] = [""] * len(test) if one.high is None else [GROUPS[int(up)] for up in one.high]
    return columns


def _page_values(models: Sequence[RiskGroups], test: Split, event: str) -> dict[str, Any]:
    # Here, because it pulls in matplotlib, which the command line should not wait for.
    from consilia.report import site_plots

    events, longest = int(test.labels[:, 1].sum()), float(test.labels[:, 0].max())
    moments = [longest * place / (AT_RISK - 1) for place in range(AT_RISK)]
    return {
        "count": len(test),
        "events": events,
        "patients": patients_of(named_patients(test), torch.ones(len(test), dtype=torch.bool)),
        "cautions": [*few_patients(named_patients(test), len(test)), *_few_events(events, event)],
        "moments": moments,
        "models": [
            {
                "title": title(one.name),
                "explained": EXPLAINED.get(one.name, ""),
                "metrics": survival_metrics(torch.from_numpy(one.log_hazards), test.labels, named_patients(test)),
                "p": one.log_rank,
                "groups": _groups(one, moments),
                "curve": site_plots.kaplan_meier(one),
            }
            for one in models
        ],
    }


def _few_events(events: int, event: str) -> list[str]:
    if events >= FEWEST_OF_A_CLASS:
        return []
    few = f"Only {plural(events, 'case')} with the event {event}" if events else f"No case with the event {event}"
    return [f"{few}: how well the model ranks patients cannot be said from this site."]


def _groups(one: RiskGroups, moments: Sequence[float]) -> list[dict[str, Any]]:
    """The halves: their numbers of cases and events, and the number at risk."""
    if one.high is None:
        return []
    found = [one.of_group(place) for place in (0, 1)]
    return [
        {"name": name, "cases": len(times), "events": int(events.sum()), "at_risk": one.at_risk(place, moments)}
        for place, (name, (times, events)) in enumerate(zip(GROUPS, found, strict=True))
    ]
