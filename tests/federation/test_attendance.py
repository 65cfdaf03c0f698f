"""How long a request waits for its sites, by a clock that the test moves."""

from __future__ import annotations

import pytest

from consilia.core.events import Back, Event, Missing
from consilia.federation.attendance import GRACE_SECONDS, PREPARE_SECONDS, Attendance
from consilia.federation.messages import RequestKind
from consilia.federation.recorder import Recorder
from tests.federation.support import Federation, small

ONE, TWO, THREE = SITES = ("hospital-1", "hospital-2", "hospital-3")
LIMIT = 3600


class Server:
    """An attendance whose time is the test's, and what it has told."""

    def __init__(self, round_timeout: int = LIMIT) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.recorder = Recorder(small(), "inprocess")
        self.attendance = Attendance(self.recorder, round_timeout, self.events.append, lambda: self.now)

    def ask(self, answers: dict[str, float], kind: RequestKind = "train", sites: tuple[str, ...] = SITES) -> float:
        """Ask sites, of which some answer after some seconds; how long the server waits."""
        began = self.now
        self.attendance.open(dict.fromkeys(sites, kind))
        while self.attendance.is_waiting() and self.now - began < 10 * LIMIT:
            self.now += 1
            for site, seconds in answers.items():
                if self.now - began == seconds:
                    self.attendance.heard(site)
        self.attendance.close()
        return self.now - began

    def told(self) -> list[tuple[str, str]]:
        told = [(event.name, event.site) for event in self.events if isinstance(event, Missing | Back)]
        self.events.clear()
        return told


@pytest.fixture
def server() -> Server:
    return Server()


def test_who_answers_is_waited_for_and_nothing_is_told(server) -> None:
    assert server.ask({ONE: 5, TWO: 6, THREE: 7}) == 7
    assert server.ask({ONE: 14, TWO: 13, THREE: 2}) == 14
    assert server.told() == []
    assert server.recorder.absences == []


@pytest.mark.parametrize(("slowest", "grace"), [(2, GRACE_SECONDS), (200, 100)])
def test_a_vanished_site_costs_one_round_timeout_in_a_run(server, slowest, grace) -> None:
    server.ask(dict.fromkeys(SITES, slowest))
    others = {ONE: 1, TWO: slowest}
    assert server.ask(others) == LIMIT
    waits = [server.ask(others), server.ask(others, "evaluate"), *(server.ask(others, "personalize") for _ in range(2))]
    assert waits == [slowest + grace] * 4
    assert [told for told in server.told() if told[1] == THREE] == [("missing", THREE)]
    (absence,) = server.recorder.absences
    assert (absence.site, absence.until) == (THREE, None)


def test_whoever_follows_is_told_as_soon_as_a_site_is_late(server) -> None:
    server.attendance.open(dict.fromkeys(SITES, "train"))
    server.now += 4
    server.attendance.heard(ONE)
    server.attendance.heard(TWO)
    server.now += GRACE_SECONDS - 1
    assert server.attendance.is_waiting()
    assert server.told() == []
    server.now += 1
    assert server.attendance.is_waiting()
    (event,) = server.events
    assert isinstance(event, Missing)
    assert event.site == THREE
    assert event.since == server.attendance._since.isoformat(timespec="seconds")
    assert "no answer since it was asked at" in event.reason
    assert "waited for until" in event.reason
    server.events.clear()
    # It was slow, no more.
    server.attendance.heard(THREE)
    assert not server.attendance.is_waiting()
    server.attendance.close()
    assert server.told() == [("back", THREE)]
    assert server.recorder.absences == []


def test_a_site_that_is_always_slow_is_told_of_once(server) -> None:
    for expected in ([("missing", THREE), ("back", THREE)], [], []):
        assert server.ask({ONE: 5, TWO: 5, THREE: 100}) == 100
        assert server.told() == expected


def test_sites_that_vanish_all_together_are_told_of_by_what_they_took_before(server) -> None:
    server.ask(dict.fromkeys(SITES, 5))
    server.attendance.open(dict.fromkeys(SITES, "train"))
    server.now += 5 + GRACE_SECONDS
    assert server.attendance.is_waiting()
    assert server.told() == [("missing", site) for site in SITES]


def test_two_sites_that_vanish_together_are_both_told_of_at_once(server) -> None:
    server.ask(dict.fromkeys(SITES, 5))
    server.attendance.open(dict.fromkeys(SITES, "train"))
    server.now += 6
    server.attendance.heard(ONE)
    server.now += GRACE_SECONDS
    assert server.attendance.is_waiting()
    assert server.told() == [("missing", TWO), ("missing", THREE)]


def test_training_is_not_compared_with_evaluating(server) -> None:
    for _ in range(2):
        server.attendance.open({ONE: "train", TWO: "train", THREE: "evaluate"})
        server.now += 2
        server.attendance.heard(THREE)
        server.now += 300
        assert server.attendance.is_waiting()
        assert server.told() == []
        server.attendance.heard(ONE)
        server.now += 149
        assert server.attendance.is_waiting()
        assert server.told() == []
        server.attendance.heard(TWO)
        server.attendance.close()


