"""The server's act between rounds: what it changes, what it reports, and that it goes on after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from consilia.core.determinism import generator, state_digest
from consilia.core.errors import CheckpointError, ConfigError, TrainingStopped
from consilia.methods.fedkim import injected
from consilia.methods.fedkim import server as module
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.injected import TRAINED
from consilia.methods.fedkim.method import FedKIM
from consilia.methods.fedkim.section import Injection
from consilia.methods.fedkim.server import FedKIMServer
from consilia.models.exchange import exchanged_state
from tests.methods.fedkim.clinic import (
    ENCODERS,
    cases,
    context,
    extractor,
    language_model,
    server_cases,
    settings,
)

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.01, "checkpoint_steps": 2, "device": "cpu"}
ASKING = {"answer_tokens": 3, "few_shot": (2, "all"), "few_shot_steps": 2}


def noted(act: FedKIMServer) -> Injection:
    """What the record holds of the injection."""
    return Injection.model_validate(act.section())


@pytest.fixture(autouse=True)
def _without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_server_cases", lambda path, task_definitions: server_cases())
    monkeypatch.setattr(injected, "load_language_model", lambda *_, dtype, **__: language_model(dtype))


def configured(**changed: Any) -> FedKIMConfig:
    return settings(**{"injection": QUICK, "evaluation": ASKING, **changed})


def made(folder: Path, config: FedKIMConfig | None = None, **changed: Any) -> FedKIMServer:
    return FedKIMServer(FedKIM(config or configured()), context(folder, **changed))


def aggregated(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """An extractor's exchanged state, away from its start."""
    order = generator(seed, "aggregated")
    start = exchanged_state(extractor())
    return {name: (t + 0.1 * torch.randn(t.shape, generator=order)).to(dtype) for name, t in start.items()}


def test_the_encoders_come_back_changed_and_the_heads_as_they_were(tmp_path: Path) -> None:
    act, state = made(tmp_path), aggregated()
    pushed = act.after_round(state, 1)
    assert list(pushed) == list(state)
    changed = {name for name in state if not torch.equal(pushed[name], state[name])}
    assert {name.split(".")[0] for name in changed} == {"encoders"}
    assert {name.split(".")[1] for name in changed} == {"image", "vitals", "labs"}
    for name in changed:
        assert torch.equal(pushed[name], act.model.tensors()[f"extractor.{name}"])
        assert pushed[name].data_ptr() != dict(act.model.extractor.state_dict())[name].data_ptr()


def test_without_pushback_the_state_stays(tmp_path: Path) -> None:
    act, state = made(tmp_path, configured(encoder_pushback=False)), aggregated()
    assert state_digest(act.after_round(state, 1)) == state_digest(state)
    own = act.model.tensors()
    assert any(not torch.equal(own[f"extractor.{name}"], state[name]) for name in state if name.startswith("encoders"))


def test_a_state_in_half_precision_comes_back_so(tmp_path: Path) -> None:
    state = aggregated(dtype=torch.float16)
    pushed = made(tmp_path).after_round(state, 1)
    assert {tensor.dtype for tensor in pushed.values()} == {torch.float16}


def test_the_injection_starts_from_the_aggregated_encoders(tmp_path: Path) -> None:
    config = configured(injection={**QUICK, "learning_rate": 1e-12})
    act, state = made(tmp_path, config), aggregated()
    pushed = act.after_round(state, 1)
    for name in state:
        torch.testing.assert_close(pushed[name], state[name], atol=1e-6, rtol=0)


def test_what_a_round_reports(tmp_path: Path) -> None:
    act = made(tmp_path)
    act.after_round(aggregated(), 1)
    act.after_round(aggregated(1), 2)
    report = noted(act)
    assert (report.seen, report.unseen, report.experts) == (["kidney", "mass", "size"], ["ask-image", "heart"], 3)
    assert [(found.round, found.steps) for found in report.rounds] == [(1, 6), (2, 6)]  # 3 tasks of 4 and 3 cases
    for found in report.rounds:
        assert set(found.loss) == set(found.validation) == {"kidney", "mass", "size"}
        assert set(found.gates) == {"ask-image", "heart", "kidney", "mass", "size"}
        assert all(sum(gates) == pytest.approx(1, abs=1e-5) and len(gates) == 3 for gates in found.gates.values())
        assert found.validation["mass"].count == 4
    assert set(report.test) == {"extractor"}
    assert Injection.model_validate_json(report.model_dump_json()) == report


def test_the_extractors_metrics_are_those_of_the_aggregated_one(tmp_path: Path) -> None:
    act, state, twin = made(tmp_path), aggregated(), extractor()
    act.after_round(state, 1)
    twin.load_state_dict(state, strict=False)
    test = server_cases()["mass"].test
    assert test.inputs is not None
    with torch.no_grad():
        said = twin.eval()(test.inputs, "mass").argmax(dim=1)
    closed = noted(act).test["extractor"]["mass"].closed
    assert closed is not None
    assert closed.accuracy == pytest.approx(float((said == test.truth).float().mean()))


