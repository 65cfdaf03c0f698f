"""Selective alignment: distillation from the global model, weighted by how correct that is on the site's labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8


def selective_alignment_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    max_kd_weight: float = 10.0,
    kd_weight_mode: Literal["batch", "sample", "client"] = "batch",
    client_error: float | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """FedKPer's local loss, L(B) = CE(z) + lambda * tau^2 KL(softmax(z_g / tau) || softmax(z / tau)).

    lambda = min(1 / (CE(z_g) + 1e-8), max_kd_weight): strong where the global model is correct on the labels of the
    site, weak where it is wrong (paper Eq. 3, specification 2.1). No gradient reaches the teacher or lambda.

    Args:
        student_logits: z (B, C) of the model in training.
        teacher_logits: z_g (B, C) of the frozen global model.
        targets: class indices (B,).
        temperature: tau > 0.
        max_kd_weight: lambda_max >= 0; 0 leaves the cross-entropy alone.
        kd_weight_mode: ``batch`` = one lambda from the mean cross-entropy of the batch (the released method);
            ``sample`` = one lambda per case, so that cases stay separable (as per-example clipping needs);
            ``client`` = one lambda for the round, from ``client_error``.
        client_error: mean CE(z_g) over all training cases of the site, of ``client`` alone.
        class_weights: (C,) of CE(z), whose mean is then the weighted one; lambda and the distillation stay unweighted.

    Returns:
        Scalar loss.

    Raises:
        ValueError: shapes that do not match, or an option out of range.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:1] != targets.shape:
        raise ValueError(
            f"expected student and teacher logits (B, C) and targets (B,), got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {tuple(targets.shape)}"
        )
    if not temperature > 0 or not max_kd_weight >= 0:
        raise ValueError(f"expected temperature > 0 and max_kd_weight >= 0, got {temperature} and {max_kd_weight}")
    if kd_weight_mode not in ("batch", "sample", "client"):
        raise ValueError(f"kd_weight_mode must be 'batch', 'sample' or 'client', got {kd_weight_mode!r}")
    if (client_error is not None) != (kd_weight_mode == "client"):
        raise ValueError(
            f"client_error goes with kd_weight_mode 'client' alone, got {client_error} with {kd_weight_mode!r}"
        )
    teacher_logits = teacher_logits.detach()
    fit = functional.cross_entropy(student_logits, targets, weight=class_weights)
    error = functional.cross_entropy(teacher_logits, targets, reduction="none")  # (B,)
    divergence = functional.kl_div(
        functional.log_softmax(student_logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)  # (B,)
    if kd_weight_mode == "batch":
        error = error.mean()
    elif client_error is not None:
        error = error.new_tensor(client_error)
    strength = torch.clamp(1 / (error + EPSILON), max=max_kd_weight)
    return fit + temperature**2 * (strength * divergence).mean()
