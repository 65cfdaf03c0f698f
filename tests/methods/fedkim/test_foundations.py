"""Language models of other kinds under the injected model: half precision, learned positions, no token of beginning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from consilia.core.determinism import seeded
from consilia.core.errors import ConfigError
from consilia.core.stop import never
from consilia.methods.fedkim.config import InjectionConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.injection import Injection, plan
from consilia.models.language import LanguageModel
from tests.methods.fedkim.clinic import cases, extractor, language_model, settings, tokenizer

COMMON = {"vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def learned_positions(kind: str, positions: int = 128) -> LanguageModel:
    with seeded(0, "language model"):
        model: Any
        if kind == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(**COMMON, n_positions=positions, n_embd=16, n_layer=2, n_head=2))
        else:
            sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
            model = OPTForCausalLM(
                OPTConfig(**COMMON, **sizes, num_attention_heads=2, max_position_embeddings=positions)
            )
    return LanguageModel(model.requires_grad_(False).eval(), tokenizer())


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
@torch.no_grad()
def test_learned_positions_do_not_see_the_padding(kind: str) -> None:
    model = InjectedModel(learned_positions(kind), extractor(), settings(evaluation={"answer_tokens": 3}), 5).eval()
    found = cases("ask-image", 4)
    together = model.probabilities(found)
    alone = torch.cat([model.probabilities(found.take(torch.tensor([place]))) for place in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    texts = [text for place in range(4) for text in model.decode(found.take(torch.tensor([place])))]
    assert model.decode(found) == texts


def test_a_question_longer_than_the_model_takes_is_told() -> None:
    model = InjectedModel(learned_positions("gpt2", 24), extractor(), settings(), 5).eval()
    with pytest.raises(ConfigError, match=r"task ask-image: .* take \d+ positions, the language model has 24"):
        model.probabilities(cases("ask-image", 12))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_model_in_half_precision_is_trained_in_single(dtype: torch.dtype) -> None:
    precision: Any = str(dtype).removeprefix("torch.")
    model = InjectedModel(language_model(dtype), extractor(), settings(evaluation={"answer_tokens": 3}), 5)
    assert {parameter.dtype for parameter in model.trained().values()} == {torch.float32}
    assert model.embed.weight.dtype == dtype
    public = {"mass": cases("mass", 8), "kidney": cases("kidney", 8)}
    config = InjectionConfig(precision=precision, batch_size=4, learning_rate=0.01, epochs=2)
    before = model.tensors()
    own = Injection(model, public, config, plan(public, config, 0), never)
    own.run(None, "k", 0, lambda step, steps: None)
    after = model.tensors()
    for part in ("m3oe_A", "m3oe_B", "router", "aligner", "extractor.encoders.vitals"):
        assert any(not torch.equal(before[name], after[name]) for name in after if part in name), part
    assert all(tensor.isfinite().all() for tensor in after.values())
    single = InjectedModel(language_model(), extractor(), settings(), 5).eval()
    single.load(after)
    found = cases("ask-image", 4)
    torch.testing.assert_close(model.probabilities(found), single.probabilities(found), atol=0.05, rtol=0)
    assert len(model.decode(found)) == 4


def test_a_tokenizer_without_beginning_or_end() -> None:
    whole = tokenizer()

    class Headless(SimpleNamespace):
        """As Qwen's: no token of beginning."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return whole(*args, **kwargs)

    language = language_model()
    model = InjectedModel(
        LanguageModel(language.model, Headless(bos_token_id=None, eos_token_id=2)),  # type: ignore[arg-type]
        extractor(),
        settings(),
        5,
    )
    found = cases("mass", 1)
    read = model.eval().read(found, [[]])["inputs_embeds"]
    features = model.features(found)
    assert features is not None
    torch.testing.assert_close(read[0, :5], features[0])  # the features come first
    with pytest.raises(ConfigError, match="names no end of text"):
        InjectedModel(
            LanguageModel(language_model().model, Headless(bos_token_id=1, eos_token_id=None)),  # type: ignore[arg-type]
            extractor(),
            settings(),
            5,
        )
