"""The metrics of a run of a survival. See docs/metrics.md for the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from consilia.evaluation.final_metrics import BY, WEIGHTED
from consilia.evaluation.metric_kinds import (
    BY_PATIENTS,
    FINAL,
    MEAN,
    OVER_ROUNDS,
    OWN,
    ROUNDS,
    VARIANTS,
    WITHIN,
    FinalMetric,
    OverRoundsMetric,
    Terminal,
    VariantMetric,
    balance,
    balance_of,
    every,
    mean_of,
    round_metric,
)
from consilia.evaluation.rounds import (
    FEWEST_OF_A_CLASS,
    FEWEST_PATIENTS,
    Value,
    View,
    mean_over_sites,
    pooled_loss,
    primary_mean,
    rounds_to_within,
    site_mean,
    worst,
)

C_INDEX = "c_index"

PER_SITE = (
    f"per site, then averaged over those with {FEWEST_PATIENTS} test patients and {FEWEST_OF_A_CLASS} events; over all "
    "where no site has them; never pooled"
)


def _ranking(kind: Literal["global", "personal"], terminal: Terminal) -> list[FinalMetric]:
    """The C-index of one kind of model: plain mean over sites, and weighted by patients."""
    return [
        FinalMetric(
            f"{kind}_c_index{suffix}",
            f"{kind.capitalize()} C-index{BY if suffix else ''}",
            "score",
            True,
            f"{BY_PATIENTS}, of the same sites" if suffix else PER_SITE,
            compute=_mean(kind, weighted=bool(suffix)),
            table=kind,
            brief=not suffix,
            terminal=None if suffix else terminal,
        )
        for suffix in ("", WEIGHTED)
    ]


def _mean(kind: Literal["global", "personal"], *, weighted: bool) -> Callable[[View], Value]:
    def compute(view: View) -> Value:
        tested = view.tested if kind == "global" else view.own
        return mean_over_sites(tested, C_INDEX, view.enough, weighted=weighted)

    return compute


FINAL.add(
    "survival",
    [
        *_ranking("global", Terminal(1, "global", 100, "global: C-index of the shared model, mean over sites.")),
        FinalMetric(
            "worst_global_c_index",
            "Worst training site, global",
            "score",
            True,
            "lowest C-index of the shared model at a training site",
            compute=lambda view: worst(view.home),
        ),
        *_ranking(
            "personal", Terminal(2, "personal", 100, "personal: each site's own model at home; worst: the lowest.")
        ),
        FinalMetric(
            "worst_personal_c_index",
            "Worst site, personal",
            "score",
            True,
            "lowest C-index of a site's own model",
            compute=lambda view: worst(view.own),
            table="personal",
            terminal=Terminal(4, "worst", 100),
        ),
        FinalMetric(
            "balance",
            "Balance, (G\u00a0+\u00a0L)\u00a0/\u00a02",
            "score",
            True,
            "mean of the global and the personal C-index, over all sites",
            compute=lambda view: balance(view, primary_mean(view.tested), primary_mean(view.own)),
            table="personal",
            terminal=Terminal(3, "balance", 100, "balance: mean of the two."),
        ),
    ],
)
ROUNDS.add(
    "survival",
    [
        round_metric(
            "global_c_index", "score", MEAN, every(lambda view: mean_over_sites(view.tested, C_INDEX, view.enough))
        ),
        round_metric("validation_c_index", "score", MEAN, every(lambda view: primary_mean(view.validated))),
        round_metric(
            "validation_loss",
            "score",
            "negative log partial likelihood per case, sites pooled",
            every(lambda view: pooled_loss(view.validated.values())),
            False,
        ),
        round_metric("personal_c_index", "score", "participants", every(lambda view: primary_mean(view.own))),
        round_metric("worst_c_index", "score", "lowest participant", every(lambda view: worst(view.own))),
    ],
)
OVER_ROUNDS.add(
    "survival",
    [
        OverRoundsMetric(
            "global_c_index",
            "Mean global C-index",
            "score",
            True,
            "averaged over rounds",
            compute=mean_of("global_c_index"),
        ),
        OverRoundsMetric(
            "personal_c_index", "Mean personal C-index", "score", True, OWN, compute=mean_of("personal_c_index")
        ),
        OverRoundsMetric(
            "worst_c_index",
            "Mean worst participant",
            "score",
            True,
            "lowest participant of each round, averaged",
            compute=mean_of("worst_c_index"),
        ),
        OverRoundsMetric(
            "balance",
            "Balance",
            "score",
            True,
            "mean of the first two means",
            compute=balance_of("global_c_index", "personal_c_index"),
        ),
        OverRoundsMetric(
            "rounds_to_within_1_percent",
            "Rounds to within 1\u00a0%",
            "rounds",
            False,
            WITHIN.format("global C-index"),
            compute=lambda record, series: rounds_to_within(series["global_c_index"]),
            table="convergence",
        ),
    ],
)
VARIANTS.add(
    "survival",
    [VariantMetric(C_INDEX, "C-index", "score", True, MEAN, compute=lambda tested: site_mean(tested, C_INDEX))],
)
