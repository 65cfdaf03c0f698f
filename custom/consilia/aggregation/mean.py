"""The weighted mean of a round's updates, the same to the bit whoever answered first."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import torch
from torch import Tensor

from consilia.aggregation.store import SpooledUpdate
from consilia.core.determinism import cores
from consilia.core.errors import AggregationError

CHUNK_ELEMENTS = 1 << 16
"""Elements that a rule gets of every site at a time."""

MEAN_ELEMENTS = 1 << 18
"""Elements averaged at a time, in 5 MB that are used again and again: they stay in the processor's cache."""

THREADS = 4
"""So many threads, or one a core, share the chunks of a large state: they read, and add element by element."""

THREADED_ELEMENTS = 1 << 20
"""A smaller state is done before threads have begun."""

OPEN_FILES = 64
"""So many sites' files stay open while their tensors are reduced; of more, each is opened for every chunk."""

Rule = Callable[[Iterator[Tensor], Sequence[float]], Tensor]
"""What one chunk becomes: the sites' chunks in site order, each (n,) float64 and free to be written over, and their
shares, which sum to one, give the result (n,) in float64."""


def mean(parts: Iterator[Tensor], shares: Sequence[float]) -> Tensor:
    """sum_k w_k theta_k, one site's chunk in memory at a time. There is at least one."""
    # Adding zero changes nothing but -0.0, so that the sum is as if begun at zero.
    total = next(parts).mul_(shares[0]).add_(0.0)
    for part, share in zip(parts, shares[1:], strict=True):
        # Two operations, each exactly rounded, instead of one fused multiply-add: whether a fused one is used
        # may depend on how the work is split between threads, and with it the last bit.
        total += part.mul_(share)
    return total


def weighted_mean(
    updates: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, float],
    rule: Rule = mean,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """sum_k w_k theta_k / sum_k w_k for every tensor, reduced in site order in float64, chunk by chunk.

    Memory is the result plus one chunk per step, whatever the number of sites, when ``updates`` is an
    :class:`~consilia.aggregation.store.UpdateSpool`. The result has the updates' dtypes. Integer and boolean buffers
    (such as BatchNorm's ``num_batches_tracked``) take the weighted mean rounded half to even.

    Args:
        updates: tensors by name, by site name; every site has the same names, shapes and dtypes.
        weights: one finite weight >= 0 per site; they need not sum to one.
        rule: what stands in the mean's place, see :mod:`consilia.aggregation.robust`.
        names: of the tensors to average; all by default.

    Raises:
        AggregationError: no update, sites without weight (or the reverse), a bad weight, a zero sum, or tensors that
            do not match between sites.
    """
    shares = normalised(weights)
    if set(updates) != set(shares):
        raise AggregationError(f"updates came from {sorted(updates)}, weights are for {sorted(shares)}")
    sites = sorted(updates)
    first = updates[sites[0]]
    for site in sites[1:]:
        if set(updates[site]) != set(first):
            odd = sorted(set(updates[site]) ^ set(first))
            raise AggregationError(f"sites {sites[0]!r} and {site!r} differ in tensor {odd[0]!r}")
    chosen = sorted(first if names is None else names)
    with ExitStack() as files:
        for update in list(updates.values())[:OPEN_FILES]:
            if isinstance(update, SpooledUpdate):
                files.enter_context(update.opened())
        reductions = {name: _Reduction(name, sites, updates, shares) for name in chosen}
        _reduce(reductions.values(), rule)
    return {name: reduction.result for name, reduction in reductions.items()}


def mean_of_updates(
    updates: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, float | Mapping[str, float]],
    previous: Mapping[str, Tensor],
    rule: Rule = mean,
) -> dict[str, Tensor]:
    """The mean of the tensors of a global state, by one weight for each site or by weights for each of its tensors.

    Args:
        updates: tensors by name, by site name; others than those of ``previous`` are left aside.
        weights: by site, a weight, or weights by tensor.
        previous: the global state; a tensor that no site has a weight for stays as it was.
        rule: as for :func:`weighted_mean`.

    Raises:
        AggregationError: see :func:`weighted_mean` and :func:`partial_mean`.
    """
    plain = {site: weight for site, weight in weights.items() if not isinstance(weight, Mapping)}
    if len(plain) == len(weights):
        return weighted_mean(updates, plain, rule, names=previous.keys())
    by_tensor = {
        name: {
            site: weight[name] if isinstance(weight, Mapping) else weight
            for site, weight in weights.items()
            if not isinstance(weight, Mapping) or name in weight
        }
        for name in previous
    }
    return partial_mean(updates, by_tensor, previous, rule)


