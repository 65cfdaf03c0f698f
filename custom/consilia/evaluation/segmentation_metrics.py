"""The metrics of a run of a segmentation. See docs/metrics.md for the formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

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
    SETTINGS,
    Tested,
    View,
    primary_mean,
    rounds_to_within,
    site_mean,
    worst,
)
from consilia.record.metrics import PREDICTIONS
from consilia.record.schema import PromptSetting

PROMPTS: dict[PromptSetting, str] = {"box": "true box", "jitter": "jittered box", "image": "whole image"}

_BY_PROMPT = (
    "Dice of the shared model, mean over sites, by what it is shown: the true box (an oracle), the whole image, the "
    "true box jittered by a tenth."
)


def _prompted(kind: Literal["global", "personal"], whose: str) -> list[FinalMetric]:
    """Dice, IoU and HD95 of one kind of model under every prompt setting."""

    def computed(name: str, setting: PromptSetting) -> Callable[[View], float | None]:
        def compute(view: View) -> float | None:
            if name == "hd95" and len(view.units) > 1:
                return None
            return site_mean(view.tested if kind == "global" else view.own, name, setting)

        return compute

    tables: Mapping[str, Literal["global", "distance", "personal"] | None] = (
        {"dice": "global", "iou": "distance", "hd95": "distance"} if kind == "global" else {"dice": "personal"}
    )
    short = {
        "global_dice_box": Terminal(1, "Dice box", 100, _BY_PROMPT),
        "global_dice_image": Terminal(2, "image", 100),
        "global_dice_jitter": Terminal(3, "jitter", 100),
        "global_hd95_box": Terminal(4, "HD95 box", 1, "HD95 in pixels or mm."),
        "personal_dice_box": Terminal(
            5, "personal", 100, "personal: each site's own model, true box; worst: the lowest of them."
        ),
    }
    brief = {"global_dice_box", "global_dice_jitter", "global_dice_image", "global_hd95_box", "personal_dice_box"}
    return [
        FinalMetric(
            f"{kind}_{metric.name}_{setting}",
            f"{metric.heading}, {kind}, {prompt}",
            metric.unit,
            metric.higher_is_better,
            f"{metric.meaning}; {whose}, {MEAN}",
            compute=computed(metric.name, setting),
            table=tables.get(metric.name),
            brief=f"{kind}_{metric.name}_{setting}" in brief,
            terminal=short.get(f"{kind}_{metric.name}_{setting}"),
        )
        for metric in PREDICTIONS.of("segmentation")
        for setting, prompt in PROMPTS.items()
    ]


FINAL.add(
    "segmentation",
    [
        *_prompted("global", "the shared model"),
        FinalMetric(
            "worst_global_dice",
            "Worst training site, global",
            "score",
            True,
            "lowest Dice of the shared model at a training site, true box",
            compute=lambda view: worst(view.home),
        ),
        *_prompted("personal", "each site's own model at home"),
        FinalMetric(
            "worst_personal_dice",
            "Worst site, personal",
            "score",
            True,
            "lowest Dice of a site's own model, true box",
            compute=lambda view: worst(view.own),
            table="personal",
            terminal=Terminal(6, "worst", 100),
        ),
        FinalMetric(
            "balance",
            "Balance, (G\u00a0+\u00a0L)\u00a0/\u00a02",
            "score",
            True,
            "mean of both Dice, true box",
            compute=lambda view: balance(view, primary_mean(view.tested), primary_mean(view.own)),
            table="personal",
        ),
    ],
)


ROUNDS.add(
    "segmentation",
    [
        round_metric("global_dice", "score", MEAN, every(lambda view: primary_mean(view.tested))),
        round_metric("global_dice_image", "score", MEAN, every(lambda view: site_mean(view.tested, "dice", "image"))),
        round_metric("global_dice_jitter", "score", MEAN, every(lambda view: site_mean(view.tested, "dice", "jitter"))),
        round_metric("validation_dice", "score", MEAN, every(lambda view: primary_mean(view.validated))),
        round_metric("personal_dice", "score", "participants", every(lambda view: primary_mean(view.own))),
        round_metric("worst_dice", "score", "lowest participant", every(lambda view: worst(view.own))),
    ],
)

OVER_ROUNDS.add(
    "segmentation",
    [
        OverRoundsMetric(
            "global_dice",
            "Mean global Dice",
            "score",
            True,
            "true box, averaged over rounds",
            compute=mean_of("global_dice"),
        ),
        OverRoundsMetric("personal_dice", "Mean personal Dice", "score", True, OWN, compute=mean_of("personal_dice")),
        OverRoundsMetric(
            "worst_dice",
            "Mean worst participant",
            "score",
            True,
            "lowest participant of each round, averaged",
            compute=mean_of("worst_dice"),
        ),
        OverRoundsMetric(
            "balance",
            "Balance",
            "score",
            True,
            "mean of the first two means",
            compute=balance_of("global_dice", "personal_dice"),
        ),
        OverRoundsMetric(
            "rounds_to_within_1_percent",
            "Rounds to within 1\u00a0%",
            "rounds",
            False,
            WITHIN.format("global Dice"),
            compute=lambda record, series: rounds_to_within(series["global_dice"]),
            table="convergence",
        ),
    ],
)


def _dice(setting: PromptSetting) -> Callable[[Tested], float | None]:
    return lambda tested: site_mean(tested, "dice", setting)


VARIANTS.add(
    "segmentation",
    [
        VariantMetric(f"dice_{setting}", f"Dice, {PROMPTS[setting]}", "score", True, MEAN, compute=_dice(setting))
        for setting in SETTINGS
    ],
)
