from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from consilia.core.determinism import generator, state_digest
from consilia.methods.fedkim.m3oe import M3OELayer
from tests.methods.fedkim.support import (
    FAMILIES,
    TOKENS,
    adapted,
    copy_experts,
    gates_of,
    language_model,
    lora,
    loss_and_gradients,
    randomise_experts,
    small_linear,
)


def test_two_experts_worked_by_hand() -> None:
    model = small_linear(num_experts=2, r=1)
    layer = model.base_model.model.linear
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        layer.base_layer.bias.zero_()
        layer.m3oe_A["default"].copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        layer.m3oe_B["default"].copy_(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
    gates = torch.tensor([[0.25, 0.75], [1.0, 0.0]], requires_grad=True)
    model.base_model.set_gates(gates)
    x = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]])
    # Sample 1: W x = (3, 2); A x = (4, 2), gated (1, 1.5), through B (1, 2 + 4.5).
    # Sample 2: W x = (0, 4); A x = (2, -2), gated (2, 0), through B (2, 4).
    found = layer(x)
    assert found.tolist() == [[[4.0, 8.5]], [[2.0, 8.0]]]
    found.sum().backward()
    # The output's sum changes with a gate by (A x)_p times the sum of B's column p: 4 * 3, 2 * 3 and 2 * 3, -2 * 3.
    assert gates.grad is not None
    assert gates.grad.tolist() == [[12.0, 6.0], [6.0, -6.0]]
    # With B by its gated inputs, summed over samples and the same for both outputs: 1 + 2 and 1.5 + 0.
    assert layer.m3oe_B["default"].grad.tolist() == [[3.0, 1.5], [3.0, 1.5]]
    # With A by gate, column sum of B and x: rows 3 * (0.25 * (3, 1) + (0, 2)) and 3 * 0.75 * (3, 1).
    assert layer.m3oe_A["default"].grad.tolist() == [[2.25, 6.75], [6.75, 2.25]]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_expert_is_lora_with_alpha_equal_to_the_rank(family: str) -> None:
    ours = adapted(family, num_experts=1, r=4)
    theirs = lora(language_model(family), 4)
    copy_experts(ours, theirs, slice(None))
    assert not [name for name, _ in ours.named_parameters() if "router" in name]
    loss, gradients = loss_and_gradients(ours)
    expected, wanted = loss_and_gradients(theirs)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert len(gradients) == len(wanted) > 0
    for (name, found), (other, value) in zip(gradients.items(), wanted.items(), strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6, msg=f"{name} against {other}")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_hot_gates_are_that_expert_alone(family: str) -> None:
    ours = adapted(family, num_experts=3, r=2).eval()
    for expert in range(3):
        alone = lora(language_model(family), 2).eval()
        copy_experts(ours, alone, slice(2 * expert, 2 * expert + 2))
        ours.base_model.set_gates(torch.eye(3)[[expert, expert]])
        with torch.no_grad():
            torch.testing.assert_close(ours(TOKENS).logits, alone(TOKENS).logits, rtol=0, atol=1e-6)


def test_every_sample_has_gates_of_its_own() -> None:
    model = adapted(num_experts=3, r=2).eval()
    gates = torch.softmax(torch.randn(2, 3, generator=generator(0, "gates")), 1)
    tuner = model.base_model
    with torch.no_grad():
        tuner.set_gates(gates)
        both = model(TOKENS).logits
        for sample in range(2):
            tuner.set_gates(gates[sample : sample + 1])
            torch.testing.assert_close(model(TOKENS[sample : sample + 1]).logits[0], both[sample])
        tuner.set_gates(gates.flip(0))
        assert (model(TOKENS).logits - both).abs().max() > 1e-3


