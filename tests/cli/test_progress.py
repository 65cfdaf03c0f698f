"""What is printed while runs go on, on a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.table import Table

from consilia.cli import console as printing
from consilia.cli import progress
from consilia.cli.progress import RunView
from consilia.core.events import (
    Absent,
    Begun,
    Event,
    Failed,
    Finished,
    Found,
    Prepared,
    Replied,
    RoundDone,
    TrainedAlone,
)
from consilia.core.terminal import PlainConsole

SITES = ["a", "b"]


def shown(monkeypatch: pytest.MonkeyPatch, *events: Event, terminal: bool) -> str:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=terminal, width=100)
    monkeypatch.setattr(progress, "console", console)
    with RunView() as view:
        for event in events:
            view("fedavg-seed0", event)
    return out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_sites_that_train_alone_are_no_rounds(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    alone = [TrainedAlone(site=site, number=number, of=2) for number, site in enumerate(SITES, start=1)]
    text = shown(monkeypatch, Begun(rounds=40), *alone, Finished(rounds=40, seconds=6), terminal=terminal)
    if terminal:
        assert re.search(r"40/40\S* rounds", text)
    else:
        assert text.splitlines()[1:3] == [
            "fedavg-seed0: a: trained alone, site 1 of 2",
            "fedavg-seed0: b: trained alone, site 2 of 2",
        ]


def test_a_log_has_a_line_a_round_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """trials A 20."""
    rounds = [
        RoundDone(round=number, of=4, updates=2, participants=2, validation=0.5, seconds=10.0 * number)
        for number in (1, 2)
    ]
    reply = Replied(site="a", request="train", version=0)
    ready, absent = Prepared(sites=SITES, rounds=4), Absent(site="c", reason="no data")
    events = (Begun(rounds=4), ready, reply, absent, *rounds, Failed(reason="x"), Finished(rounds=4, seconds=60))
    assert shown(monkeypatch, *events, terminal=False).splitlines() == [
        "fedavg-seed0: running",
        "fedavg-seed0: c: absent: no data",
        "fedavg-seed0: round 1 of 4: 2 of 2 updates, validation 0.500, 10.0 s, left 0:00:30",
        # Two rounds at 15 s on average.
        "fedavg-seed0: round 2 of 4: 2 of 2 updates, validation 0.500, 20.0 s, left 0:00:30",
        "fedavg-seed0: finished after 4 rounds, 60 s",
    ]


def test_a_record_that_is_found_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        assert "fedavg-seed0: record found, not run again" in shown(monkeypatch, Found(), terminal=terminal)


def test_a_run_resumed_past_its_last_round_shows_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """trials A 11: after resuming past the end the bar said 0/40."""
    events = (Begun(rounds=40), Prepared(sites=SITES, rounds=40, done=40), Finished(rounds=40, seconds=9))
    bar = shown(monkeypatch, *events, terminal=True)
    assert "Resuming after round 40." in bar
    assert re.findall(r"\d+/40", bar)[-1] == "40/40"
    lines = shown(monkeypatch, *events, terminal=False).splitlines()
    assert lines[1] == "fedavg-seed0: Resuming after round 40."


def test_a_table_in_a_log_keeps_every_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """trials A 5: without a terminal the table cut "±"."""
    out = io.StringIO()
    monkeypatch.setattr(printing, "console", PlainConsole(file=out, width=40))
    table = Table("method")
    for place in range(9):
        table.add_column(f"metric {place}", no_wrap=True)
    table.add_row("fedkper-aggregation-only", *["89.5±12.3"] * 9)
    printing.print_table(table)
    assert out.getvalue().count("89.5±12.3") == 9
    assert "…" not in out.getvalue()
