"""The metrics of a run of a classification. See docs/metrics.md for the formulas."""

from __future__ import annotations

from consilia.evaluation.final_metrics import decision_metrics, ranking_metrics
from consilia.evaluation.forgetting import inter_peak_forgetting
from consilia.evaluation.metric_kinds import (
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
    Series,
    evaluations,
    flip_rates,
    mean,
    mean_over_sites,
    pooled_accuracy,
    rounds_to_within,
    site_mean,
    split_metrics,
    training_sites,
    transfer,
    value_of,
    worst,
)
from consilia.record.schema import Record


def _consistency_global(record: Record, series: Series) -> float | None:
    found = [value for version, value in series["global_accuracy"].items() if version >= 1 and value is not None]
    return inter_peak_forgetting(found).consistency


def _consistency_personal(record: Record, series: Series) -> float | None:
    """Consistency of each training site's personal accuracy over its own participations, averaged over sites."""
    by_site: dict[str, list[float]] = {site: [] for site in training_sites(record)}
    for version, sites in evaluations(record, "personal").items():
        for site, metrics in split_metrics(sites, by_site).items() if version >= 1 else ():
            if (accuracy := value_of(metrics, "accuracy")) is not None:
                by_site[site].append(accuracy)
    return mean(inter_peak_forgetting(accuracies).consistency for accuracies in by_site.values())


FINAL.add(
    "classification",
    [
        FinalMetric(
            "global_accuracy",
            "Global accuracy,\u00a0G",
            "percent",
            True,
            "the shared model; test cases pooled",
            compute=lambda view: pooled_accuracy(view.tested),
            brief=True,
            terminal=Terminal(1, "global", 100, "global: the shared model, test cases pooled."),
        ),
        FinalMetric(
            "global_balanced_accuracy",
            "Global balanced accuracy",
            "percent",
            True,
            f"mean recall of classes; {MEAN}",
            compute=lambda view: site_mean(view.tested, "balanced_accuracy"),
        ),
        *ranking_metrics("global"),
        FinalMetric(
            "worst_global_accuracy",
            "Worst training site, global",
            "percent",
            True,
            "lowest accuracy of the shared model at a training site",
            compute=lambda view: worst(view.home),
        ),
        FinalMetric(
            "personal_accuracy",
            "Personal accuracy,\u00a0L",
            "percent",
            True,
            f"each site's own model at home; {MEAN}",
            compute=lambda view: site_mean(view.own, "accuracy"),
            table="personal",
            brief=True,
            terminal=Terminal(2, "personal", 100, "personal: each site's own model at home, mean over sites."),
        ),
        FinalMetric(
            "personal_balanced_accuracy",
            "Personal balanced accuracy",
            "percent",
            True,
            f"mean recall of classes; {MEAN}",
            compute=lambda view: site_mean(view.own, "balanced_accuracy"),
            table="personal",
        ),
        *ranking_metrics("personal"),
        FinalMetric(
            "worst_personal_accuracy",
            "Worst site, personal",
            "percent",
            True,
            "lowest accuracy of a site's own model",
            compute=lambda view: worst(view.own),
            table="personal",
            terminal=Terminal(4, "worst", 100, "worst: the lowest personal accuracy."),
        ),
        FinalMetric(
            "balance",
            "Balance, (G\u00a0+\u00a0L)\u00a0/\u00a02",
            "percent",
            True,
            "general and personal in one number",
            compute=lambda view: balance(view, pooled_accuracy(view.tested), site_mean(view.own, "accuracy")),
            table="personal",
            brief=True,
            terminal=Terminal(3, "balance", 100, "balance: mean of the two."),
        ),
        *decision_metrics("global"),
        *decision_metrics("personal"),
    ],
)


ROUNDS.add(
    "classification",
    [
        round_metric("global_accuracy", "percent", "cases pooled", every(lambda view: pooled_accuracy(view.tested))),
        round_metric(
            "global_auroc", "score", MEAN, every(lambda view: mean_over_sites(view.tested, "auroc", view.enough))
        ),
        round_metric(
            "validation_accuracy", "percent", "cases pooled", every(lambda view: pooled_accuracy(view.validated))
        ),
        round_metric("personal_accuracy", "percent", MEAN, every(lambda view: site_mean(view.own, "accuracy"))),
        round_metric("worst_accuracy", "percent", "lowest participant", every(lambda view: worst(view.own))),
        round_metric("nfr_global", "percent", "negative flips", lambda record: flip_rates(record, "global"), False),
        round_metric("nfr_personal", "percent", "negative flips", lambda record: flip_rates(record, "personal"), False),
        round_metric("bwt", "signed", "backward transfer", transfer),
    ],
)
OVER_ROUNDS.add(
    "classification",
    [
        OverRoundsMetric(
            "global_accuracy",
            "Mean global accuracy",
            "percent",
            True,
            "G, averaged over rounds",
            compute=mean_of("global_accuracy"),
        ),
        OverRoundsMetric(
            "personal_accuracy",
            "Mean personal accuracy",
            "percent",
            True,
            OWN,
            compute=mean_of("personal_accuracy"),
        ),
        OverRoundsMetric(
            "worst_accuracy",
            "Mean worst participant",
            "percent",
            True,
            "lowest participant of each round, averaged",
            compute=mean_of("worst_accuracy"),
        ),
        OverRoundsMetric(
            "balance",
            "Balance",
            "percent",
            True,
            "mean of the two means above",
            compute=balance_of("global_accuracy", "personal_accuracy"),
        ),
        OverRoundsMetric(
            "nfr_global",
            "Negative flip rate, global",
            "percent",
            False,
            "cases right before and wrong now",
            compute=mean_of("nfr_global"),
            table="forgetting",
            terminal=Terminal(7, "NFR", 100, "NFR: cases newly wrong from round to round."),
        ),
        OverRoundsMetric(
            "nfr_personal",
            "Negative flip rate, personal",
            "percent",
            False,
            "the same for the sites' own models",
            compute=mean_of("nfr_personal"),
            table="forgetting",
        ),
        OverRoundsMetric(
            "bwt",
            "Backward transfer",
            "signed",
            True,
            "change since a site last trained; below 0 is forgetting",
            compute=mean_of("bwt"),
            table="forgetting",
            terminal=Terminal(6, "BwT", 100, "BwT: backward transfer, below 0 is forgetting."),
        ),
        OverRoundsMetric(
            "consistency_global",
            "Consistency, global (our\u00a0reading)",
            "score",
            True,
            "1 − mean relative drop from peaks",
            compute=_consistency_global,
            table="forgetting",
        ),
        OverRoundsMetric(
            "consistency_personal",
            "Consistency, personal (our\u00a0reading)",
            "score",
            True,
            "the same for sites' own models",
            compute=_consistency_personal,
            table="forgetting",
        ),
        OverRoundsMetric(
            "rounds_to_within_1_percent",
            "Rounds to within 1\u00a0%",
            "rounds",
            False,
            WITHIN.format("global AUROC"),
            compute=lambda record, series: rounds_to_within(series["global_auroc"]),
            table="convergence",
        ),
    ],
)
VARIANTS.add(
    "classification",
    [
        VariantMetric(
            "accuracy",
            "Accuracy",
            "percent",
            True,
            "all test cases of the training sites pooled",
            compute=pooled_accuracy,
        ),
        VariantMetric(
            "auroc",
            "AUROC",
            "score",
            True,
            "computed per site, then averaged",
            compute=lambda tested: site_mean(tested, "auroc"),
        ),
    ],
)
