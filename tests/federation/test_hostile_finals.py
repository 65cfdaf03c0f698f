"""What a site may send wrong in its sums and in its final metrics: refused by name, and the run goes on without it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from consilia.data.moments import Moments, moments, pooled_values
from consilia.federation.messages import Broadcast, Reply, Request
from tests.federation.attacks import CULPRIT
from tests.federation.support import Federation, small

HUGE = 1e300
SUMS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a huge sum": (lambda own: {**own, "total": [HUGE] * len(own["total"])}, "column 0: no .* values have the sum"),
    "a negative variance": (lambda own: {**own, "squares": [0.0] * len(own["squares"])}, "column 0: no .* values"),
    "huge squares": (lambda own: {**own, "squares": [HUGE] * len(own["squares"])}, "column 0: no .* values have"),
    "sums of nothing": (lambda own: {**own, "values": [0] * len(own["values"])}, "column 0: no 0 values have"),
    "infinity": (lambda own: {**own, "total": [float("inf")] * len(own["total"])}, "moments.total.0: .*finite"),
    "too few columns": (lambda own: {key: values[:2] for key, values in own.items()}, "sums are of 2 columns"),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_that_no_values_have_are_refused_by_name(wisconsin: dict[str, Path], tmp_path: Path, name: str) -> None:
    for path in wisconsin.values():
        path.write_text(path.read_text().replace("format: tabular", "format: tabular\n    numeric_missing: error"))
    run = Federation(small("fedavg", preprocessing="pooled", rounds=1), wisconsin, tmp_path / "run")
    attack, words = SUMS[name]

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        if site != CULPRIT or task.request.kind != "prepare":
            return reply
        content = json.loads(reply.content)
        return dataclasses.replace(reply, content=json.dumps({**content, "moments": attack(content["moments"])}))

    run.bend = bend
    record = run.rounds()
    assert re.search(words, record.absent[CULPRIT])
    assert sorted(record.rounds[0].contributions) == sorted(set(wisconsin) - {CULPRIT})
    honest = [run.sites[name].data.train.inputs.double().numpy() for name in sorted(set(wisconsin) - {CULPRIT})]
    assert np.concatenate(honest).mean(axis=0) == pytest.approx(np.zeros(30), abs=1e-5)


def test_real_values_pass_and_a_column_that_never_changes_is_not_blown_up() -> None:
    draw = np.random.default_rng(0)
    raw = np.stack([np.full(88, 36.6), draw.normal(1e5, 1, 88), draw.normal(0, 1e-8, 88)], axis=1)
    values = pooled_values([moments(raw[:57], (0,)), moments(raw[57:], (0,))])
    assert values["std"][0] == 1
    assert values["std"][1:] == pytest.approx(raw.std(axis=0)[1:], rel=1e-3)
    with pytest.raises(ValidationError, match=r"no 2 values have the sum 3\.0"):
        Moments(values=(2,), total=(3.0,), squares=(4.4,))


def test_a_column_of_few_cases_is_not_told() -> None:
    raw = np.full((12, 5, 2), np.nan)
    raw[:, :, 0], raw[:9, :, 1] = 2.0, 7.0  # 45 values, of nine cases
    told = moments(raw, axes=(0, 1), fewest=10)
    assert (told.values, told.total, told.squares) == ((60, 0), (120.0, 0.0), (240.0, 0.0))
    assert moments(raw, axes=(0, 1), fewest=9).values == (60, 45)


def _test(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["received"]["test"].update(changes)


def _curves(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["received"]["test"]["curves"].update(changes)


BIN = {"count": 10**6, "confidence": 0.5, "observed": 0.5}
FINALS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a threshold of 2": (lambda c: c["received"]["validation"].update(threshold=2.0), "validation.*threshold"),
    "a threshold that is none": (lambda c: c["received"]["validation"].update(threshold=float("nan")), "threshold"),
    "a threshold of 1e308": (lambda c: c["received"]["validation"].update(threshold=1e308), "threshold"),
    "a short curve": (_curves(roc=[0.5] * 20), "roc has 20 points, expected 21"),
    "a curve beyond 1": (_curves(roc=[1.5] * 21), "roc"),
    "nine bins": (_curves(reliability=[BIN] * 9), "reliability"),
    "bins of more cases than there are": (_curves(reliability=[BIN] * 10), "curves.reliability: 10000000 of"),
    "an interval upside down": (_test(intervals={"auroc": {"se": 0.1, "low": 0.9, "high": 0.1}}), "is above high"),
    "an interval of no metric": (_test(intervals={"<b>": {"se": 0.1, "low": 0.1, "high": 0.9}}), "<b>"),
    "more positive cases than cases": (_test(positives=10**6), "positives: 1000000 of"),
    "more patients than cases": (_test(patients=10**6), "patients: 1000000 of"),
}


@pytest.mark.parametrize("name", FINALS)
def test_final_metrics_that_cannot_be_are_refused_by_name(finals, name: str) -> None:
    reply = finals.honest
    content = json.loads(reply.content)
    attack, words = FINALS[name]
    attack(content)
    assert re.search(words, finals.refused(dataclasses.replace(reply, content=json.dumps(content))))


class Finals:
    """A finished run whose server asks one site for its final metrics again."""

    def __init__(self, federation: Federation, honest: Reply) -> None:
        self.federation, self.honest = federation, honest

    def refused(self, reply: Reply) -> str:
        validation = self.federation.coordinator.validation
        request = Request(kind="personalize", round=1, final=True)
        validation.ask(
            lambda _: validation.receive(CULPRIT, reply),
            [Broadcast(request, [CULPRIT])],
            reference={},
            known=self.federation.coordinator.recorder.sites,
        )
        return validation.refused.get(CULPRIT, "")


@pytest.fixture(scope="module")
def finals(tmp_path_factory: pytest.TempPathFactory) -> Finals:
    from consilia.simulation.federation import load_federation

    folder = tmp_path_factory.mktemp("finals")
    federation = Federation(small(rounds=1), load_federation("wisconsin", folder / "sites"), folder / "run")
    kept: dict[str, Reply] = {}

    def bend(site: str, task: Broadcast, reply: Reply) -> Reply:
        if site == CULPRIT and task.request.kind == "personalize":
            kept["last"] = reply
        return reply

    federation.bend = bend
    federation.run()
    return Finals(federation, kept["last"])


def test_the_honest_reply_is_taken(finals: Finals) -> None:
    assert finals.refused(finals.honest) == ""
