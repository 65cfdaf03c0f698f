"""TensorBoard events, read back with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consilia.evaluation.summary import series
from consilia.report.tensorboard import write_events
from tests.report.factory import make_record


def test_scalars_can_be_read_back(tmp_path: Path) -> None:
    record = make_record(rounds=4)
    write_events(record, tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    accuracy = series(record)["global_accuracy"]
    found = events.Scalars("rounds/global_accuracy")
    assert [event.step for event in found] == [1, 2, 3, 4]
    assert [event.value for event in found] == pytest.approx(list(accuracy.values()))
    number, site = 2, record.rounds[1].participants[0]
    weights = {event.step: event.value for event in events.Scalars(f"weight/{site}")}
    assert weights[number] == pytest.approx(record.rounds[1].contributions[site].weight)
    assert events.Scalars("seconds/train")[3].value == pytest.approx(5.4)
