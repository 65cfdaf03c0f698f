"""Selective alignment against NumPy and by hand (specification 2.1 and 8.3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from consilia.methods.fedkper.alignment import selective_alignment_loss


def reference(
    z: np.ndarray, zg: np.ndarray, y: np.ndarray, tau: float = 1.0, cap: float = 10.0, gate: str = "batch"
) -> float:
    """The formulas of specification 2.1, written anew in NumPy."""

    def log_softmax(values: np.ndarray) -> np.ndarray:
        shifted = values - values.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    rows = np.arange(len(y))
    fit = -log_softmax(z)[rows, y].mean()
    error = -log_softmax(zg)[rows, y]
    p, log_p, log_q = np.exp(log_softmax(zg / tau)), log_softmax(zg / tau), log_softmax(z / tau)
    divergence = (p * (log_p - log_q)).sum(axis=1)
    if gate == "batch":
        return float(fit + min(1 / (error.mean() + 1e-8), cap) * tau**2 * divergence.mean())
    return float(fit + tau**2 * (np.minimum(1 / (error + 1e-8), cap) * divergence).mean())


def example(seed: int = 0, cases: int = 7, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    order = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(cases, classes, generator=order, dtype=torch.float64) * 2  # noqa: E731
    return draw(), draw(), torch.randint(classes, (cases,), generator=order)


@pytest.mark.parametrize("gate", ["batch", "sample"])
@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("cap", [10.0, 0.4, 0.0])
def test_against_numpy(gate: str, tau: float, cap: float) -> None:
    z, zg, y = example()
    loss = selective_alignment_loss(z, zg, y, temperature=tau, max_kd_weight=cap, kd_weight_mode=gate)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(reference(z.numpy(), zg.numpy(), y.numpy(), tau, cap, gate), rel=1e-12)


@pytest.mark.parametrize(("error", "cap", "strength"), [(0.5, 10.0, 2.0), (4.0, 10.0, 0.25), (0.05, 10.0, 10.0)])
def test_the_client_gate_is_one_number_for_every_batch(error: float, cap: float, strength: float) -> None:
    z, zg, y = example()
    loss = selective_alignment_loss(z, zg, y, max_kd_weight=cap, kd_weight_mode="client", client_error=error)
    divergence = (zg.softmax(1) * (zg.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
    plain = reference(z.numpy(), zg.numpy(), y.numpy(), cap=0.0)
    assert float(loss) == pytest.approx(plain + strength * float(divergence), rel=1e-7)


def test_student_equal_to_teacher_leaves_the_cross_entropy() -> None:
    z, _, y = example()
    plain = torch.nn.functional.cross_entropy(z, y)
    assert float(selective_alignment_loss(z, z.clone(), y)) == pytest.approx(float(plain), rel=1e-12)
    student = z.clone().requires_grad_()
    selective_alignment_loss(student, z, y).backward()
    expected = z.clone().requires_grad_()
    torch.nn.functional.cross_entropy(expected, y).backward()
    torch.testing.assert_close(student.grad, expected.grad)


@pytest.mark.parametrize("gate", ["batch", "sample"])
def test_a_uniform_teacher_pulls_with_one_over_ln_c(gate: str) -> None:
    # Teacher uniform over 8 classes: CE = ln 8. Student puts all but e^-20 on class 0:
    # KL(uniform || student) = -ln 8 - mean(log student) = -ln 8 + 7 * 20 / 8 + ln(1 + 7 e^-20).
    z = torch.zeros(1, 8, dtype=torch.float64)
    z[0, 0] = 20.0
    y = torch.tensor([0])
    loss = selective_alignment_loss(z, torch.zeros(1, 8, dtype=torch.float64), y, kd_weight_mode=gate)
    fit = math.log1p(7 * math.exp(-20))
    divergence = -math.log(8) + 7 * 20 / 8 + fit
    assert float(loss) == pytest.approx(fit + divergence / math.log(8), rel=1e-7)


def test_a_perfect_teacher_pulls_with_the_cap() -> None:
    # Teacher: probability 1 - 2e-44 on class 0, so KL(teacher || student) = -log student[0] = CE = ln 2.
    z, zg = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    loss = selective_alignment_loss(z, zg, torch.tensor([0]))
    assert float(loss) == pytest.approx(11 * math.log(2), rel=1e-9)


def test_the_divergence_is_forward() -> None:
    z, zg, y = example()
    swapped = selective_alignment_loss(zg, z, y)
    assert abs(float(selective_alignment_loss(z, zg, y)) - float(swapped)) > 0.1


def test_no_gradient_reaches_teacher_or_gate() -> None:
    z, zg, y = example()
    student, teacher = z.requires_grad_(), zg.requires_grad_()
    selective_alignment_loss(student, teacher, y).backward()
    assert teacher.grad is None
    # The gate is a constant: the gradient is softmax(z) - onehot + lambda (softmax(z) - softmax(zg)), over B.
    lam = min(1 / float(torch.nn.functional.cross_entropy(zg.detach(), y)), 10.0)
    p, pg, hot = z.softmax(1), zg.softmax(1), torch.nn.functional.one_hot(y, 4)
    torch.testing.assert_close(student.grad, ((p - hot + lam * (p - pg)) / len(y)).detach(), rtol=1e-6, atol=1e-8)


def test_sample_gate_keeps_cases_separable() -> None:
    z, zg, y = example()
    whole = selective_alignment_loss(z, zg, y, kd_weight_mode="sample")
    parts = [
        selective_alignment_loss(z[i : i + 1], zg[i : i + 1], y[i : i + 1], kd_weight_mode="sample")
        for i in range(len(y))
    ]
    assert float(whole) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-12)


def test_confident_logits_stay_finite() -> None:
    z, zg = torch.tensor([[1000.0, -1000.0]]), torch.tensor([[-1000.0, 1000.0]])
    assert math.isfinite(float(selective_alignment_loss(z, zg, torch.tensor([1]))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature > 0"),
        ({"max_kd_weight": -1.0}, "max_kd_weight >= 0"),
        ({"kd_weight_mode": "round"}, "kd_weight_mode must be"),
        ({"kd_weight_mode": "client"}, "client_error goes with kd_weight_mode 'client' alone, got None"),
        ({"kd_weight_mode": "batch", "client_error": 1.0}, "got 1.0 with 'batch'"),
    ],
)
def test_bad_options(arguments: dict, message: str) -> None:
    z, zg, y = example()
    with pytest.raises(ValueError, match=message):
        selective_alignment_loss(z, zg, y, **arguments)


def test_bad_shapes() -> None:
    z, zg, y = example()
    with pytest.raises(ValueError, match=r"\(7, 4\), \(7, 3\)"):
        selective_alignment_loss(z, zg[:, :3], y)
    with pytest.raises(ValueError, match="targets"):
        selective_alignment_loss(z, zg, y[:3])
