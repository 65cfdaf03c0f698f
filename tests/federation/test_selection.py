"""The best round: what the validation value of several sites is, and which version it chooses."""

from __future__ import annotations

import pytest

from consilia.federation.selection import BestRound, validation_value
from consilia.record.schema import Metrics, PromptMetrics, SegmentationMetrics, SiteMetrics
from tests.federation.support import small


def part(count: int, loss: float | None, *, auroc: float | None = 0.5, **more: object) -> Metrics:
    values = {"count": count, "correct": 0, "accuracy": 0.0, "balanced_accuracy": 0.0, "auroc": auroc, "loss": loss}
    return Metrics.model_validate({**values, **more})


def sites(*validation: Metrics | SegmentationMetrics | None) -> dict[str, SiteMetrics]:
    return {f"site-{n}": SiteMetrics(validation=split, test=None) for n, split in enumerate(validation)}


def test_the_loss_is_pooled_over_cases() -> None:
    # (30 * 0.4 + 10 * 0.8) / 40; the mean of the sites would be 0.6
    assert validation_value(sites(part(30, 0.4), part(10, 0.8), None), "loss") == pytest.approx(0.5)
    # Where a loss is not finite there is none, and its cases do not count.
    assert validation_value(sites(part(30, 0.4), part(10, None)), "loss") == pytest.approx(0.4)
    assert validation_value(sites(part(30, None), None), "loss") is None


def test_other_metrics_are_means_over_the_sites() -> None:
    found = sites(part(30, 0.4, auroc=0.9), part(10, 0.8, auroc=0.7), part(5, 0.1, auroc=None))
    assert validation_value(found, "auroc") == pytest.approx(0.8)
    prompt = {"box": PromptMetrics(dice=0.8, iou=0.7, missed=0)}
    other = {"box": PromptMetrics(dice=0.6, iou=0.5, missed=0)}
    segmented = sites(
        SegmentationMetrics(count=9, empty=0, unit="px", prompts=prompt),
        SegmentationMetrics(count=1, empty=0, unit="px", prompts=other),
    )
    assert validation_value(segmented, "dice") == pytest.approx(0.7)


def test_the_loss_of_several_tasks_is_their_mean() -> None:
    ecg, x_ray = part(10, 0.2), part(30, 0.6)
    first = part(40, 9.9, tasks={"ecg": ecg, "x-ray": x_ray})
    second = part(30, 9.9, tasks={"ecg": part(30, 0.4)})
    # ecg: (10 * 0.2 + 30 * 0.4) / 40 = 0.35; x-ray: 0.6
    assert validation_value(sites(first, second), "loss") == pytest.approx((0.35 + 0.6) / 2)


def test_a_lower_loss_is_better_and_a_higher_auroc() -> None:
    by_loss, by_auroc = BestRound("loss", {}), BestRound("auroc", {})
    for version, (loss, auroc) in enumerate([(0.1, 1.0), (0.7, 0.6), (0.5, 0.8), (0.6, 0.9)]):
        for best in (by_loss, by_auroc):
            best.offer(version, {}, sites(part(10, loss, auroc=auroc)))
    assert (by_loss.version, by_loss.stale) == (2, 1)  # the initial model is never chosen
    assert (by_auroc.version, by_auroc.stale) == (3, 0)
    assert not by_loss.offer(4, {}, sites(None))
    assert by_loss.stale == 1  # where nothing is judged, nothing is stale


def test_a_large_site_outweighs_a_single_patient() -> None:
    """By the mean over the sites one case of a small site would turn the choice."""
    best = BestRound("loss", {})
    best.offer(1, {}, sites(part(100, 0.50), part(1, 0.9)))
    assert not best.offer(2, {}, sites(part(100, 0.60), part(1, 0.1)))


def test_the_default_is_the_loss() -> None:
    assert small().primary_metric == "loss"
    assert small(select_by="auroc").primary_metric == "auroc"
