"""What a site may send wrong: refused by name and reason, counted against the minimum, and the round goes on."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch

from consilia.aggregation.norm import FLOOR, MULTIPLE, state_norm
from consilia.aggregation.validation import check_update
from consilia.core.determinism import state_digest
from consilia.core.errors import RunFailed, UpdateRejected
from consilia.core.events import Refused
from consilia.federation.enrolment import why_not
from consilia.federation.messages import Broadcast, PrepareReply, Reply
from consilia.federation.update_validation import MAX_REASON
from consilia.methods.registry import make_method
from consilia.simulation.federation import load_federation
from tests.federation.attacks import ATTACKS, CULPRIT, change_content, change_tensors
from tests.federation.clinics import clinics_config
from tests.federation.support import Federation, initial_state, small


def attacked(wisconsin, folder, attack, **settings) -> Federation:
    federation = Federation(small(**settings), wisconsin, folder)

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        wrong = site == CULPRIT and task.request.kind == "train"
        return attack(reply) if wrong else reply

    federation.bend = bend
    return federation


@pytest.fixture(scope="module")
def attacked_by_all(tmp_path_factory) -> Federation:
    """A run in which one site is honest in the first round and tries one attack in each of the others."""
    folder = tmp_path_factory.mktemp("hostile")
    config = small(rounds=1 + len(ATTACKS))
    federation = Federation(config, load_federation("wisconsin", folder / "sites"), folder / "run")
    attacks = [attack for attack, _ in ATTACKS.values()]

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        wrong = site == CULPRIT and task.request.kind == "train" and task.request.round >= 1
        return attacks[task.request.round - 1](reply) if wrong else reply

    federation.bend = bend
    federation.rounds()
    return federation


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_by_name_and_the_round_goes_on(attacked_by_all, name) -> None:
    number = 1 + list(ATTACKS).index(name)
    rounds = attacked_by_all.coordinator.recorder.rounds
    assert len(rounds) == 1 + len(ATTACKS)
    assert list(rounds[0].refused) == []
    assert list(rounds[number].refused) == [CULPRIT]
    assert re.search(ATTACKS[name][1], rounds[number].refused[CULPRIT])
    assert CULPRIT not in rounds[number].contributions
    told = [event.reason for event in attacked_by_all.events if isinstance(event, Refused)]
    assert told[number - 1] == rounds[number].refused[CULPRIT]
    assert all(bool(value.isfinite().all()) for value in attacked_by_all.coordinator.state.values())


def test_what_a_site_says_is_one_line_in_logs_and_events(attacked_by_all, wisconsin, tmp_path, caplog) -> None:
    for part in attacked_by_all.coordinator.recorder.rounds[1:]:
        assert part.refused[CULPRIT].isprintable()
        assert len(part.refused[CULPRIT]) <= MAX_REASON
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    forged = "malignant\nERROR - forged \x1b[2J\u202e"
    federation.bend = lambda site, task, reply: (
        change_content(class_names=["benign", forged])(reply)
        if site == CULPRIT and task.request.kind == "prepare"
        else reply
    )
    record = federation.rounds()
    assert re.search(r"class_names.1: expected no control.*malignant\\+nERROR", record.absent[CULPRIT])
    assert not [entry for entry in caplog.records if not entry.getMessage().isprintable()]
    assert not [event for event in federation.events if not str(event).isprintable()]


def test_the_model_is_as_if_the_culprit_had_been_silent(wisconsin, tmp_path) -> None:
    digests = {
        state_digest(_run(attacked(wisconsin, tmp_path / name.replace(" ", "-"), attack, rounds=2)))
        for name, attack in (
            ("nan", ATTACKS["nan"][0]),
            ("weight 1e12", ATTACKS["weight 1e12"][0]),
            ("silent", lambda reply: None),
        )
    }
    assert len(digests) == 1


def _run(federation: Federation):
    federation.rounds()
    return federation.coordinator.state


def test_the_bound_on_a_change_follows_the_model_and_is_in_the_record(attacked_by_all, wisconsin, tmp_path) -> None:
    first, *others = attacked_by_all.coordinator.recorder.record("running").rounds
    assert first.max_update_norm == max(FLOOR, MULTIPLE * state_norm(initial_state(attacked_by_all.config)))
    assert all(part.max_update_norm >= FLOOR for part in others)
    # A tenth of what the bound was before it followed the model.
    hundred = change_tensors(layers__0__bias=lambda tensor: tensor + 100 / tensor.numel() ** 0.5)
    rounds = attacked(wisconsin, tmp_path / "auto", hundred, rounds=1).rounds().rounds
    assert re.search(r"norm of the change is \d+.*allowed is at most 20 \(max_update_norm", rounds[0].refused[CULPRIT])
    any_change = attacked(wisconsin, tmp_path / "any", hundred, rounds=1, max_update_norm=None).rounds().rounds
    assert (any_change[0].refused, any_change[0].max_update_norm) == ({}, None)


def test_integers_beyond_float64_are_refused() -> None:
    reference = {"n": torch.tensor(3)}
    check_update({"n": torch.tensor(2**53)}, 1.0, reference=reference, max_norm=None, max_weight=9)
    for value in (2**53 + 1, 2**63 - 1, -(2**63)):
        with pytest.raises(UpdateRejected, match="'n' holds integers"):
            check_update({"n": torch.tensor(value)}, 1.0, reference=reference, max_norm=None, max_weight=9)


def test_a_site_cannot_make_itself_test_only(wisconsin, tmp_path) -> None:
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    federation.bend = lambda site, task, reply: (
        change_content(train=0)(reply) if site == CULPRIT and task.request.kind == "prepare" else reply
    )
    record = federation.rounds()
    assert sorted(record.sites) == ["hospital-1", "hospital-2", "hospital-4"]
    assert any(
        "does not name it among its test_only_sites" in getattr(event, "reason", "") for event in federation.events
    )


@pytest.mark.parametrize(
    ("tasks", "fits"),
    [
        ({"sepsis": 4, "anaemia": 5}, True),
        ({"sepsis": 9, "anaemia": 0}, True),
        ({}, False),
        ({"sepsis": 8}, False),
        ({"fever": 9}, False),
    ],
)
def test_a_site_declares_all_its_training_cases_by_tasks_of_the_run(tasks: dict[str, int], fits: bool) -> None:
    config = clinics_config()
    names = tuple(sorted(make_method(config.method).datasets()))
    reply = PrepareReply(train=9, validation=1, test=1, class_names=names, fingerprint="0" * 64, datasets=tasks)
    reason = why_not("north", reply, config, classes=names, known=None)
    assert reason is None if fits else "expected 9 in all, of ['anaemia', 'sepsis']" in str(reason)


def test_tasks_are_not_declared_where_the_run_has_one(wisconsin, tmp_path) -> None:
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    federation.bend = lambda site, task, reply: (
        change_content(datasets={"benign": json.loads(reply.content)["train"]})(reply)
        if site == CULPRIT and task.request.kind == "prepare"
        else reply
    )
    record = federation.rounds()
    assert "expected 0 in all, of no dataset" in record.absent[CULPRIT]


def test_refusals_count_against_the_minimum(wisconsin, tmp_path) -> None:
    federation = attacked(wisconsin, tmp_path / "run", ATTACKS["nan"][0], min_sites=4)
    with pytest.raises(RunFailed, match=r"round 1 has 3 accepted updates, needs 4 \(hospital-3: tensor"):
        federation.run()


def test_silence_is_recorded(wisconsin, tmp_path) -> None:
    record = attacked(wisconsin, tmp_path / "run", lambda reply: None, rounds=1).rounds()
    assert record.rounds[0].missing == [CULPRIT]


def test_a_second_answer_and_an_unasked_one_change_nothing(wisconsin, tmp_path) -> None:
    honest = Federation(small(rounds=2), wisconsin, tmp_path / "honest")
    honest.rounds()
    twice = Federation(small(rounds=2), wisconsin, tmp_path / "twice")

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        if task.request.kind == "train" and site == CULPRIT:
            twice.coordinator.receive(site, reply)
            twice.coordinator.receive("stranger", reply)
        return reply

    twice.bend = bend
    record = twice.rounds()
    assert state_digest(twice.coordinator.state) == state_digest(honest.coordinator.state)
    assert "already answered" in record.rounds[0].refused[CULPRIT]


def test_tensors_in_an_evaluation_are_refused(wisconsin, tmp_path) -> None:
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        leak = site == CULPRIT and task.request.kind == "personalize"
        return dataclasses.replace(reply, tensors={"w": torch.ones(2)}) if leak else reply

    federation.bend = bend
    record = federation.run()
    assert CULPRIT not in record.final["last"].personal


def test_a_site_that_fails_once_comes_back(wisconsin, tmp_path) -> None:
    federation = Federation(small(), wisconsin, tmp_path / "run")
    client = federation.sites[CULPRIT].client
    train = client.train

    def sometimes(round_):
        if round_.number == 2:
            raise MemoryError
        return train(round_)

    client.train = sometimes
    record = federation.rounds()
    assert [CULPRIT in item.contributions for item in record.rounds] == [True, False, True]
    assert "MemoryError" in record.rounds[1].refused[CULPRIT]