def partial_mean(
    updates: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, Mapping[str, float]],
    previous: Mapping[str, Tensor],
    rule: Rule = mean,
) -> dict[str, Tensor]:
    """As :func:`weighted_mean`, where a site need not have every tensor and weighs as much as the tensor's weights say.

    Args:
        updates: tensors by name, by site name.
        weights: by tensor name, one finite weight >= 0 for each site that has the tensor.
        previous: kept where the weights of a tensor are none, or sum to zero.
        rule: as above; it sees those sites alone that have a weight for the tensor.

    Raises:
        AggregationError: as above, or a weight for a site that lacks the tensor.
    """
    sent = {site: set(update) for site, update in updates.items()}
    reductions = {}
    for name in sorted(previous):
        sites = weights.get(name, {})
        for site in sites:
            if name not in sent.get(site, ()):
                raise AggregationError(f"site {site!r} has a weight for tensor {name!r}, but did not send it")
        # Not by their sum: a weight that is negative or not a number must not pass for none.
        if any(weight != 0 for weight in sites.values()):
            reductions[name] = _Reduction(name, sorted(sites), updates, normalised(sites))
    _reduce(reductions.values(), rule)
    return {
        name: reductions[name].result if name in reductions else before.clone()
        for name, before in sorted(previous.items())
    }


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights divided by their exactly rounded sum.

    Raises:
        AggregationError: no weights, a weight that is negative or not finite, or all of them zero.
    """
    if not weights:
        raise AggregationError("there is no update to aggregate")
    for site, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise AggregationError(f"weight of site {site!r} is {weight}, expected a finite number >= 0")
    total = math.fsum(weights.values())
    if total <= 0:
        raise AggregationError(f"the weights of {sorted(weights)} sum to zero")
    return {site: weights[site] / total for site in sorted(weights)}


class _Reduction:
    """One tensor of all sites that becomes one, in chunks of which each can be reduced by itself.

    Raises:
        AggregationError: the sites' tensors differ in shape or dtype.
    """

    def __init__(
        self, name: str, sites: list[str], updates: Mapping[str, Mapping[str, Tensor]], shares: Mapping[str, float]
    ) -> None:
        self._name, self._updates = name, [updates[site] for site in sites]
        self._shares = [shares[site] for site in sites]
        sources = self._sources()
        self._shape, self._dtype = sources[0].shape, sources[0].dtype
        for site, source in zip(sites, sources, strict=True):
            if (source.shape, source.dtype) != (self._shape, self._dtype):
                raise AggregationError(
                    f"tensor {name!r} of site {site!r} is {source.dtype} {tuple(source.shape)}, "
                    f"that of {sites[0]!r} is {self._dtype} {tuple(self._shape)}"
                )
        self._result = torch.empty(self._shape.numel(), dtype=self._dtype)

    @property
    def result(self) -> Tensor:
        """Whole when all chunks are done."""
        return self._result.reshape(self._shape)

    def chunks(self, elements: int) -> Iterator[tuple[int, int]]:
        """First and one past the last element of every chunk."""
        for start in range(0, len(self._result), elements):
            yield start, min(start + elements, len(self._result))

    def reduce(self, start: int, stop: int, rule: Rule, rooms: _Rooms | None) -> None:
        """Fill in one chunk of the result."""
        found = rule(_chunks(self._sources(), start, stop, rooms), self._shares)
        self._result[start:stop] = found if self._dtype.is_floating_point else found.round_()

    def _sources(self) -> list[_Source]:
        """Made when they are needed: those of all tensors and sites together would take memory by their number."""
        return [_Source(update, self._name) for update in self._updates]


def _reduce(reductions: Collection[_Reduction], rule: Rule) -> None:
    """Fill in all results. Every element is reduced in site order, whichever thread does it: the bits are the same."""
    elements = MEAN_ELEMENTS if rule is mean else CHUNK_ELEMENTS
    chunks = [(reduction, *chunk) for reduction in reductions for chunk in reduction.chunks(elements)]

    def work(part: Sequence[tuple[_Reduction, int, int]]) -> None:
        rooms = _Rooms(elements) if rule is mean else None
        for reduction, start, stop in part:
            reduction.reduce(start, stop, rule, rooms)

    threads = min(THREADS, cores())
    if threads == 1 or sum(stop - start for _, start, stop in chunks) < THREADED_ELEMENTS:
        work(chunks)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, chunks[first::threads]) for first in range(threads)]:
            done.result()


class _Rooms:
    """Memory that chunks are read into and summed in, again and again: it stays in the processor's cache."""

    def __init__(self, elements: int) -> None:
        self.read, self.total, self.part = torch.empty(3, elements, dtype=torch.float64)


def _chunks(sources: Sequence[_Source], start: int, stop: int, rooms: _Rooms | None) -> Iterator[Tensor]:
    """A chunk of each source; with ``rooms`` the first one lies in one place, all others, in turn, in another."""
    for source in sources:
        if rooms is None:
            yield source.chunk(start, stop).to(torch.float64, copy=True)
        else:
            room = rooms.total if source is sources[0] else rooms.part
            yield room[: stop - start].copy_(source.chunk(start, stop, rooms.read.view(source.dtype)))


class _Source:
    """One site's tensor, read chunk by chunk from disk or from memory."""

    def __init__(self, update: Mapping[str, Tensor], name: str) -> None:
        self._update, self._name = update, name
        if isinstance(update, SpooledUpdate):
            self.shape, self.dtype = update.shape(name), update.dtype(name)
        else:
            self._flat = update[name].detach().cpu().reshape(-1)
            self.shape, self.dtype = update[name].shape, update[name].dtype

    def chunk(self, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        """Elements start..stop, not to be changed; what comes from the disk lies in ``room``, if there is one."""
        if isinstance(self._update, SpooledUpdate):
            return self._update.chunk(self._name, start, stop, room)
        return self._flat[start:stop]
