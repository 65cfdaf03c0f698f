"""Questions to the injected model and to what it is judged against, and what an injection is estimated to need."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from consilia.core.determinism import state_digest
from consilia.core.errors import TrainingStopped
from consilia.core.stop import never
from consilia.methods.fedkim.cases import Cases, some
from consilia.methods.fedkim.estimate import estimate, in_words, injection_bytes
from consilia.methods.fedkim.evaluation import ask, ask_extractor, baselines, few_shot, pieces
from tests.methods.fedkim.clinic import cases, extractor, injected, opened, settings

pytestmark = pytest.mark.slow

NOTHING = torch.zeros(0, dtype=torch.int64)


def test_what_an_injection_takes_is_told_in_words() -> None:
    needs = {"steps": 40, "seconds": 90.0, "bytes": 2e9, "bytes_free": 8e9}
    assert in_words(needs) == "each injection: 40 steps, about 1.5 minutes and 2.0 GB here (8.0 GB free)"
    short = in_words({**needs, "seconds": None, "bytes_free": 1e9})
    assert short.startswith("each injection: 40 steps and about 2.0 GB, more than the 1.0 GB that are free: set ")


def test_closed_and_open_questions_are_told_apart() -> None:
    model = injected(random=False, evaluation={"answer_tokens": 3})
    mixed = opened(cases("ask-image", 6), {1: "left lung", 4: "the liver"})
    found = ask(model.train(), mixed, seed=0)
    assert not model.training
    assert found.closed is not None
    assert found.open is not None
    closed = mixed.take(torch.tensor([0, 2, 3, 5]))
    said = model.probabilities(closed).argmax(dim=1)
    assert (found.closed.count, found.closed.patients) == (4, 3)  # patients 0, 1, 1, 2
    assert found.closed.accuracy == float((said == closed.truth).double().mean())
    probabilities = model.probabilities(closed)
    losses = -probabilities[torch.arange(4), closed.truth].log()
    assert found.closed.loss == pytest.approx(float(losses.mean()))
    texts = model.decode(mixed.take(torch.tensor([1, 4])))
    assert found.open.count == 2
    assert found.open.exact == sum(t == a for t, a in zip(texts, ("left lung", "the liver"), strict=True)) / 2
    assert found.open.bleu1 is not None
    assert found.closed.bleu1 is None


def test_only_one_kind_and_three_answers() -> None:
    model = injected(evaluation={"answer_tokens": 3})
    assert ask(model, cases("paper", 6), seed=0).open is None
    every = opened(cases("ask-image", 3), dict.fromkeys(range(3), "left"))
    assert ask(model, every, seed=0).closed is None
    assert ask(model, every.take(NOTHING), seed=0).model_dump(exclude_none=True) == {}


def test_many_cases_are_answered_a_few_at_a_time() -> None:
    many = cases("mass", 70)
    assert [len(piece) for piece in pieces(many)] == [32, 32, 6]
    assert torch.equal(torch.cat([piece.input_of for piece in pieces(many)]), torch.arange(70))
    assert list(pieces(many.take(NOTHING))) == []


def test_the_same_answers_and_intervals_every_time() -> None:
    model = injected()
    first, again = (ask(model, cases("paper", 8), seed=4) for _ in range(2))
    assert first.model_dump_json() == again.model_dump_json()


def test_the_extractor_answers_by_its_head() -> None:
    model, found = extractor(), cases("kidney", 40)
    closed = ask_extractor(model.train(), found, seed=0).closed
    assert closed is not None
    with torch.no_grad():
        assert found.inputs is not None
        said = model.eval()(found.inputs, "kidney").argmax(dim=1)
    assert closed.count == 40
    assert closed.accuracy == pytest.approx(float((said == found.truth).double().mean()))


# ---- baselines -----------------------------------------------------------------------------------------------------


def test_the_majority_is_the_public_datas() -> None:
    learnt = cases("mass", 5)  # no yes no yes no
    asked = cases("mass", 4).take(torch.tensor([1, 3, 0]))  # yes yes no
    found = baselines(learnt, asked, 2, series=False, seed=0)["majority"]
    assert found.closed is not None
    assert found.closed.accuracy == pytest.approx(1 / 3)
    assert found.closed.auroc == 0.5
    assert found.open is None


def test_the_most_frequent_open_answer_by_hand() -> None:
    learnt = opened(cases("ask-image", 6), {0: "left", 1: "right", 2: "left"})
    asked = opened(cases("ask-image", 4), {0: "left", 1: "upper left", 3: "liver"})
    found = baselines(learnt, asked, 2, series=False, seed=0)
    assert found["majority"].open is not None
    assert found["majority"].open.exact == pytest.approx(1 / 3)
    assert found["linear"].open is None
    assert found["linear"].closed is not None
    assert found["linear"].closed.count == 1


def test_without_public_cases_there_is_nothing_to_beat() -> None:
    found = baselines(cases("mass", 3).take(NOTHING), cases("mass", 4), 2, series=False, seed=0)
    assert {name: answers.model_dump(exclude_none=True) for name, answers in found.items()} == {
        "linear": {},
        "majority": {},
    }


@pytest.mark.parametrize(("task", "series"), [("mass", False), ("kidney", True)])
def test_a_linear_model_finds_what_is_linear(task: str, series: bool) -> None:
    learnt, asked = cases(task, 40), cases(task, 20, 1)
    for found in (learnt, asked):
        assert found.inputs is not None
        found.inputs.add_(4.0 * found.truth.reshape(-1, *[1] * (found.inputs.ndim - 1)))
    closed = baselines(learnt, asked, 2, series=series, seed=0)["linear"].closed
    assert closed is not None
    assert closed.accuracy == 1.0


def test_a_linear_model_of_words_where_questions_differ() -> None:
    learnt = Cases("paper", None, torch.zeros(4, dtype=torch.int64), ("a good b", "c good", "bad d", "e bad"),
                   ("yes", "yes", "no", "no"), torch.tensor([1, 1, 0, 0]), ("1", "2", "3", "4"))  # fmt: skip
    asked = Cases("paper", None, torch.zeros(2, dtype=torch.int64), ("x good", "bad y"), ("yes", "no"),
                  torch.tensor([1, 0]), ("5", "6"))  # fmt: skip
    closed = baselines(learnt, asked, 3, series=False, seed=0)["linear"].closed
    assert closed is not None
    assert closed.accuracy == 1.0


# ---- a few cases ---------------------------------------------------------------------------------------------------

FEW: dict[str, Any] = {
    "evaluation": {"few_shot": (2, 4, "all"), "few_shot_steps": 3, "answer_tokens": 3},
    "injection": {"batch_size": 2, "learning_rate": 0.01},
}


def test_fine_tuning_leaves_the_model_as_it_was() -> None:
    config = settings(**FEW)
    model = injected(config)
    before = state_digest(model.state_dict())
    asked = cases("heart", 8, 1)
    found = few_shot(model, cases("heart", 10), asked, config, 3, never)
    assert list(found) == ["2", "4", "all"]
    assert state_digest(model.state_dict()) == before
    assert not [name for name, p in model.named_parameters() if p.grad is not None]
    zero = ask(model, asked, seed=3).closed
    losses = {None if answers.closed is None else answers.closed.loss for answers in found.values()}
    assert zero is not None
    assert len({*losses, zero.loss}) == 4  # each from the same start, each another
    again = few_shot(injected(config), cases("heart", 10), asked, config, 3, never)
    assert {n: a.model_dump() for n, a in again.items()} == {n: a.model_dump() for n, a in found.items()}


def test_fine_tuning_told_to_stop_leaves_the_model_as_it_was() -> None:
    config = settings(**FEW)
    model = injected(config)
    before = state_digest(model.tensors())
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped):
        few_shot(model, cases("heart", 10), cases("heart", 3), config, 3, lambda: next(asked))
    assert state_digest(model.tensors()) == before


def test_no_labelled_cases_no_fine_tuning() -> None:
    config = settings(**FEW)
    assert few_shot(injected(config), cases("heart", 2).take(NOTHING), cases("heart", 3), config, 3, never) == {}


def test_some_cases_are_drawn_by_seed_in_their_order() -> None:
    whole = cases("mass", 20)
    first, again, other = (some(whole, 6, seed, "shots") for seed in (1, 1, 2))
    assert len(first) == 6
    assert first.input_of.tolist() == again.input_of.tolist() == sorted(first.input_of.tolist())
    assert first.input_of.tolist() != other.input_of.tolist()
    assert some(whole, None, 1) is whole
    assert some(whole, 20, 1) is whole


# ---- the estimate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpointing", "layers_worth"),
    [(False, 3 * (17 * 2 * 5 * 4 + 280)), (True, 3 * 2 * 5 * 4 + 17 * 2 * 5 * 4 + 280)],
)
def test_memory_by_hand(checkpointing: bool, layers_worth: int) -> None:
    """5 positions of width 4 in 3 layers of 2 bytes; 14 float32 of rank 1 per position and layer: 280 bytes."""
    needed = injection_bytes(
        frozen=1000, trained=10, element=2, tokens=5, width=4, layers=3, rank=1, checkpointing=checkpointing
    )
    assert needed == 2000 + 160 + layers_worth


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_a_small_model(checkpointing: bool) -> None:
    config = settings(
        injection={"batch_size": 4, "accumulate": 2, "epochs": 3, "gradient_checkpointing": checkpointing}
    )
    model = injected(config)
    before, mode = state_digest(model.state_dict()), torch.random.get_rng_state()
    public = {"mass": cases("mass", 8), "kidney": cases("kidney", 4)}
    found = estimate(model, public, config, torch.device("cpu"))
    assert found["steps"] == 9
    assert found["seconds"] > 0
    assert found["bytes_free"] > 0
    read = model.read(public["mass"].take(torch.arange(2)), [[]] * 2)["inputs_embeds"]
    assert found["bytes"] == injection_bytes(
        frozen=2 * (4 * 256 + 3 * 384 + 32) + 2 * 4096 * 16 + 16,
        trained=sum(tensor.numel() for tensor in model.tensors().values()),
        element=4,
        tokens=2 * read.shape[1],
        width=16,
        layers=2,
        rank=6,
        checkpointing=checkpointing,
    )
    assert state_digest(model.state_dict()) == before
    assert torch.equal(torch.random.get_rng_state(), mode)
    assert not [name for name, p in model.named_parameters() if p.grad is not None]


def test_the_trial_runs_as_the_injection_will(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode, without which gradient checkpointing saves nothing, and in the injection's precision."""
    config = settings(injection={"precision": "bfloat16"})
    model, seen = injected(config), []
    loss = model.loss

    def watched(batch: Cases) -> Any:
        seen.append((model.language.training, torch.is_autocast_enabled("cpu")))
        return loss(batch)

    monkeypatch.setattr(model, "loss", watched)
    estimate(model, {"mass": cases("mass", 4)}, config, torch.device("cpu"))
    assert seen == [(True, True)] * len(seen) != []
