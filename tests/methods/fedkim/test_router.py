from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from consilia.core.determinism import seeded
from consilia.methods.fedkim.router import ExpertRouter


def router(dim: int = 4, experts: int = 3) -> ExpertRouter:
    with seeded(0, "router"):
        return ExpertRouter(dim, experts)


def by_numpy(model: ExpertRouter, modality: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Gates of one sample without padding, from the formula."""
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def softmax(values: np.ndarray) -> np.ndarray:
        raised = np.exp(values - values.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    scores = linear("query", modality) @ linear("key", task).T / np.sqrt(modality.shape[-1])
    return softmax(linear("output", (softmax(scores) @ linear("value", task)).mean(0)))


def padded(rows: list[Tensor], length: int, filling: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows (L_i, d) filled up to one length, and their mask."""
    values = torch.full((len(rows), length, rows[0].shape[-1]), filling)
    mask = torch.zeros(len(rows), length)
    for index, row in enumerate(rows):
        values[index, : len(row)], mask[index, : len(row)] = row, 1
    return values, mask


def texts(seed: int, *lengths: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 4, generator=draw) for length in lengths]


def test_gates_of_a_hand_worked_case() -> None:
    model = ExpertRouter(2, 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.eye(2) if name.endswith("weight") else torch.zeros(2))
        model.value.bias.copy_(torch.tensor([1.0, 0.0]))
        model.output.bias.copy_(torch.tensor([0.0, 0.5]))
    modality = torch.tensor([[[np.sqrt(2.0), 0.0], [0.0, 0.0]]])
    task = torch.tensor([[[np.log(3.0), 0.0], [0.0, 0.0]]])
    # Query 1: scores (ln 3, 0), attention (3/4, 1/4). Query 2: scores (0, 0), attention (1/2, 1/2). Their mean weighs
    # the first key by 5/8, so beta = (5/8 ln 3 + 1, 0), and the second expert's logit is its bias 1/2.
    first = 5 / 8 * np.log(3.0) + 1
    expected = 1 / (1 + np.exp(0.5 - first))
    gates = model(modality.float(), torch.ones(1, 2), task.float(), torch.ones(1, 2))
    np.testing.assert_allclose(gates.detach().numpy(), [[expected, 1 - expected]], atol=1e-6)


def test_gates_equal_the_formula_whatever_the_padding_and_the_batch() -> None:
    model = router()
    modalities, tasks = texts(1, 2, 5, 1), texts(2, 3, 1, 7)
    expected = np.stack([by_numpy(model, m.numpy(), t.numpy()) for m, t in zip(modalities, tasks, strict=True)])
    for length, filling in ((7, 0.0), (7, 50.0), (40, -3.0)):
        gates = model(*padded(modalities, length, filling), *padded(tasks, length, filling)).detach().numpy()
        np.testing.assert_allclose(gates, expected, atol=1e-6)
        np.testing.assert_allclose(gates.sum(1), 1, atol=1e-6)
    alone = model(*padded(modalities[1:2], 5), *padded(tasks[1:2], 1)).detach().numpy()
    np.testing.assert_allclose(alone, expected[1:2], atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the gates do depend on the texts


def test_padding_on_the_left_counts_no_more_than_on_the_right() -> None:
    model = router()
    modality, task = texts(3, 3, 4)
    values, mask = torch.cat([torch.ones(2, 4), task])[None], torch.tensor([[False, False, True, True, True, True]])
    gates = model(modality[None], torch.ones(1, 3, dtype=torch.long), values, mask)
    np.testing.assert_allclose(gates[0].detach().numpy(), by_numpy(model, modality.numpy(), task.numpy()), atol=1e-6)


def test_embeddings_in_half_precision_are_routed_in_the_routers_own() -> None:
    model = router()
    modality, task = (row.half() for row in texts(4, 3, 4))
    gates = model(modality[None], torch.ones(1, 3), task[None], torch.ones(1, 4))
    assert gates.dtype == torch.float32
    expected = by_numpy(model, modality.double().numpy(), task.double().numpy())
    np.testing.assert_allclose(gates[0].detach().numpy(), expected, atol=1e-6)


def test_every_parameter_of_the_router_gets_a_gradient() -> None:
    model = router()
    modalities, tasks = texts(5, 3), texts(6, 4)
    model(*padded(modalities, 3), *padded(tasks, 4))[0, 0].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    # The key's bias shifts all scores of a query alike, which a softmax does not see.
    assert {name for name, value in gradients.items() if value is not None and value.abs().max() > 1e-7} == (
        set(gradients) - {"key.bias"}
    )


def test_a_description_of_padding_alone_is_refused_by_its_row() -> None:
    model = router()
    values, mask = padded(texts(7, 3, 3), 3)
    empty = mask.clone()
    empty[1] = 0
    with pytest.raises(ValueError, match=r"task: descriptions without a single real token in rows \[1\]"):
        model(values, mask, values, empty)
    with pytest.raises(ValueError, match=r"modality: descriptions without .* rows \[1\]"):
        model(values, empty, values, mask)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    model = router()
    values, mask = padded(texts(8, 3, 3), 3)
    with pytest.raises(ValueError, match=r"modality: embeddings \(B, L, 4\) .* got \(2, 3, 3\)"):
        model(values[..., :3], mask, values, mask)
    with pytest.raises(ValueError, match=r"task: .* got \(2, 3, 4\) and \(2, 2\)"):
        model(values, mask, values, mask[:, :2])
    with pytest.raises(ValueError, match="got 2 and 1"):
        model(values, mask, values[:1], mask[:1])
    with pytest.raises(ValueError, match="at least 2 experts, got 4, 1"):
        ExpertRouter(4, 1)