def test_one_that_fails_at_once_makes_nobody_late(server) -> None:
    server.attendance.open(dict.fromkeys(SITES, "train"))
    server.attendance.heard(ONE, failed=True)
    server.now += 1000
    assert server.attendance.is_waiting()
    assert server.told() == []
    server.attendance.heard(TWO)
    server.attendance.heard(THREE)
    assert not server.attendance.is_waiting()


def test_the_only_test_site_vanishes(server) -> None:
    """Nobody else is asked to evaluate."""
    server.ask(dict.fromkeys(SITES, 1), "prepare")
    for expected in (LIMIT, 40 + 20, 40 + 20):
        server.attendance.open({ONE: "train", TWO: "train", THREE: "evaluate"})
        began = server.now
        server.now += 40
        server.attendance.heard(ONE)
        server.attendance.heard(TWO)
        while server.attendance.is_waiting():
            server.now += 1
            if server.now - began == 61:
                assert server.events or expected < LIMIT
        server.attendance.close()
        assert server.now - began == expected
    assert server.told() == [("missing", THREE)]


def test_a_site_that_answers_again_is_waited_for_in_full(server) -> None:
    server.ask({ONE: 5, TWO: 5})
    assert server.ask(dict.fromkeys(SITES, 5)) == 5
    assert server.told() == [("missing", THREE), ("back", THREE)]
    assert server.ask({ONE: 5, TWO: 5, THREE: 500}) == 500
    assert server.ask({ONE: 5, TWO: 5}) == LIMIT
    first, second = server.recorder.absences
    assert first.until is not None
    assert second.until is None


def test_a_late_answer_brings_a_site_back(server) -> None:
    server.ask({ONE: 5, TWO: 5})
    server.attendance.heard_late(THREE)
    assert server.told() == [("missing", THREE), ("back", THREE)]
    assert server.ask({ONE: 5, TWO: 5, THREE: 500}) == 500


def test_the_slowest_of_the_others_counts_also_where_it_is_slower_than_ever(server) -> None:
    server.ask({ONE: 5, TWO: 5})
    assert server.ask({ONE: 5, TWO: 1000}) == 1500


def test_a_missing_site_that_is_asked_alone_gets_what_others_took_before(server) -> None:
    server.ask({ONE: 40, TWO: 5})
    assert server.ask({}, sites=(THREE,)) == 60


def test_nobody_waits_longer_than_the_round_timeout() -> None:
    server = Server(round_timeout=8)
    assert server.ask({ONE: 2, TWO: 3}) == 8
    assert server.ask({ONE: 2, TWO: 3}) == 8
    assert server.told() == [("missing", THREE)]


def test_without_a_round_timeout_the_first_wait_has_no_end() -> None:
    server = Server(round_timeout=0)
    assert server.ask({ONE: 2, TWO: 3}) == 10 * LIMIT
    (event,) = server.events
    assert "round_timeout is 0" in str(event)
    # The engine has given the site up.
    assert server.ask({ONE: 2, TWO: 3}) == 13


def test_a_site_that_does_not_prepare_is_no_missing_one() -> None:
    server = Server(round_timeout=20)
    assert server.ask({ONE: 2, TWO: 30}, "prepare") == PREPARE_SECONDS
    assert server.told() == [("missing", TWO), ("missing", THREE), ("back", TWO)]
    server.attendance.heard_late(THREE)
    assert server.told() == []
    assert server.recorder.absences == []


def test_a_missing_site_has_all_its_time_to_prepare_when_the_run_goes_on(server) -> None:
    server.ask({ONE: 5, TWO: 5})
    assert server.ask({ONE: 5, TWO: 5, THREE: 400}, "prepare") == 400
    assert server.recorder.missing() == set()


def test_absences_survive_a_checkpoint(server) -> None:
    server.ask({ONE: 5, TWO: 5})
    again = Recorder(small(), "inprocess")
    again.restore(server.recorder.state())
    assert again.absences == server.recorder.absences
    assert again.missing() == {THREE}


def test_a_missing_site_counts_as_drawn_until_it_is_back(wisconsin, tmp_path) -> None:
    """It changes neither who else is asked, nor who trains when it is back."""
    config = small(rounds=6, participation=0.5, min_sites=1)
    heard = Federation(config, wisconsin, tmp_path / "heard").rounds()
    federation = Federation(config, wisconsin, tmp_path / "run")
    gone = range(2, 5)
    federation.bend = lambda site, task, reply: None if site == TWO and task.request.round in gone else reply
    record = federation.rounds()
    drawn = [item.participants for item in record.rounds]
    assert drawn == [item.participants for item in heard.rounds]
    assert [item.missing for item in record.rounds] == [
        [TWO] if number in gone and TWO in asked else [] for number, asked in enumerate(drawn)
    ]
    assert any(item.missing for item in record.rounds)
    # In the rounds that do not draw it it does not evaluate.
    absent = [item.version for item in record.evaluations if item.model == "global" and TWO not in item.sites]
    assert absent == list(gone)
    # The others are the final evaluations, which rounds() leaves out.
    absence = record.absences[0]
    assert absence.site == TWO
    assert absence.until is not None
    told = [(event.name, event.site) for event in federation.events if isinstance(event, Missing | Back)]
    assert told[:2] == [("missing", TWO), ("back", TWO)]
