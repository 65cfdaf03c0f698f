"""What a model forgets from round to round (Fowler and AlRegib, "FedKPer", arXiv 2605.00698).

Negative flips and backward transfer are as in the authors' released code. The inter-peak rate is named in the paper
but its formula is not published in the code, so ours is a reading and every report says so.
Version r is the global model after round r; version 0 is the initial one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


def flips(previous: Tensor, current: Tensor) -> tuple[int, int]:
    """Negative and positive flips between two evaluations of the same cases, each (N,) bool "was right".

    Negative: right before and wrong now. Positive: wrong before and right now.
    """
    if previous.shape != current.shape:
        raise ValueError(f"flips compare the same cases, got {tuple(previous.shape)} and {tuple(current.shape)}")
    return int((previous & ~current).sum()), int((~previous & current).sum())


def backward_transfer(
    global_accuracy: Mapping[int, Mapping[str, float]], participants: Mapping[int, Sequence[str]]
) -> dict[int, float]:
    """BwT(r) per version r >= 1: mean over sites k that trained in some earlier round of A_k(r) - A_k(r_k).

    ``global_accuracy[version][site]`` is A_k, the accuracy of the global model on the site's test cases;
    ``participants[round]`` lists who trained in the round; r_k is the last round before r in which k trained, so
    A_k(r_k) belongs to the model that this round gave. Negative values mean forgetting. 0 where nobody trained
    earlier. A site without one of its two evaluations is left out, and a version for which that leaves no site has
    no entry (it is not known, which is not the same as 0).
    """
    transfer = {}
    for version in sorted(v for v in global_accuracy if v >= 1):
        last_trained: dict[str, int] = {}
        for earlier in sorted(r for r in participants if r < version):
            last_trained.update(dict.fromkeys(participants[earlier], earlier))
        now = global_accuracy[version]
        changes = [
            now[site] - global_accuracy[earlier][site]
            for site, earlier in last_trained.items()
            if site in now and site in global_accuracy.get(earlier, {})
        ]
        if changes or not last_trained:
            transfer[version] = sum(changes) / len(changes) if changes else 0.0
    return transfer


@dataclass(frozen=True)
class InterPeakForgetting:
    """Our reading of IPFR, AIPFR and Consistency. ``rates`` holds one IPFR per interval, in order.

    ``average`` (AIPFR) is their mean, 0 if accuracy never fell below a peak, None with fewer than two evaluations.
    ``consistency`` = 1 - AIPFR. ``censored``: the last interval was still open when the series ended.
    """

    rates: tuple[float, ...]
    average: float | None
    consistency: float | None
    censored: bool


def inter_peak_forgetting(accuracies: Sequence[float]) -> InterPeakForgetting:
    """Mean relative drop below each accuracy peak until the peak is reached again.

    An interval opens at t_j where the accuracy A(t_j) is the highest so far (equalled counts) and then falls; it
    closes at the first later r_j with A(r_j) >= A(t_j), or after the last evaluation (censored).
    IPFR_j = mean over t_j < t < r_j of (A(t_j) - A(t)) / A(t_j).
    """
    if len(accuracies) < 2:
        return InterPeakForgetting((), None, None, False)
    rates: list[float] = []
    drops: list[float] = []
    peak = accuracies[0]
    for accuracy in accuracies[1:]:
        if accuracy < peak:
            drops.append((peak - accuracy) / peak)
            continue
        if drops:
            rates.append(sum(drops) / len(drops))
        peak, drops = accuracy, []
    if drops:
        rates.append(sum(drops) / len(drops))
    average = sum(rates) / len(rates) if rates else 0.0
    return InterPeakForgetting(tuple(rates), average, 1 - average, censored=bool(drops))
