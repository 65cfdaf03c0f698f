"""What stands in the weighted mean's place where a site may send anything: median, trimmed mean, norm clipping.

The rules are :data:`~consilia.aggregation.mean.Rule` for one chunk of all sites; memory is one chunk per site. Clipping
comes before any rule and scales whole updates as they are read.

With fewer than three sites no rule can tell which of them lies: the trimmed mean of one or two sites is their mean, the
weighted median of two is the model of the one that weighs more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from consilia.aggregation.mean import Rule, mean
from consilia.aggregation.norm import change_norm
from consilia.aggregation.store import SpooledUpdate
from consilia.core.errors import AggregationError

TIE = 1e-12
"""Shares that sum to one half but for this are an even split: a sum of shares is rounded."""


def median(parts: Iterator[Tensor], shares: Sequence[float]) -> Tensor:
    """The weighted coordinate median: per element, with the values in order and W_i = w_(1) + ... + w_(i),

        (min{v_(i): W_i >= 1/2} + min{v_(i): W_i > 1/2}) / 2,

    the middle of all m that minimise sum_k w_k |v_k - m|. With equal weights it is the plain median, with an even
    number of sites the mean of the two middle values. It lies within the honest sites' range as long as the others
    hold less than half of the weight.
    """
    values, weights = _in_order(parts, shares)
    reached = weights.cumsum(dim=1)
    lower = values.gather(1, (reached < 0.5 - TIE).sum(dim=1, keepdim=True))
    upper = values.gather(1, (reached <= 0.5 + TIE).sum(dim=1, keepdim=True))
    # Halved before they are added, so that no sum overflows.
    return (lower / 2 + upper / 2).squeeze(1)


def trimmed_mean(trim: float) -> Rule:
    """Per element: drop the g = floor(trim K) smallest and largest values, and take the weighted mean of the others,

        sum_{g < i <= K-g} w_(i) v_(i) / sum_{g < i <= K-g} w_(i),

    or their plain mean where they weigh nothing. It lies within the honest sites' range as long as the others are at
    most g, whatever they weigh.

    Args:
        trim: fraction of the sites that is dropped at either end, in (0, 0.5).

    Raises:
        AggregationError: ``trim`` is out of range.
    """
    if not 0 < trim < 0.5:
        raise AggregationError(f"trim is {trim}, expected a fraction in (0, 0.5)")

    def rule(parts: Iterator[Tensor], shares: Sequence[float]) -> Tensor:
        values, weights = _in_order(parts, shares)
        dropped = dropped_sites(len(shares), trim)
        middle = range(dropped, len(shares) - dropped)
        total, weight, plain = (torch.zeros(len(values), dtype=torch.float64) for _ in range(3))
        for place in middle:
            total += values[:, place] * weights[:, place]
            weight += weights[:, place]
            plain += values[:, place]
        found = torch.where(weight > 0, total / weight, plain / len(middle))
        # A quotient of rounded sums may lie beyond the values by its last bit.
        return found.clamp_(values[:, middle[0]], values[:, middle[-1]])

    return rule


def rule_of(name: str, trim: float) -> Rule:
    """The rule ``mean``, ``median`` or ``trimmed_mean``, the last of which drops a fraction ``trim`` at either end."""
    return {"mean": mean, "median": median, "trimmed_mean": trimmed_mean(trim)}[name]


def dropped_sites(sites: int, trim: float) -> int:
    """How many values the trimmed mean drops at either end: floor(trim K), and at least one value stays."""
    # A product such as 0.29 * 100 may fall short of the integer that it is.
    return min(math.floor(trim * sites + 1e-9), (sites - 1) // 2)


def clipped(
    updates: Mapping[str, SpooledUpdate], previous: Mapping[str, Tensor], limit: float | Literal["median"]
) -> tuple[dict[str, SpooledUpdate], dict[str, float]]:
    """The updates as theta + s_k (theta_k - theta), s_k = min(1, c / ||theta_k - theta||), and s_k where it is below 1.

    The norm is L2 in float64 over all floating tensors of the update; other tensors stay as they are.

    Args:
        updates: this round's, by site name.
        previous: theta, the global state that they started from; has every tensor of every update.
        limit: c > 0, or "median" for the median of this round's norms.
    """
    norms = {site: change_norm(update, previous) for site, update in updates.items()}
    bound = statistics.median(norms.values()) if limit == "median" else limit
    factors = {site: bound / norm for site, norm in sorted(norms.items()) if norm > bound}
    scaled = {
        site: _ClippedUpdate(update.path, factors[site], previous) if site in factors else update
        for site, update in updates.items()
    }
    return scaled, factors


class _ClippedUpdate(SpooledUpdate):
    """An update whose change is scaled as it is read; what it scales comes in float64."""

    def __init__(self, path: Path, factor: float, previous: Mapping[str, Tensor]) -> None:
        super().__init__(path)
        self._factor, self._previous = factor, previous

    def chunk(self, name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        values = super().chunk(name, start, stop, room)
        # Tensors beside the model's own have bounds of their own.
        if not values.is_floating_point() or name not in self._previous:
            return values
        then = self._previous[name].reshape(-1)[start:stop].to(torch.float64)
        return then + (values.to(torch.float64) - then).mul_(self._factor)


def _in_order(parts: Iterator[Tensor], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Values (n, K) in ascending order for every element, and the share of each one's site beside it.

    Equal values stay in site order, so that their shares are summed in the same order whoever answered first.
    """
    values, order = torch.stack(list(parts), dim=1).sort(dim=1, stable=True)
    return values, torch.tensor(shares, dtype=torch.float64)[order]
