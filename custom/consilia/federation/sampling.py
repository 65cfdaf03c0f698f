"""Which training sites a round asks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from consilia.core.determinism import generator


def draws(names: Sequence[str], participation: float) -> int:
    """How many sites a round draws: max(int(K * participation), 1)."""
    return max(int(len(names) * participation), 1)


def sample(
    names: Sequence[str], absent: Collection[str], *, participation: float, seed: int, round_number: int
) -> list[str]:
    """Draw sites without replacement, from (seed, round) alone.

    Args:
        names: all training sites of the run, sorted, so that one that is away does not change who is drawn beside it.
        absent: those that are away. Where all who are drawn are, the next in the round's order are asked: the run could
            never get past this round.
        participation: fraction of the sites.
        seed: the run's.
        round_number: 1-based.

    Returns:
        The sites to ask, sorted; fewer than drawn where some of these are away.
    """
    count = draws(names, participation)
    drawn = [
        names[int(index)] for index in torch.randperm(len(names), generator=generator(seed, "sample", round_number))
    ]
    there = [name for name in drawn if name not in absent]
    return sorted([name for name in drawn[:count] if name in there] or there[:count])
