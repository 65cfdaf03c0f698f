"""Metrics of a chosen version of a classification that are means over sites: of rankings, decisions and calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from consilia.evaluation.metric_kinds import BY_PATIENTS, MEAN, FinalMetric, Terminal
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS, FEWEST_PATIENTS, Value, View, mean_over_sites
from consilia.record.metrics import Unit

Kind = Literal["global", "personal"]

PER_SITE = (
    f"per site, then averaged over those with {FEWEST_PATIENTS} test patients and {FEWEST_OF_A_CLASS} cases of each "
    "class; over all where no site has them; never pooled"
)
BY = ", by\u00a0patients"
WEIGHTED = "_by_patients"
"""The end of the name of a mean that is weighted by test patients."""
AT = "at the model's threshold, which validation cases choose"


def ranking_metrics(kind: Kind) -> list[FinalMetric]:
    """AUROC and AUPRC: plain means over sites, and weighted by patients."""
    terminal = Terminal(
        5, "AUROC", 1, "AUROC: per site, then averaged; sites of few patients only where there are no others."
    )
    return [
        FinalMetric(
            f"{kind}_{name}{suffix}",
            f"{kind.capitalize()} {heading}{BY if suffix else ''}",
            "score",
            True,
            f"{BY_PATIENTS}, of the same sites" if suffix else PER_SITE,
            compute=_mean(kind, name, weighted=bool(suffix)),
            table=_table(kind) if name == "auroc" else _decisions(kind),
            brief=name == "auroc" and not suffix,
            terminal=terminal if (kind, name, suffix) == ("global", "auroc", "") else None,
        )
        for name, heading in (("auroc", "AUROC"), ("auprc", "AUPRC"))
        for suffix in ("", WEIGHTED)
    ]


def decision_metrics(kind: Kind) -> list[FinalMetric]:
    """Sensitivity, specificity at the threshold, Brier score and ECE: plain means, and weighted by patients."""
    shown: list[tuple[str, str, str, Unit, bool, str]] = [
        (
            "sensitivity",
            "operating.sensitivity",
            "sensitivity",
            "percent",
            True,
            f"share of positive cases found, {AT}",
        ),
        ("specificity", "operating.specificity", "specificity", "percent", True, "share of negative cases let pass"),
        ("brier", "brier", "Brier score", "score", False, "mean squared error of the probabilities"),
        ("ece", "ece", "ECE", "score", False, "expected calibration error, 10 bins"),
    ]
    return [
        FinalMetric(
            f"{kind}_{name}{suffix}",
            f"{kind.capitalize()} {heading}{BY if suffix else ''}",
            unit,
            higher,
            f"{meaning}; {BY_PATIENTS if suffix else MEAN} with enough patients",
            compute=_mean(kind, place, weighted=bool(suffix)),
            table=_decisions(kind),
        )
        for name, place, heading, unit, higher, meaning in shown
        for suffix in ("", WEIGHTED)
    ]


def _mean(kind: Kind, name: str, *, weighted: bool) -> Callable[[View], Value]:
    """The mean over the sites with enough patients where there are any."""

    def compute(view: View) -> Value:
        tested = view.tested if kind == "global" else view.own
        return mean_over_sites(tested, name, view.enough, weighted=weighted)

    return compute


def _table(kind: Kind) -> Literal["global", "personal"]:
    return "global" if kind == "global" else "personal"


def _decisions(kind: Kind) -> Literal["decisions", "personal_decisions"]:
    return "decisions" if kind == "global" else "personal_decisions"
