"""Runs and studies as functions: what they give, what they say on the way, and what a refusal leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consilia.core.errors import ConfigError
from consilia.core.events import Begun, Event, Finished, Found, Prepared, RoundDone, read_event
from consilia.study.federations import left_out_in_turn
from consilia.study.running import run_method, run_study
from consilia.study.study import Study, load_study

SMALL = ["rounds=2", "training.local_epochs=1"]


def events_in(folder: Path) -> list[Event | None]:
    return [read_event(json.loads(line)) for line in (folder / "progress.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_gives_its_record_and_every_event_is_in_its_folder(tmp_path: Path) -> None:
    """trials A 11: progress.jsonl was there with the simulator only."""
    told: list[Event] = []
    run = run_method(load_study("wisconsin"), "fedavg", tmp_path / "run", overrides=SMALL, progress=told.append)
    assert (run.record.run.rounds_done, run.folder, run.found) == (2, tmp_path / "run", False)
    assert told[0] == Begun(rounds=2)
    assert events_in(tmp_path / "run") == told[1:]
    assert [event.round for event in told if isinstance(event, RoundDone)] == [1, 2]
    again = run_method(load_study("wisconsin"), "fedavg", tmp_path / "run", overrides=SMALL, progress=told.append)
    assert (again.found, again.record, told[-1]) == (True, run.record, Found())
    # All rounds are done, and the process was killed before the record was written.
    (tmp_path / "run" / "result.json").unlink()
    told.clear()
    resumed = run_method(load_study("wisconsin"), "fedavg", tmp_path / "run", overrides=SMALL, progress=told.append)
    assert [(event.rounds, event.done) for event in told if isinstance(event, Prepared)] == [(2, 2)]
    assert resumed.record.final["last"].sha256 == run.record.final["last"].sha256


@pytest.mark.slow
def test_a_study_names_the_run_of_every_event_and_baselines_leave_events_too(tmp_path: Path) -> None:
    told: list[tuple[str, Event]] = []
    study = load_study("wisconsin").changed(seeds=(0, 1))
    runs = run_study(
        study,
        tmp_path / "study",
        labels=["centralised", "majority"],
        overrides=SMALL,
        jobs=1,
        progress=lambda name, event: told.append((name, event)),
    ).runs
    assert [run.name for run in runs] == [f"{label}-seed{n}" for label in ("centralised", "majority") for n in (0, 1)]
    # Seed after seed, so that what is done of a stopped study compares.
    begun = [name for name, event in told if isinstance(event, Begun)]
    assert begun == [f"{label}-seed{n}" for n in (0, 1) for label in ("centralised", "majority")]
    assert [event.round for name, event in told if name == "centralised-seed1" and isinstance(event, RoundDone)] == [
        1,
        2,
    ]
    assert isinstance(events_in(tmp_path / "study" / "majority-seed1")[-1], Finished)
    assert (tmp_path / "study" / "report.html").is_file()
    told.clear()
    assert all(run.found for run in run_study(study, tmp_path / "study", labels=["majority"], overrides=SMALL).runs)


def test_all_means_every_site_that_trains() -> None:
    names = [f"hospital-{number}" for number in range(1, 5)]
    assert left_out_in_turn(Study(leave_out="all")) == names


def test_a_mistake_in_the_last_method_shows_before_the_first_run_and_leaves_nothing(tmp_path: Path) -> None:
    def never(name: str, event: Event) -> None:
        raise AssertionError("a run has begun")

    study = Study(methods={"first": {"method": "fedavg"}, "last": {"method": {"method": "fedprox", "nu": 1}}})
    with pytest.raises(ConfigError, match=r"method last: method\.nu: unknown key; expected one of method, mu"):
        run_study(study, tmp_path / "new" / "study", progress=never)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="did you mean 'hospital-1'"):
        run_study(study.changed(leave_out="hospitl-1"), tmp_path / "study", labels=["first"], progress=never)
    assert [path.name for path in tmp_path.rglob("*")] == ["study", "notes.txt"]
