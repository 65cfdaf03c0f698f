"""Small language models of four families with M3OE adapters, and one step on them."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from consilia.core.determinism import generator, seeded
from consilia.methods.fedkim.m3oe import M3OEConfig, M3OELayer

WIDTH = 16
TOKENS = torch.tensor([[1, 7, 3, 22, 9], [4, 31, 2, 8, 40]])
COMMON = {"vocab_size": 50, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"intermediate_size": 24, "num_key_value_heads": 1}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"intermediate_size": 24, "num_key_value_heads": 1}),
    "opt": (OPTForCausalLM, OPTConfig, {"ffn_dim": 24, "word_embed_proj_dim": WIDTH, "dropout": 0.0}),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {"intermediate_size": 24}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
}
FAMILIES = tuple(MODELS)


def language_model(family: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A model of two blocks; the same weights every time."""
    build, settings, own = MODELS[family]
    config = settings(**COMMON, **SPECIAL, **own, max_position_embeddings=64)
    with seeded(0, "language model"):
        return build(config).to(dtype)


def adapted(
    family: str = "llama",
    *,
    targets: str | list[str] = "all-linear",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    random: bool = True,
    **settings: Any,
) -> Any:
    """A language model with M3OE adapters, by default with B drawn at random too."""
    config = M3OEConfig(embedding_dim=WIDTH, target_modules=targets, **settings)
    with seeded(seed, "adapters"):
        model = get_peft_model(language_model(family, dtype), config)
    if random:
        randomise_experts(model)
    return model


def randomise_experts(model: nn.Module) -> None:
    """Draw B, which starts at 0."""
    draw = generator(0, "experts")
    for module in model.modules():
        if isinstance(module, M3OELayer):
            b = module.m3oe_B["default"]
            b.data.copy_(0.3 * torch.randn(b.shape, generator=draw))


def small_linear(**settings: Any) -> Any:
    """One linear layer (2, 2) with adapters."""
    model = nn.ModuleDict({"linear": nn.Linear(2, 2)})
    config = M3OEConfig(embedding_dim=2, target_modules=["linear"], task_type=None, **settings)
    return get_peft_model(model, config)


def lora(model: nn.Module, rank: int) -> Any:
    """peft's LoRA scaled by 1."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def copy_experts(source: Any, target: Any, rows: slice) -> None:
    """A and B of some rank slots of an M3OE model into a LoRA model on the same language model."""
    layers = dict(target.named_modules())
    for name, layer in source.named_modules():
        if isinstance(layer, M3OELayer):
            layers[name].lora_A["default"].weight.data.copy_(layer.m3oe_A["default"][rows])
            layers[name].lora_B["default"].weight.data.copy_(layer.m3oe_B["default"][:, rows])


def gates_of(model: Any) -> Tensor:
    """Gates for the two samples of TOKENS, from the router on some of the model's embeddings."""
    embed = model.get_input_embeddings()
    modality, task = embed(TOKENS[:, :2]), embed(TOKENS[:, 2:])
    gates: Tensor = model.base_model.route(modality, torch.ones(2, 2), task, torch.tensor([[1, 1, 1], [1, 1, 0]]))
    return gates


def loss_and_gradients(model: Any, *, embedded: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Loss on TOKENS and the gradients by name, from token ids or from their embeddings."""
    model.train().zero_grad(set_to_none=True)
    if hasattr(model.base_model, "set_gates"):
        model.base_model.set_gates(gates_of(model))
    inputs = {"inputs_embeds": model.get_input_embeddings()(TOKENS)} if embedded else {"input_ids": TOKENS}
    loss = model(**inputs, labels=TOKENS).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