def test_gradients_reach_router_and_experts_and_nothing_else() -> None:
    model = adapted(num_experts=3, r=2)
    _, gradients = loss_and_gradients(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(gradients)
    assert all("m3oe_" in name for name in gradients)
    layers = sum(isinstance(module, M3OELayer) for module in model.modules())
    router = [name for name in gradients if "m3oe_router" in name]
    assert (layers, len(router), len(gradients)) == (14, 8, 2 * 14 + 8)  # 7 per block; 4 linear layers with biases
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name


def test_gates_gradient_is_the_finite_difference() -> None:
    model = adapted("opt", num_experts=3, r=2).double().eval()
    gates = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64, requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        model.base_model.set_gates(values)
        return functional.cross_entropy(model(input_ids=TOKENS).logits.flatten(0, 1), TOKENS.flatten())

    loss(gates).backward()
    assert gates.grad is not None
    with torch.no_grad():
        for index in ((0, 0), (0, 2), (1, 1)):
            step = torch.zeros(2, 3, dtype=torch.float64)
            step[index] = 1e-5
            slope = (loss(gates + step) - loss(gates - step)) / 2e-5
            torch.testing.assert_close(gates.grad[index], slope, rtol=1e-5, atol=1e-9)


def test_training_steps_leave_the_language_model_bit_identical() -> None:
    model = adapted(num_experts=2, r=2)
    original = language_model().state_dict()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        losses.append(loss_and_gradients(model)[0])
        optimiser.step()
    assert losses[-1] < losses[0] - 0.01
    kept = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in model.state_dict().items()
        if "m3oe_" not in name
    }
    assert state_digest(kept) == state_digest(original)


def test_a_new_adapter_changes_nothing_and_the_seed_decides_it() -> None:
    plain = language_model().eval()
    digests = set()
    for seed in (0, 0, 1):
        model = adapted(seed=seed, random=False).eval()
        model.base_model.set_gates(gates_of(model))
        with torch.no_grad():
            assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
        digests.add(state_digest(model.state_dict()))
    assert len(digests) == 2
    a = model.base_model.model.model.layers[0].mlp.down_proj.m3oe_A["default"]
    # Kaiming-uniform with a = sqrt 5 is uniform within 1 / sqrt(fan in), here 24; 144 draws come close to the ends.
    assert 0.9 / 24**0.5 < float(a.abs().max()) <= 1 / 24**0.5


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_gradient_checkpointing_changes_no_gradient(family: str, reentrant: bool) -> None:
    model = adapted(family, num_experts=3, r=2, targets=r".*layers.*(proj|fc1|fc2)|lm_head")
    loss, expected = loss_and_gradients(model)
    model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    for embedded in (False, True):
        found, gradients = loss_and_gradients(model, embedded=embedded)
        assert found == pytest.approx(loss, abs=1e-6)
        assert set(gradients) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gates_changed_before_a_checkpointed_backward_pass_are_refused(reentrant: bool) -> None:
    model = adapted(num_experts=3, r=2).train()
    model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.base_model.set_gates(gates_of(model))
    loss = model(input_ids=TOKENS, labels=TOKENS).loss
    model.base_model.set_gates(gates_of(model))
    with pytest.raises(RuntimeError, match="gates were changed between the forward and the backward pass"):
        loss.backward()


def test_gates_changed_without_checkpointing_belong_to_their_own_forward_pass() -> None:
    model = adapted(num_experts=3, r=2)
    first, second = (torch.eye(3)[[index, index]].requires_grad_() for index in (0, 1))
    losses = []
    for gates in (first, second):
        model.base_model.set_gates(gates)
        losses.append(model(input_ids=TOKENS, labels=TOKENS).loss)
    sum(losses).backward()
    alone = torch.eye(3)[[0, 0]].requires_grad_()
    model.base_model.set_gates(alone)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert first.grad is not None
    torch.testing.assert_close(first.grad, alone.grad)
    assert (first.grad - second.grad).abs().max() > 1e-4


def test_flattened_inputs_take_the_gates_of_their_samples() -> None:
    layer = small_linear(num_experts=2, r=1).base_model.model.linear
    randomise_experts(layer)
    layer.gates.set(torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    x = torch.randn(2, 3, 2, generator=generator(0, "x"))
    expected = layer(x)
    torch.testing.assert_close(layer(x.flatten(0, 1)).view(2, 3, 2), expected)
    with pytest.raises(ValueError, match=r"set for 2 samples, but a layer's input is \(4, 2\)"):
        layer(x[:, :2].flatten(0, 1))
