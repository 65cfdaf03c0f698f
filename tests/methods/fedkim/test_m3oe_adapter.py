"""M3OE as peft's users meet it: saving, generating, precision, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from consilia.core.determinism import state_digest
from consilia.methods.fedkim.m3oe import M3OEConfig
from tests.methods.fedkim.support import (
    FAMILIES,
    TOKENS,
    WIDTH,
    adapted,
    copy_experts,
    gates_of,
    language_model,
    lora,
    loss_and_gradients,
    small_linear,
)


def test_saved_adapters_hold_router_and_experts_alone_and_load_bit_equal(tmp_path: Path) -> None:
    model = adapted(num_experts=3, r=2)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) == 2 * 14 + 8
    assert all("m3oe_" in name and "default" not in name for name in stored)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "M3OE"
    assert (settings["num_experts"], settings["r"], settings["embedding_dim"]) == (3, 2, WIDTH)
    assert settings["target_modules"] == sorted(settings["target_modules"])
    for options in ({}, {"adapter_name": "other"}, {"low_cpu_mem_usage": True}):
        name = options.get("adapter_name", "default")
        loaded = PeftModel.from_pretrained(language_model(), tmp_path, **options)
        state = {key.replace(f".{name}", ".default"): value for key, value in loaded.state_dict().items()}
        assert state_digest(state) == state_digest(model.state_dict())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        again = PeftModel.from_pretrained(language_model(), tmp_path, is_trainable=True, **options)
        assert len(loss_and_gradients(again)[1]) == 2 * 14 + 8


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_and_without_cache_is_the_same(family: str) -> None:
    model = adapted(family, num_experts=3, r=2).eval()
    model.base_model.set_gates(gates_of(model))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(TOKENS)}
    cached = model.generate(input_ids=TOKENS, use_cache=True, **options)
    assert torch.equal(cached, model.generate(input_ids=TOKENS, use_cache=False, **options))
    ids = TOKENS
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(cached, ids)
    with pytest.raises(ValueError, match=r"set for 2 samples, .* \(6, 5, .*repeat its gates"):
        model.generate(input_ids=TOKENS, num_beams=3, **options)
    model.base_model.set_gates(gates_of(model).repeat_interleave(3, 0))
    assert model.generate(input_ids=TOKENS, num_beams=3, **options).shape[0] == 2


def test_missing_and_unfit_gates_are_refused() -> None:
    model = adapted(num_experts=3, r=2)
    tuner = model.base_model
    with pytest.raises(RuntimeError, match="call set_gates"):
        model(TOKENS)
    tuner.set_gates(torch.full((3, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"set for 3 samples, but a layer's input is \(2, 5, 16\)"):
        model(TOKENS)
    for gates in (torch.ones(2, 2), torch.ones(3), torch.ones(0, 3), torch.ones(2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"gates \(B, 3\)"):
            tuner.set_gates(gates)
    single = adapted(num_experts=1)
    with pytest.raises(ValueError, match="single expert is 1"):
        single.base_model.set_gates(torch.tensor([[0.5]]))
    single.base_model.set_gates(single.base_model.route(torch.zeros(4, 2, WIDTH), *[torch.ones(4, 2)] * 3))
    assert single(TOKENS).logits.shape[:2] == TOKENS.shape  # a single expert minds no batch size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_experts_stay_single_precision_on_a_model_of_half(dtype: torch.dtype) -> None:
    ours = adapted(num_experts=1, r=4, dtype=dtype)
    theirs = lora(language_model(dtype=dtype), 4)
    copy_experts(ours, theirs, slice(None))
    assert {p.dtype for p in ours.parameters() if p.requires_grad} == {torch.float32}
    assert ours(TOKENS).logits.dtype == dtype
    _, gradients = loss_and_gradients(ours)
    _, wanted = loss_and_gradients(theirs)
    for found, value in zip(gradients.values(), wanted.values(), strict=True):
        torch.testing.assert_close(found, value, rtol=0.1, atol=0.02 * float(value.abs().max()))
    _, gated = loss_and_gradients(adapted(num_experts=3, r=2, dtype=dtype))
    assert all(bool(gradient.isfinite().all()) and gradient.dtype == torch.float32 for gradient in gated.values())


def test_autocast_is_followed() -> None:
    model = adapted(num_experts=3, r=2)
    loss, expected = loss_and_gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer = model.base_model.model.model.layers[0].mlp.up_proj
        assert layer(torch.randn(2, 5, WIDTH)).dtype == torch.bfloat16
        found, gradients = loss_and_gradients(model)
    assert found == pytest.approx(loss, rel=0.02)
    assert found != loss
    error = sum(float((gradients[name] - value).square().sum()) for name, value in expected.items())
    assert error < 0.03**2 * sum(float(value.square().sum()) for value in expected.values())


def test_neighbouring_layers_keep_one_input_for_the_backward_pass() -> None:
    model = adapted(num_experts=3, r=2, dtype=torch.bfloat16).train()
    model.base_model.set_gates(gates_of(model))
    attention = model.base_model.model.model.layers[0].self_attn
    x = torch.randn(2, 5, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection(x)
    inputs = {tensor.data_ptr() for tensor in kept if tensor.shape == x.shape}
    assert inputs == {x.data_ptr()}


def test_dropout_is_on_the_experts_input_while_training_only() -> None:
    layer = small_linear(num_experts=1, r=1, dropout=0.5).base_model.model.linear
    with torch.no_grad():
        layer.base_layer.weight.zero_()
        layer.base_layer.bias.zero_()
        layer.m3oe_A["default"].fill_(1.0)
        layer.m3oe_B["default"].copy_(torch.tensor([[1.0], [0.0]]))
    x = torch.ones(1, 4000, 2)
    torch.manual_seed(0)
    seen = layer.train()(x)[..., 0].flatten()
    # Each of two inputs is dropped or doubled: sums 0, 2 and 4 with probabilities 1/4, 1/2, 1/4.
    counts = [float((seen == value).float().mean()) for value in (0.0, 2.0, 4.0)]
    assert counts == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert set(layer.eval()(x)[..., 0].flatten().tolist()) == {2.0}


def test_a_disabled_adapter_leaves_the_plain_model() -> None:
    model, plain = adapted(num_experts=3, r=2).eval(), language_model().eval()
    with torch.no_grad():
        with model.disable_adapter():
            assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
        model.base_model.set_gates(gates_of(model))
        assert not torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
        assert torch.equal(model.unload()(TOKENS).logits, plain(TOKENS).logits)


def test_a_copy_has_gates_of_its_own() -> None:
    model = adapted(num_experts=3, r=2)
    model.base_model.set_gates(gates_of(model))
    twin = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="call set_gates"):
        twin(TOKENS)
    twin.base_model.set_gates(torch.eye(3)[[0, 0]])
    model.base_model.set_gates(torch.eye(3)[[1, 1]])
    assert not torch.equal(model(TOKENS).logits, twin(TOKENS).logits)


def test_the_head_is_adapted_when_it_is_named(tmp_path: Path) -> None:
    assert not hasattr(adapted(num_experts=2, r=2).base_model.model.lm_head, "m3oe_A")
    model = adapted(num_experts=2, r=2, targets=["q_proj", "lm_head"])
    assert tuple(model.base_model.model.lm_head.m3oe_B["default"].shape) == (50, 4)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) == 2 * 3 + 8  # two blocks' q_proj and the head, the router
    assert all("m3oe_" in name for name in stored)


def test_merging_is_refused_and_leaves_the_weights() -> None:
    model = adapted(num_experts=2, r=2)
    before = state_digest(model.state_dict())
    for merge in (
        model.merge_and_unload,
        model.merge_adapter,
        model.base_model.model.model.layers[0].mlp.up_proj.merge,
    ):
        with pytest.raises(ValueError, match=r"M3OE cannot be merged .* gates differ between samples"):
            merge()
    assert state_digest(model.state_dict()) == before


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding_dim is 8, the model's embeddings are 16 wide"):
        get_peft_model(language_model(), M3OEConfig(embedding_dim=8))
    with pytest.raises(ValueError, match=r"embed_tokens: M3OE adapts linear layers, this is a Embedding"):
        get_peft_model(language_model(), M3OEConfig(embedding_dim=WIDTH, target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match=r"a model takes one M3OE adapter, got \['default', 'second'\]"):
        adapted(num_experts=2).add_adapter("second", M3OEConfig(embedding_dim=WIDTH))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 0}, "num_experts and r must be at least 1, got 0 and 8"),
        ({"r": 0}, "got 12 and 0"),
        ({"embedding_dim": None}, "embedding_dim must be the width of the token embeddings, got None"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"bias": "all"}, "bias must be 'none', got 'all'"),
        ({"target_modules": []}, "target_modules must be 'all-linear', names or a regular expression"),
        ({"task_type": "CAUSAL"}, "Invalid task type: 'CAUSAL'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        M3OEConfig(**{"embedding_dim": WIDTH, **settings})
