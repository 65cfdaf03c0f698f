"""The injected model against the plain language model on embeddings put together by hand, one case at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from consilia.core.determinism import state_digest
from consilia.methods.fedkim.cases import Cases
from consilia.methods.fedkim.injected import IGNORED, InjectedModel
from tests.methods.fedkim.clinic import (
    cases,
    extractor,
    gradients,
    injected,
    language_model,
    settings,
    task_definitions,
    tokenizer,
)

TASKS = ("mass", "kidney", "heart", "paper", "ask-image", "side")


def embeddings(model: InjectedModel, found: Cases, place: int) -> torch.Tensor:
    """[bos, features, question] of one case, (1, n, hidden)."""
    embed = model.embed
    ids = tokenizer()(f"### Human: {found.questions[place]}\n### Assistant:", add_special_tokens=False).input_ids
    parts = [embed(torch.tensor([1]))]
    if found.inputs is not None:
        row = found.inputs[found.input_of[place]][None]
        for name in task_definitions().tasks[found.task].encoded:
            parts.append(model.aligner[name](model.extractor.encoders[name](row))[0])
    return torch.cat([*parts, embed(torch.tensor(ids))])[None]


def plain_log_likelihood(model: InjectedModel, plain: Any, found: Cases, place: int, ending: list[int]) -> torch.Tensor:
    prompt = embeddings(model, found, place)
    whole = torch.cat([prompt, model.embed(torch.tensor([ending]))], dim=1)
    logits = plain(inputs_embeds=whole).logits[0].log_softmax(dim=1)
    start = prompt.shape[1] - 1
    return torch.stack([logits[start + step, token] for step, token in enumerate(ending)])


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_log_likelihood_is_the_plain_models_at_the_start(task: str) -> None:
    # B = 0, so the experts add nothing; endings and questions of unlike length are padded on the left.
    model, plain, found = injected(random=False), language_model().model, cases(task)
    endings = [[7] * (1 + place % 3) + [599] for place in range(len(found))]
    chosen, real = model.log_likelihood(found, endings)
    assert real.sum(dim=1).tolist() == [len(ending) for ending in endings]
    for place, ending in enumerate(endings):
        expected = plain_log_likelihood(model, plain, found, place, ending)
        torch.testing.assert_close(chosen[place][real[place]], expected, atol=1e-5, rtol=1e-5)
        assert not chosen[place][~real[place]].any()


@pytest.mark.parametrize("task", ["paper", "ask-image"])
@torch.no_grad()
def test_batch_mates_and_padding_change_nothing_with_experts(task: str) -> None:
    model, found = injected(), cases(task)
    together = model.probabilities(found)
    alone = torch.cat([model.probabilities(found.take(torch.tensor([place]))) for place in range(len(found))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert float(together.std(dim=0).max()) > 1e-3  # the cases do differ


@pytest.mark.parametrize("task", ["mass", "paper"])
@torch.no_grad()
def test_probabilities_by_single_tokens_equal_the_long_way(task: str) -> None:
    model, found = injected(), cases(task)
    answers = task_definitions().tasks[task].answers
    candidates = [model.answer_ids(answer, end=False) for answer in answers]
    assert [len(candidate) for candidate in candidates] == [1] * len(answers)
    long_way = torch.stack([model.log_likelihood(found, [c] * len(found))[0].sum(dim=1) for c in candidates], dim=1)
    probabilities = model.probabilities(found)
    torch.testing.assert_close(probabilities, long_way.double().softmax(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(found), dtype=torch.float64))


@torch.no_grad()
def test_an_answer_of_several_tokens_is_the_product_of_theirs() -> None:
    model, plain, found = injected(random=False), language_model().model, cases("side")
    candidates = [tokenizer()(f" {a}", add_special_tokens=False).input_ids for a in ("left lung", "not at all")]
    assert [len(candidate) for candidate in candidates] == [2, 3]
    probabilities = model.probabilities(found)
    for place in range(len(found)):
        likelihoods = [plain_log_likelihood(model, plain, found, place, c).sum().exp() for c in candidates]
        expected = likelihoods[1] / (likelihoods[0] + likelihoods[1])
        assert float(probabilities[place, 1]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("task", ["paper", "ask-image"])
@torch.no_grad()
def test_decoding_is_the_argmax_again_and_again(task: str) -> None:
    model, plain, found = injected(random=False, evaluation={"answer_tokens": 4}), language_model().model, cases(task)
    expected = []
    for place in range(len(found)):
        whole, said = embeddings(model, found, place), []
        for _ in range(4):
            token = int(plain(inputs_embeds=whole).logits[0, -1].argmax())
            if token == tokenizer().eos_token_id:
                break
            said.append(token)
            whole = torch.cat([whole, model.embed(torch.tensor([[token]]))], dim=1)
        expected.append(tokenizer().decode(said, skip_special_tokens=True).strip())
    assert model.decode(found) == expected
    assert len(set(expected)) > 1


@torch.no_grad()
def test_a_foundation_models_own_way_of_writing_is_left_aside() -> None:
    language = language_model()
    language.model.generation_config.repetition_penalty = 50.0
    language.model.generation_config.no_repeat_ngram_size = 1
    language.model.generation_config.eos_token_id = None
    asking = {"answer_tokens": 6}
    odd = InjectedModel(language, extractor(), settings(evaluation=asking), 5).eval()
    found = cases("paper")
    assert odd.decode(found) == injected(random=False, evaluation=asking).decode(found)


@torch.no_grad()
def test_decoding_ends_with_the_tokenizers_end_of_text() -> None:
    language = language_model()
    language.model.generation_config.eos_token_id = language.model.config.eos_token_id = 77
    model = InjectedModel(language, extractor(), settings(adapter="none", evaluation={"answer_tokens": 6}), 5).eval()
    found = cases("paper", 1)
    # The language model's head made to answer with the end of text alone.
    language.model.lm_head.weight.zero_()
    hidden = language.model.model(inputs_embeds=embeddings(model, found, 0)).last_hidden_state[0, -1]
    language.model.lm_head.weight[2] = hidden
    assert model.decode(found) == [""]


@torch.no_grad()
def test_the_loss_is_of_answer_and_end_alone() -> None:
    model, plain, found = injected(random=False), language_model().model, cases("paper")
    loss, tokens = model.loss(found)
    answers = [[599], [1785], [1787], [599], [1785]]  # " no", " yes", " maybe"
    expected = -sum(
        float(plain_log_likelihood(model, plain, found, place, [*answer, 2]).sum())
        for place, answer in enumerate(answers)
    )
    assert tokens == 10
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert IGNORED == -100


@pytest.mark.parametrize(("task", "read"), [("mass", ["image"]), ("kidney", ["vitals", "labs"]), ("paper", [])])
def test_gradients_reach_what_is_trained_and_nothing_else(task: str, read: list[str]) -> None:
    model = injected()
    loss, _ = model.loss(cases(task))
    loss.backward()
    found = {name for name, gradient in gradients(model).items() if gradient.any()}
    for part in ("m3oe_A", "m3oe_B", "m3oe_router"):
        expected = {name for name in model.trained() if part in name}
        # The key's bias adds the same to every score, which the softmax takes out again.
        assert {name for name in expected - found if "router.key.bias" not in name} == set()
        assert expected
    for name in model.trained():
        if name.startswith(("aligner.", "extractor.")):
            place = name.removeprefix("extractor.").split(".")[1]
            assert (name in found) == (place in read), name
    assert not any(name.startswith(("extractor.heads", "embed.")) or "base_layer" in name for name in model.trained())
    assert found <= set(model.trained())


@torch.no_grad()
def test_a_question_loses_its_beginning_when_too_long() -> None:
    model = injected(evaluation={"max_tokens": 8})
    found = cases("paper", 1)
    long = Cases("paper", None, found.input_of, ("word " * 300 + "the end?",), ("no",), found.truth, ("p",))
    ids = tokenizer()(f"### Human: {long.questions[0]}\n### Assistant:", add_special_tokens=False).input_ids[-8:]
    embedded = model.read(long, [[5, 6]])
    expected = model.embed(torch.tensor([[1, *ids, 5, 6]]))
    assert torch.equal(embedded["inputs_embeds"], expected)


def test_a_feature_token_is_as_large_as_a_words_embedding() -> None:
    model = injected()
    rows = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    tokens = model.aligner["image"](torch.nn.functional.layer_norm(rows, (8,))).detach()
    # 16 outputs of 8 random weights each: their spread varies by about 1 / sqrt(2 * 8 * 16).
    assert float(tokens.std() / model.embed.weight.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("choice", [{"adapter": "none"}, {"experts": 1}])
@torch.no_grad()
def test_without_a_choice_of_experts(choice: dict[str, Any]) -> None:
    model, full = injected(random=False, **choice), injected(random=False)
    assert not model.routed
    assert not any("router" in name for name in model.trained())
    assert any("m3oe" in name for name in model.trained()) == (choice != {"adapter": "none"})
    found = cases("ask-image")
    # The aligner is another draw; text alone has no aligner in it, and B is 0.
    torch.testing.assert_close(model.probabilities(cases("paper")), full.probabilities(cases("paper")))
    assert model.probabilities(found).shape == (5, 2)
    assert len(model.decode(found)) == 5


@torch.no_grad()
def test_a_single_expert_is_one_lora_with_gate_one() -> None:
    model = injected(experts=1)
    plain, found = language_model().model, cases("paper", 2)
    adapters = dict(model.language.named_modules())
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear) and "lm_head" not in name:
            own = adapters[f"base_model.model.{name}"]
            layer.weight += own.m3oe_B["default"] @ own.m3oe_A["default"]
    expected = [plain_log_likelihood(model, plain, found, place, [599, 2]) for place in range(2)]
    chosen, _ = model.log_likelihood(found, [[599, 2]] * 2)
    torch.testing.assert_close(chosen, torch.stack(expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_gates_depend_on_descriptions_alone() -> None:
    model = injected()
    before = model.gates("mass")
    assert before.shape == (3,)
    assert float(before.sum()) == pytest.approx(1.0, abs=1e-6)
    for parameter in model.extractor.parameters():
        parameter.add_(1.0)
    model.probabilities(cases("mass", 2, seed=9))
    assert torch.equal(model.gates("mass"), before)
    assert not torch.allclose(model.gates("kidney"), before, atol=1e-4)


@pytest.mark.parametrize(
    ("router", "by_task", "by_modality"), [("both", True, True), ("task", True, False), ("modality", False, True)]
)
@torch.no_grad()
def test_ablations_of_the_router(router: str, by_task: bool, by_modality: bool) -> None:
    """``mass`` against the same task described otherwise, and against its modality described otherwise."""
    whole = task_definitions()
    definitions = {
        "as it is": task_definitions(),
        "task": task_definitions(mass={"description": "Something else entirely, about the sea."}),
        "modality": whole.model_copy(update={"modalities": {**whole.modalities, "image": "A painting."}}),
    }
    gates = {name: injected(task_definitions=given, router=router).gates("mass") for name, given in definitions.items()}
    assert (not torch.equal(gates["task"], gates["as it is"])) == by_task
    assert (not torch.equal(gates["modality"], gates["as it is"])) == by_modality


def test_the_router_reads_modalities_as_queries_and_the_task_as_keys() -> None:
    model = injected()
    texts = ["What vitals tell. What labs tell.", "Telling kidney apart."]
    queries, keys = (
        model.embed(torch.tensor([tokenizer()(text, add_special_tokens=False).input_ids])) for text in texts
    )
    router = model.language.base_model.m3oe_router
    scores = router.query(queries) @ router.key(keys).transpose(1, 2) / 4.0  # sqrt(16)
    expected = router.output((scores.softmax(dim=2) @ router.value(keys)).mean(dim=1)).softmax(dim=1)[0]
    torch.testing.assert_close(model.gates("kidney"), expected, atol=1e-6, rtol=1e-5)


def test_the_start_is_the_same_every_time_and_follows_the_seed() -> None:
    again = InjectedModel(language_model(), extractor(), settings(), 6)
    assert state_digest(injected(random=False).tensors()) == state_digest(injected(random=False).tensors())
    assert state_digest(again.tensors()) != state_digest(injected(random=False).tensors())
    model = injected()
    model.load(again.tensors())
    assert state_digest(model.tensors()) == state_digest(again.tensors())
