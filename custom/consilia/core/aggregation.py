"""The weighted mean of a round's updates, the same to the bit whoever answered first."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from consilia.core.errors import AggregationError
from consilia.core.spool import SpooledUpdate

CHUNK_ELEMENTS = 1 << 16
"""Elements reduced at a time: small enough to stay in the processor's cache, so float64 costs little."""


def weighted_mean(updates: Mapping[str, Mapping[str, Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """sum_k w_k theta_k / sum_k w_k for every tensor, reduced in site order in float64, chunk by chunk.

    Memory is the result plus one chunk per step, whatever the number of sites, when ``updates`` is an
    :class:`~consilia.core.spool.UpdateSpool`. The result has the updates' dtypes. Integer and boolean buffers (such as
    BatchNorm's ``num_batches_tracked``) take the weighted mean rounded half to even.

    Args:
        updates: tensors by name, by site name; every site has the same names, shapes and dtypes.
        weights: one finite weight >= 0 per site; they need not sum to one.

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
    return {name: _mean_of(name, sites, updates, shares) for name in sorted(first)}


def partial_mean(
    updates: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, Mapping[str, float]],
    previous: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """As :func:`weighted_mean`, where a site need not have every tensor and weighs as much as the tensor's weights say.

    Args:
        updates: tensors by name, by site name.
        weights: by tensor name, one finite weight >= 0 for each site that has the tensor.
        previous: kept where the weights of a tensor are none, or sum to zero.

    Raises:
        AggregationError: as above, or a weight for a site that lacks the tensor.
    """
    sent = {site: set(update) for site, update in updates.items()}
    mean = {}
    for name, kept in sorted(previous.items()):
        sites = weights.get(name, {})
        for site in sites:
            if name not in sent.get(site, ()):
                raise AggregationError(f"site {site!r} has a weight for tensor {name!r}, but did not send it")
        # Not by their sum: a weight that is negative or not a number must not pass for none.
        weighed = any(weight != 0 for weight in sites.values())
        mean[name] = _mean_of(name, sorted(sites), updates, normalised(sites)) if weighed else kept.clone()
    return mean


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


def _mean_of(
    name: str, sites: list[str], updates: Mapping[str, Mapping[str, Tensor]], shares: Mapping[str, float]
) -> Tensor:
    sources = [_Source(updates[site], name) for site in sites]
    shape, dtype = sources[0].shape, sources[0].dtype
    for site, source in zip(sites, sources, strict=True):
        if (source.shape, source.dtype) != (shape, dtype):
            raise AggregationError(
                f"tensor {name!r} of site {site!r} is {source.dtype} {tuple(source.shape)}, "
                f"that of {sites[0]!r} is {dtype} {tuple(shape)}"
            )
    result = torch.empty(shape.numel(), dtype=dtype)
    for start in range(0, result.numel(), CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, result.numel())
        total = torch.zeros(stop - start, dtype=torch.float64)
        for site, source in zip(sites, sources, strict=True):
            # Two operations, each exactly rounded, instead of one fused multiply-add: whether a fused one is used
            # may depend on how the work is split between threads, and with it the last bit.
            total += source.chunk(start, stop).to(torch.float64).mul_(shares[site])
        result[start:stop] = total if dtype.is_floating_point else total.round_()
    return result.reshape(shape)


class _Source:
    """One site's tensor, read chunk by chunk from disk or from memory."""

    def __init__(self, update: Mapping[str, Tensor], name: str) -> None:
        self._update, self._name = update, name
        if isinstance(update, SpooledUpdate):
            self.shape, self.dtype = update.shape(name), update.dtype(name)
        else:
            self._flat = update[name].detach().cpu().reshape(-1)
            self.shape, self.dtype = update[name].shape, update[name].dtype

    def chunk(self, start: int, stop: int) -> Tensor:
        if isinstance(self._update, SpooledUpdate):
            return self._update.chunk(self._name, start, stop)
        return self._flat[start:stop]
