"""Which batches a site trains on in a round: whole passes over its cases, or a number of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from consilia.core.determinism import generator
from consilia.data.augmentation import Transform
from consilia.methods.config import TrainingConfig
from consilia.methods.fit import Batch

if TYPE_CHECKING:
    from consilia.methods.client import Client, Round

EVERYTHING = slice(None)


def passes_of(
    client: Client[Any], round_: Round, epochs: int | None, purposes: tuple[str, ...]
) -> Iterable[Iterable[Batch]]:
    """The batches of a fit: of each pass in turn, or in one piece where a number of steps is asked for.

    Args:
        client: of the site.
        round_: decides the batches.
        epochs: passes over the training cases; None: the round's, or its steps.
        purposes: tell the orders of several fits of one round apart.
    """
    training = client.training
    epochs = round_.epochs if epochs is None else epochs
    steps = training.local_steps if round_.steps is None else round_.steps
    if epochs is None and steps is not None:
        return (_steps(client, round_, steps, purposes),)
    order = generator(client.seed, "batches", *purposes, client.data.site, round_.number)
    count = training.local_epochs if epochs is None else epochs
    return (client.batches(order, _transform(client, round_, epoch)) for epoch in range(count))


def _steps(client: Client[Any], round_: Round, steps: int, purposes: tuple[str, ...]) -> Iterable[Batch]:
    """So many batches of passes without end, from where the rounds before, each of as many, have come to.

    The place follows from the round's number alone: a site that was not sampled has passed over the batches of that
    round. Pass p has an order of its own from (seed, site, p).
    """
    sets = [dataset.train for dataset in client.data.datasets.values() if len(dataset.train)]
    size = sum(batch_count(len(cases), client.training) for cases in sets)
    parts: list[Iterable[Batch]] = []
    for number, part in place_in_passes((round_.number - 1) * steps, steps, size):
        order = generator(client.seed, "batches", *purposes, client.data.site, "pass", number)
        parts.append(client.batches(order, _transform(client, round_, len(parts)), part))
    return chain.from_iterable(parts)


def _transform(client: Client[Any], round_: Round, place: int) -> Transform | None:
    """What augments the training cases of one pass of a round, or of a part of it."""
    return None if client.augmentation is None else client.augmentation.transform(round_.number, place)


def batch_count(cases: int, training: TrainingConfig) -> int:
    """How many batches :func:`shuffled` makes."""
    pieces, single = -(-cases // training.batch_size), (cases - 1) % training.batch_size == 0
    return pieces - int(training.last_batch == "join" and pieces > 1 and single)


def place_in_passes(step: int, steps: int, size: int) -> Iterator[tuple[int, slice]]:
    """Where ``steps`` batches lie that follow after ``step`` others, in passes of ``size``: each pass and its part."""
    while steps:
        number, start = divmod(step, size)
        taken = min(steps, size - start)
        yield number, slice(start, start + taken)
        step, steps = step + taken, steps - taken
