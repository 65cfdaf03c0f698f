"""Everything that arrives is checked before it touches the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from consilia.aggregation.norm import STATISTICS_NORM, change_norm, is_statistic
from consilia.core.errors import UpdateRejected

MAX_INTEGER = 2**53
"""Integers are averaged in float64, which holds every integer up to here."""


def check_update(
    tensors: Mapping[str, Tensor],
    weight: float,
    *,
    reference: Mapping[str, Tensor],
    max_norm: float | None,
    max_weight: float,
) -> None:
    """Refuse an update that could harm the global model.

    Args:
        tensors: the update's tensors by name.
        weight: the aggregation weight the update claims; must be finite and in [0, max_weight].
        reference: the current global state; names, shapes and dtypes must match it exactly.
        max_norm: largest allowed L2 norm of (update - reference) over all floating tensors but running statistics,
            whose own change may be up to STATISTICS_NORM; None for no bound.
        max_weight: largest allowed weight.

    Raises:
        UpdateRejected: naming the tensor (or the weight), what was expected and what came. Tests run from cheap to
            dear: weight, names, shapes and dtypes, finiteness, norm.
    """
    _check_weight(weight, max_weight)
    _check_layout(tensors, reference)
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    if max_norm is not None and math.isfinite(max_norm):
        _check_norm(tensors, reference, max_norm)


def _check_weight(weight: float, max_weight: float) -> None:
    if not isinstance(weight, (int, float)) or isinstance(weight, bool):
        raise UpdateRejected(f"weight must be a number, got {type(weight).__name__}")
    if not math.isfinite(weight):
        raise UpdateRejected(f"weight is {weight}, expected a finite number in [0, {max_weight:g}]")
    if not 0 <= weight <= max_weight:
        raise UpdateRejected(f"weight is {weight:g}, expected a number in [0, {max_weight:g}]")


def _check_layout(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(reference) - set(tensors)), sorted(set(tensors) - set(reference))
    if missing:
        raise UpdateRejected(f"missing tensor {_names(missing)}")
    if extra:
        raise UpdateRejected(f"extra tensor {_names(extra)}")
    for name, expected in reference.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            raise UpdateRejected(f"tensor {name!r} is a {type(tensor).__name__}, expected a torch.Tensor")
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UpdateRejected(
                f"tensor {name!r} is {tensor.layout} on {tensor.device}, expected a plain one on the CPU"
            )
        if tensor.shape != expected.shape:
            raise UpdateRejected(f"tensor {name!r} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
        if tensor.dtype != expected.dtype:
            raise UpdateRejected(f"tensor {name!r} has dtype {tensor.dtype}, expected {expected.dtype}")


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.numel() == 0 or tensor.dtype == torch.bool:
        return
    if is_statistic(name) and name.endswith("var") and float(tensor.min()) < 0:
        # Its root is taken: one site's could make every case's output NaN.
        raise UpdateRejected(f"tensor {name!r} holds a negative variance, {float(tensor.min()):.6g}")
    if not (tensor.is_floating_point() or tensor.is_complex()):
        low, high = int(tensor.min()), int(tensor.max())
        if max(-low, high) > MAX_INTEGER:
            raise UpdateRejected(f"tensor {name!r} holds integers from {low} to {high}, beyond +-2**53")
        return
    # A finite sum proves that every entry is finite, at the price of one pass without a temporary. The sum of finite
    # entries may itself overflow, so only then is every entry looked at.
    if math.isfinite(float(tensor.sum(dtype=torch.float32 if tensor.element_size() < 4 else None).abs())):
        return
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite values"
        raise UpdateRejected(f"tensor {name!r} holds {kind} ({int(bad.sum())} of {tensor.numel()} entries)")


def _check_norm(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor], max_norm: float) -> None:
    for statistics, allowed in ((False, max_norm), (True, max(max_norm, STATISTICS_NORM))):
        norm = change_norm({k: tensor for k, tensor in tensors.items() if is_statistic(k) == statistics}, reference)
        if not norm <= allowed:
            what = "norm of the change of running statistics" if statistics else "norm of the change"
            raise UpdateRejected(
                f"{what} is {norm:.6g}, allowed is at most {allowed:.6g} (max_update_norm of the run): where "
                "honest sites are refused so, lower training.learning_rate or raise max_update_norm"
            )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
