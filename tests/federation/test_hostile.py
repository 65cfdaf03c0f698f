"""What a site may send wrong: refused by name and reason, counted against the minimum, and the round goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
import torch

from consilia.aggregation.validation import check_update
from consilia.core.determinism import state_digest
from consilia.core.errors import RunFailed, UpdateRejected
from consilia.core.events import Refused
from consilia.federation.admission import why_not
from consilia.federation.messages import Broadcast, PrepareReply, Reply
from consilia.methods.registry import make_method
from tests.federation.clinics import clinics_config
from tests.federation.support import Federation, small

CULPRIT = "hospital-3"


def change_tensors(**changes):
    def change(reply: Reply) -> Reply:
        tensors = dict(reply.tensors)
        for name, value in changes.items():
            name = name.replace("__", ".")
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value(tensors.get(name)) if callable(value) else value
        return dataclasses.replace(reply, tensors=tensors)

    return change


def change_content(**changes):
    def change(reply: Reply) -> Reply:
        return dataclasses.replace(reply, content=json.dumps({**json.loads(reply.content), **changes}))

    return change


def change_figures(**changes):
    def change(reply: Reply) -> Reply:
        content = json.loads(reply.content)
        content["received"]["test"] |= changes
        return dataclasses.replace(reply, content=json.dumps(content))

    return change


def add_a_task(reply: Reply) -> Reply:
    own = json.loads(reply.content)["received"]["test"]
    return change_figures(tasks={"fever": own})(reply)


BIAS = "layers__0__bias"
ATTACKS = {
    "nan": (change_tensors(**{BIAS: lambda t: t * math.nan}), "'layers.0.bias' holds NaN"),
    "infinity": (change_tensors(**{BIAS: lambda t: t + math.inf}), "'layers.0.bias' holds infinite"),
    "wrong shape": (change_tensors(**{BIAS: torch.zeros(1)}), r"'layers.0.bias' has shape \(1,\), expected \(8,\)"),
    "wrong dtype": (change_tensors(**{BIAS: lambda t: t.double()}), "dtype torch.float64"),
    "missing key": (change_tensors(**{BIAS: None}), "missing tensor 'layers.0.bias'"),
    "extra key": (change_tensors(trojan=torch.ones(2)), "extra tensor 'trojan'"),
    "not a tensor": (change_tensors(**{BIAS: "hello"}), "is a str"),
    "huge change": (change_tensors(**{BIAS: lambda t: t + 1e6}), "norm of the change"),
    "weight 1e12": (change_content(cases=10**12), "cases: .*10000000; got 1000000000000"),
    "weight -1": (change_content(cases=-1), "cases: .*got -1"),
    "weight 10**400": (change_content(cases=10**400), "does not fit its schema"),
    "more cases than declared": (change_content(cases=9_999_999), "weight is 9999999 cases, the site declared"),
    "weight NaN": (change_content(cases=math.nan), "cases"),
    "score 2": (change_content(weight=2.0), "weight is 2.0"),
    "score -1": (change_content(weight=-1.0), "weight is -1.0"),
    "score NaN": (change_content(weight=math.nan), "weight is"),
    "no score": (change_content(weight=None), "weight is None"),
    "replayed round": (change_content(round=0), "the request was about round"),
    "impossible accuracy": (
        change_content(fields={"train_accuracy": 2.0}),
        "train_accuracy is 2.0",
    ),
    "unknown metric": (
        change_content(fields={"label_entropy": 0.5}),
        "'label_entropy' is not declared",
    ),
    "endless seconds": (change_content(seconds=1.7e308), "seconds"),
    "more correct than cases": (change_figures(correct=10**6), "disagree"),
    "accuracy that is not correct / count": (change_figures(accuracy=1.0, correct=0), "disagree"),
    "more flips than cases": (change_figures(negative_flips=10**9), "disagree"),
    "more test cases than declared": (
        change_figures(count=999, correct=999, accuracy=1.0),
        "received.test.count is 999, the site declared",
    ),
    "figures of a task it does not have": (add_a_task, r"received.test.tasks are \['fever'\], the site declared \[\]"),
    "count 10**400": (change_figures(count=10**400), "does not fit its schema"),
    "surrogate": (lambda reply: dataclasses.replace(reply, content="\ud800"), r"cannot be read \(UnicodeEncodeError\)"),
    "4 MB of text": (change_content(note="x" * 4_000_000), "bytes, at most 64000 expected"),
    "sparse": (change_tensors(**{BIAS: lambda t: t.to_sparse()}), "torch.sparse_coo on cpu|cannot be read"),
    "meta": (change_tensors(**{BIAS: lambda t: t.to("meta")}), "on meta"),
    "label counts": (change_content(label_counts=[3, 4]), "label_counts"),
    "not JSON": (lambda reply: dataclasses.replace(reply, content="{"), "does not fit its schema"),
    "an error": (lambda reply: Reply(error="DataError"), "failed with DataError"),
}


def attacked(wisconsin, folder, attack, *, first_version: int = 0, **settings) -> Federation:
    federation = Federation(small(max_update_norm=1000.0, **settings), wisconsin, folder)

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        wrong = site == CULPRIT and task.request.kind == "train" and task.request.round >= first_version
        return attack(reply) if wrong else reply

    federation.bend = bend
    return federation


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_by_name_and_the_round_goes_on(wisconsin, tmp_path, name) -> None:
    attack, reason = ATTACKS[name]
    federation = attacked(wisconsin, tmp_path / "run", attack, first_version=1, rounds=2)
    record = federation.run()
    assert list(record.rounds[0].refused) == []
    assert list(record.rounds[1].refused) == [CULPRIT]
    assert re.search(reason, record.rounds[1].refused[CULPRIT])
    assert CULPRIT not in record.rounds[1].contributions
    told = [event.reason for event in federation.events if isinstance(event, Refused)]
    assert told == [record.rounds[1].refused[CULPRIT]]
    assert all(bool(value.isfinite().all()) for value in federation.coordinator.state.values())


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
    federation.run()
    return federation.coordinator.state


def test_integers_beyond_float64_are_refused() -> None:
    reference = {"n": torch.tensor(3)}
    check_update({"n": torch.tensor(2**53)}, 1.0, reference=reference, max_norm=None, max_weight=9)
    for value in (2**53 + 1, 2**63 - 1, -(2**63)):
        with pytest.raises(UpdateRejected, match="'n' holds integers"):
            check_update({"n": torch.tensor(value)}, 1.0, reference=reference, max_norm=None, max_weight=9)


def test_a_site_cannot_make_itself_the_evaluator(wisconsin, tmp_path) -> None:
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    federation.bend = lambda site, task, reply: (
        change_content(train=0)(reply) if site == CULPRIT and task.request.kind == "prepare" else reply
    )
    record = federation.run()
    assert sorted(record.sites) == ["hospital-1", "hospital-2", "hospital-4"]
    assert any("does not name it among its evaluators" in getattr(event, "reason", "") for event in federation.events)


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
    record = federation.run()
    assert "expected 0 in all, of no data set" in record.absent[CULPRIT]


def test_refusals_count_against_the_minimum(wisconsin, tmp_path) -> None:
    federation = attacked(wisconsin, tmp_path / "run", ATTACKS["nan"][0], min_sites=4)
    with pytest.raises(RunFailed, match=r"round 1 has 3 accepted updates, needs 4 \(hospital-3: tensor"):
        federation.run()


def test_silence_is_recorded(wisconsin, tmp_path) -> None:
    record = attacked(wisconsin, tmp_path / "run", lambda reply: None, rounds=1).run()
    assert record.rounds[0].missing == [CULPRIT]


def test_a_second_answer_and_an_unasked_one_change_nothing(wisconsin, tmp_path) -> None:
    honest = Federation(small(rounds=2), wisconsin, tmp_path / "honest")
    honest.run()
    twice = Federation(small(rounds=2), wisconsin, tmp_path / "twice")

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        if task.request.kind == "train" and site == CULPRIT:
            twice.coordinator.receive(site, reply)
            twice.coordinator.receive("stranger", reply)
        return reply

    twice.bend = bend
    record = twice.run()
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
    record = federation.run()
    assert [CULPRIT in item.contributions for item in record.rounds] == [True, False, True]
    assert "MemoryError" in record.rounds[1].refused[CULPRIT]