def test_two_acts_are_the_same_to_the_bit_and_a_restored_one_goes_on(tmp_path: Path) -> None:
    unbroken = made(tmp_path / "a")
    middle = unbroken.after_round(aggregated(), 1)
    kept = unbroken.state_dict()
    digest = state_digest(unbroken.model.tensors())
    last = unbroken.after_round(aggregated(1), 2)
    again = made(tmp_path / "b")
    assert state_digest(again.after_round(aggregated(), 1)) == state_digest(middle)
    assert state_digest(again.model.tensors()) == digest
    restored = made(tmp_path / "c")
    restored.load_state_dict(kept)
    assert state_digest(restored.after_round(aggregated(1), 2)) == state_digest(last)
    assert state_digest(restored.model.tensors()) == state_digest(unbroken.model.tensors())
    told = [
        found.model_dump(exclude={"rounds": {"__all__": {"seconds"}}}) for found in (noted(restored), noted(unbroken))
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("number", [1, 2])
def test_an_act_interrupted_between_checkpoints_goes_on(tmp_path: Path, number: int) -> None:
    unbroken = made(tmp_path / "a")
    before: dict[str, Any] = {}
    for place in range(1, number + 1):
        before = unbroken.state_dict()
        expected = unbroken.after_round(aggregated(place), place)
    asked = iter(range(100))
    broken = made(tmp_path / "b", should_stop=lambda: next(asked) >= 6 * (number - 1) + 5)
    for place in range(1, number):
        broken.after_round(aggregated(place), place)
    with pytest.raises(TrainingStopped):
        broken.after_round(aggregated(number), number)
    asked = iter(range(100))
    resumed = made(tmp_path / "b", should_stop=lambda: bool(next(asked) < 0))
    resumed.load_state_dict(before)
    assert state_digest(resumed.after_round(aggregated(number), number)) == state_digest(expected)
    assert next(asked) == 2  # two of six steps were left
    assert state_digest(resumed.model.tensors()) == state_digest(unbroken.model.tensors())


def test_the_last_questions(tmp_path: Path) -> None:
    act = made(tmp_path)
    act.after_round(aggregated(), 1)
    before = state_digest(act.model.tensors())
    act.finish()
    assert state_digest(act.model.tensors()) == before  # fine-tuning on a few cases leaves nothing behind
    report = noted(act)
    every = {"mass", "size", "kidney", "heart", "ask-image"}
    assert {name: set(found) for name, found in report.test.items()} == {
        "injected": every,
        "linear": every,
        "majority": every,
        "extractor": {"mass", "size", "kidney"},
    }
    asked = report.test["injected"]["ask-image"]
    assert asked.closed is not None
    assert asked.open is not None
    assert (asked.closed.count, asked.open.count) == (4, 2)
    assert report.test["injected"]["mass"].open is None
    assert {task: set(found) for task, found in report.few_shot.items()} == {
        "heart": {"2", "all"},
        "ask-image": {"2", "all"},
    }
    assert Injection.model_validate_json(report.model_dump_json()) == report


def test_parameters_are_counted_by_hand(tmp_path: Path) -> None:
    counted = noted(made(tmp_path)).parameters
    # Per block: four maps 16-16, two 16-24, one 24-16; two norms of 16; 4096 words twice; the last norm.
    assert counted.language_model == 2 * (4 * 256 + 3 * 384 + 32) + 2 * 4096 * 16 + 16
    assert counted.experts == 2 * 6 * (4 * 32 + 3 * 40)
    assert counted.router == 3 * (256 + 16) + 16 * 3 + 3
    assert counted.aligner == 4 * (8 * 16 + 16)
    assert counted.encoders == sum(p.numel() for p in extractor().encoders.parameters())


def test_what_is_saved_answers_the_same(tmp_path: Path) -> None:
    act = made(tmp_path / "act")
    act.after_round(aggregated(), 1)
    act.save(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / TRAINED).keys() == {
        name for name in act.model.tensors() if not name.startswith("language.")
    }
    assert not [*(tmp_path / "saved").glob("*.bin"), *(tmp_path / "saved").glob("*.pt")]
    found = cases("ask-image", 3)
    expected = act.model.probabilities(found)
    other = made(tmp_path / "other")
    other.model.language = PeftModel.from_pretrained(language_model().model, tmp_path / "saved")
    own = load_file(tmp_path / "saved" / TRAINED)
    other.model.load_state_dict(own, strict=False)
    torch.testing.assert_close(other.model.eval().probabilities(found), expected, atol=1e-12, rtol=0)


def test_a_server_without_data_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.yaml"):
        made(tmp_path, data=None)


def test_a_network_that_is_no_extractor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KnowledgeExtractor, got Linear"):
        made(tmp_path, model=lambda: torch.nn.Linear(2, 2))


def test_a_task_whose_modality_has_no_encoder(tmp_path: Path) -> None:
    fewer = {name: given for name, given in ENCODERS.items() if name != "table"}
    with pytest.raises(ConfigError, match=r"task heart reads \['table'\]"):
        made(tmp_path, model=lambda: extractor(encoders=fewer))


def test_states_of_another_model(tmp_path: Path) -> None:
    act = made(tmp_path)
    with pytest.raises(CheckpointError, match="which the extractor lacks"):
        act.after_round({**aggregated(), "encoders.sound.weight": torch.zeros(1)}, 1)
    fewer = {name: tensor for name, tensor in act.state_dict().items() if "router" not in name}
    with pytest.raises(CheckpointError, match="router"):
        act.load_state_dict(fewer)


@pytest.mark.parametrize("choice", [{"adapter": "none"}, {"experts": 1}, {"router": "task"}])
def test_every_switch_runs_to_the_end(tmp_path: Path, choice: dict[str, Any]) -> None:
    act = made(tmp_path, configured(**choice))
    act.after_round(aggregated(), 1)
    act.finish()
    act.save(tmp_path / "saved")
    report = noted(act)
    assert report.experts == {"adapter": 0, "experts": 1, "router": 3}[next(iter(choice))]
    assert bool(report.rounds[0].gates) == ("router" in choice)
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file() == ("adapter" not in choice)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain, saving = (
        made(tmp_path / "a"),
        made(tmp_path / "b", configured(injection={**QUICK, "gradient_checkpointing": True})),
    )
    first, second = (act.after_round(aggregated(), 1) for act in (plain, saving))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=1e-3)
    losses = [noted(act).rounds[0].loss for act in (plain, saving)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
