"""What a run says: its lines, and the way through JSON."""

from __future__ import annotations

import json

import pytest

from consilia.core.events import (
    Absent,
    Back,
    Event,
    Failed,
    Finished,
    Missing,
    Notice,
    Personalizing,
    Prepared,
    Refused,
    Replied,
    RoundDone,
    ServerWorks,
    Warned,
    read_event,
)

SITES = ["hospital-1", "hospital-2"]
ROUND = RoundDone(round=1, of=3, updates=1, participants=2, validation=0.91234, seconds=2.0)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Prepared(sites=SITES, rounds=3), "2 sites take part: hospital-1, hospital-2; 3 rounds"),
        (ROUND, "round 1 of 3: 1 of 2 updates, validation 0.912, 2.0 s"),
        (ROUND.model_copy(update={"validation": None}), "round 1 of 3: 1 of 2 updates, 2.0 s"),
        (RoundDone(round=2, of=3), "round 2 of 3"),
        (Replied(request="prepare", site="hospital-1", version=0), "hospital-1: ready"),
        (Replied(request="train", site="hospital-1", version=4), "hospital-1: round 5: answered with its update"),
        (Refused(request="train", site="hospital-2", reason="it is nan"), "hospital-2: refused: it is nan"),
        (Absent(site="hospital-2", reason="no answer in time"), "hospital-2: absent: no answer in time"),
        (
            Missing(site="hospital-2", since="2026-11-29T17:05:12+00:00", reason="no answer since 17:05"),
            "hospital-2: missing: no answer since 17:05",
        ),
        (Back(site="hospital-2"), "hospital-2: answers again"),
        (Notice(reason="waiting for sites"), "waiting for sites"),
        (Warned(reason="overfitting"), "warning: overfitting"),
        (ROUND.model_copy(update={"metric": "loss"}), "round 1 of 3: 1 of 2 updates, validation loss 0.912, 2.0 s"),
        (Personalizing(keep="best", sites=SITES), "personal models and last metrics, best global model"),
        (ServerWorks(doing="injecting", round=2, step=7, of=40), "round 2: injecting step 7 of 40"),
        (ServerWorks(doing="evaluating pneumonia"), "evaluating pneumonia"),
        (Failed(reason="too few updates"), "failed: too few updates"),
        (Finished(rounds=3, seconds=18.4), "finished after 3 rounds, 18 s"),
        (Finished(rounds=1, seconds=18.4), "finished after 1 round, 18 s"),
        (Finished(rounds=0, seconds=18.4), "finished, 18 s"),  # a baseline that has no rounds
    ],
)
def test_an_event_reads_as_one_line_and_survives_json(event: Event, expected: str) -> None:
    assert str(event) == expected
    assert read_event(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize("values", [{"event": "of a later version"}, {"event": "round"}, {"event": ["round"]}, {}])
def test_what_is_no_event_is_passed_over(values: dict[str, object]) -> None:
    assert read_event(values) is None
