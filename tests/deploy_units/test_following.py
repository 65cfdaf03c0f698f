"""Following a job: what NVFlare notes of it in words, which job a resumed one goes on with, and the loop itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from consilia.core.errors import ConfigError, RunFailed
from consilia.core.events import Absent, Event, Finished, Notice, Prepared, RoundDone
from consilia.deploy import following
from consilia.deploy.following import Ending, follow, in_words, last_error, not_deployed, to_resume, why_waiting
from consilia.deploy.session import JobSession, NotPermitted, ServerSilent

DENIED = ["server: OK", "hospital-1: OK", "hospital-2: not authorized to deploy: BYOC", "num_ok_sites 1 < min 2"]


def test_sites_that_would_not_take_the_job_are_named_with_their_reason() -> None:
    assert not_deployed({"job_deploy_detail": DENIED}) == {"hospital-2": "not authorized to deploy: BYOC"}
    assert not_deployed({}) == {}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("FINISHED:COMPLETED", "the job is complete"),
        ("FINISHED:ABORTED", "aborted by an administrator"),
        ("FINISHED:EXECUTION_EXCEPTION", "ended with an error"),
        ("FINISHED:ABNORMAL", "a site was lost"),
        ("FINISHED:CAN_NOT_SCHEDULE", "never started"),
        ("FINISHED:FAILED_TO_RUN", "could not be started"),
        ("FINISHED:ABANDONED", "when the server stopped"),
        ("FINISHED:NEW_IN_ANOTHER_VERSION", "FINISHED:NEW_IN_ANOTHER_VERSION"),
    ],
)
def test_every_ending_has_words(status: str, words: str) -> None:
    assert words in in_words({"status": status})


def test_words_have_a_word_for_every_ending_that_nvflare_knows() -> None:
    from nvflare.apis.job_def import RunStatus

    assert {status.value for status in RunStatus if status.value.startswith("FINISHED")} == set(following.ENDINGS)


def test_a_job_that_could_not_start_says_which_site_refused() -> None:
    told = in_words({"status": "FINISHED:FAILED_TO_RUN", "job_deploy_detail": DENIED})
    assert told == "the job could not be started; hospital-2: not authorized to deploy: BYOC"


def test_waiting_says_how_many_sites_are_missing() -> None:
    meta = {"status": "SUBMITTED", "min_clients": 3}
    assert why_waiting(meta, ["a", "b"]) == "waiting for sites: 2 of at least 3 are connected (a, b)"
    assert why_waiting(meta, []) == "waiting for sites: 0 of at least 3 are connected (-)"


def test_waiting_repeats_what_the_scheduler_said_without_its_time() -> None:
    history = ["2026-11-21 16:03:15: connected sites (1) < min_sites (2)"]
    told = why_waiting({"status": "SUBMITTED", "min_clients": 2, "schedule_history": history}, ["a", "b"])
    assert told == "waiting for the server to start the job, last try: connected sites (1) < min_sites (2)"


# Lines as NVFlare 2.9 writes them.
LOG = """\
2026-11-21 16:05:04,949 - AppCommandProcessor - ERROR - no app command func for topic consilia.progress
2026-11-21 16:05:09,221 - ServerRunner - INFO - [identity=esub, run=b11, wf=controller] - starting ...
"""
PANIC = (
    "2026-11-21 16:05:12,216 - ServerRunner - ERROR - [identity=esub, run=b11, wf=controller] - Aborting current RUN "
    "due to FATAL_SYSTEM_ERROR received: the job was made by Consilia 9.9.9, here is 0.1.0\n"
)
LATER = "2026-11-21 16:05:13,000 - ServerRunner - ERROR - [identity=esub, run=b11] - cannot load the model\n"


def test_the_last_error_of_a_log() -> None:
    assert last_error(LOG) is None
    assert last_error(LOG + LATER) == "cannot load the model"
    assert last_error(LOG + PANIC + LATER) == "the job was made by Consilia 9.9.9, here is 0.1.0"


# ---- which job a resumed one goes on with ----------------------------------------------------------------------------


def job(name: str, status: str, *, ran: bool = True, of: str | None = None) -> dict[str, Any]:
    """What NVFlare notes of a job: it has an empty start time from the moment of its submission."""
    started = "2026-11-21T16:05:12.216733+00:00" if ran else ""
    meta = {"job_id": name, "status": status, "start_time": started, "duration": "0:00:20" if ran else "N/A"}
    return {**meta, **({} if of is None else {"cloned_from": of})}


FAILED = job("a", "FINISHED:EXECUTION_EXCEPTION")


def test_a_failed_job_goes_on_with_itself() -> None:
    assert to_resume([FAILED, job("x", "RUNNING")], {"x"}, "a")["job_id"] == "a"


def test_a_clone_that_never_ran_has_taken_nothing_over() -> None:
    jobs = [FAILED, job("b", "FINISHED:FAILED_TO_RUN", ran=False, of="a")]
    assert to_resume(jobs, set(), "a")["job_id"] == "a"
    assert to_resume(jobs, set(), "b")["job_id"] == "a"
    again = [*jobs, job("c", "FINISHED:CAN_NOT_SCHEDULE", ran=False, of="b")]
    assert to_resume(again, set(), "c")["job_id"] == "a"


def test_a_clone_that_ran_is_the_one_to_resume() -> None:
    jobs = [FAILED, job("b", "FINISHED:ABORTED", of="a")]
    assert to_resume(jobs, set(), "b")["job_id"] == "b"
    # It may have ended before it had taken the state over; if it has taken it, the server refuses.
    assert to_resume(jobs, set(), "a")["job_id"] == "a"
    for status in ("RUNNING", "FINISHED:COMPLETED"):
        with pytest.raises(ConfigError, match="job a has been resumed already, as b"):
            to_resume([FAILED, job("b", status, of="a")], {"b"}, "a")


def test_a_clone_that_still_waits_will_take_the_state_over() -> None:
    with pytest.raises(ConfigError, match="resumed already, as b"):
        to_resume([FAILED, job("b", "SUBMITTED", ran=False, of="a")], set(), "a")


@pytest.mark.parametrize(
    ("status", "message"),
    [("RUNNING", "has not ended, it is RUNNING"), ("FINISHED:COMPLETED", "is complete: there is nothing to resume")],
)
def test_running_and_complete_jobs_are_not_resumed(status: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_resume([job("a", status)], {"a"}, "a")


def test_a_job_that_the_server_lost_is_resumed_although_nvflare_calls_it_running() -> None:
    assert to_resume([job("a", "RUNNING")], {"x"}, "a")["job_id"] == "a"


def test_an_unknown_job_is_not_resumed() -> None:
    with pytest.raises(ConfigError, match="knows no job z"):
        to_resume([FAILED], set(), "z")


# ---- the loop --------------------------------------------------------------------------------------------------------

Look = tuple[dict[str, Any], Sequence[dict[str, Any]] | Exception]


class Scripted(JobSession):
    """A server that at each look answers with the next meta and the next events."""

    def __init__(self, looks: Sequence[Look | Exception], log: str = "") -> None:
        self.looks, self.log = list(looks), log
        self.asked: list[int] = []
        self.alive = {"job"}
        self.renewed = 0
        self._news: Sequence[dict[str, Any]] | Exception = []

    def meta(self, job_id: str) -> dict[str, Any]:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        meta, self._news = look
        return meta

    def renew(self) -> None:
        self.renewed += 1

    def connected(self) -> list[str]:
        return ["hospital-1"]

    def events(self, job_id: str, start: int) -> tuple[list[dict[str, Any]], int]:
        self.asked.append(start)
        if isinstance(self._news, Exception):
            raise self._news
        return list(self._news), start + len(self._news)

    def running(self) -> set[str]:
        return self.alive

    def server_log(self, job_id: str) -> str:
        return self.log


DONE = (
    "2026-11-20 10:00:00,000 - ConsiliaController - INFO - [identity=x, peer=hospital-1] - "
    "run fedkper-3f is complete: results in /srv/state/3f\n"
)
RUNNING = {"job_id": "job", "status": "RUNNING"}
BROKEN = {"status": "FINISHED:EXECUTION_EXCEPTION"}
ROUND = RoundDone(round=1, of=2, updates=1, participants=1, seconds=1.0, validation=0.5).to_json()
FINISHED = Finished(rounds=2, seconds=1.0).to_json()


def followed(looks: Sequence[Look | Exception], log: str = "") -> tuple[Ending, list[Event], Scripted]:
    told: list[Event] = []
    session = Scripted(looks, log)
    return follow(session, "job", told.append, poll=0.0), told, session


def test_events_come_once_each_and_in_order() -> None:
    first = Prepared(sites=["hospital-1"], rounds=2).to_json()
    waiting = {"status": "SUBMITTED", "min_clients": 2}
    looks: list[Look] = [
        (waiting, []),
        (waiting, []),
        (RUNNING, []),
        (RUNNING, [first, ROUND]),
        (RUNNING, []),
        (RUNNING, [FINISHED]),
        ({"status": "FINISHED:COMPLETED"}, []),
    ]
    ending, told, session = followed(looks)
    assert [event.name for event in told] == ["notice", "notice", "prepared", "round", "finished"]
    assert "1 of at least 2" in str(told[0])
    assert session.asked == [0, 0, 2, 2]
    assert ending == Ending("FINISHED:COMPLETED", True, "the job is complete", 1)


def test_the_run_s_own_reason_is_the_job_s() -> None:
    failed = {"event": "failed", "reason": "round 2 has 1 accepted updates, needs 2"}
    ending, _, _ = followed([(RUNNING, [ROUND, failed]), (BROKEN, [])], log=LOG + LATER)
    assert ending == Ending(BROKEN["status"], False, failed["reason"], 1)


def test_a_job_that_failed_before_its_first_event_is_explained_by_the_server_s_log() -> None:
    ending, _, _ = followed([(BROKEN, [])], log=LOG + PANIC)
    assert ending.reason.endswith("The server's log says: the job was made by Consilia 9.9.9, here is 0.1.0")
    assert not ending.complete
    assert ending.rounds == 0


def test_a_run_that_finished_is_complete_although_nvflare_calls_the_job_abnormal() -> None:
    ending, _, _ = followed([(RUNNING, [ROUND, FINISHED]), ({"status": "FINISHED:ABNORMAL"}, [])])
    assert ending.complete


def test_a_run_that_has_told_its_end_is_asked_no_more() -> None:
    looks: list[Look] = [(RUNNING, [FINISHED]), (RUNNING, []), ({"status": "FINISHED:COMPLETED"}, [])]
    _, _, session = followed(looks)
    assert session.asked == [0]


def test_a_run_that_ended_between_two_looks_is_complete_by_the_server_s_log() -> None:
    ending, _, _ = followed([(RUNNING, [ROUND]), (BROKEN, [])], log=LOG + LATER + DONE)
    assert ending.complete
    assert ending.reason.startswith(
        "the run is complete; what NVFlare says of the job came after its end: the job failed"
    )
    # A site can have itself quoted in that log.
    refused = "2026-11-20 10:00:00,000 - validation - WARNING - train from site evil is refused"
    quoted = f"{refused}: extra tensor '{DONE.strip()}'\n"
    for log in (LOG + LATER, LOG + LATER + quoted):
        ending, _, _ = followed([(RUNNING, [ROUND]), (BROKEN, [])], log=log)
        assert not ending.complete


@pytest.mark.parametrize(
    ("status", "log", "broken"),
    [
        ("FINISHED:EXECUTION_EXCEPTION", "", True),
        ("FINISHED:ABNORMAL", "", True),
        ("FINISHED:EXECUTION_EXCEPTION", LOG + LATER, True),
        ("FINISHED:EXECUTION_EXCEPTION", LOG + PANIC, False),
        ("FINISHED:ABORTED", "", False),
        ("FINISHED:FAILED_TO_RUN", "", False),
        ("FINISHED:COMPLETED", "", False),
    ],
)
def test_a_job_that_has_lost_a_process_is_broken_off_and_one_that_says_why_it_ends_is_not(
    monkeypatch, status: str, log: str, broken: bool
) -> None:
    monkeypatch.setattr(following, "REASONS_SECONDS", 0.0)
    looks = [(RUNNING, [ROUND]), ({"status": status}, []), ({"status": status}, [])]
    assert followed(looks, log)[0].broken is broken
    # A job whose processes end before the run has told anything does so each time: what it needs is refused, say.
    assert not followed([(RUNNING, []), *looks[1:]], log)[0].broken
    failed = {"event": "failed", "reason": "round 2 has 1 accepted updates, needs 2"}
    assert not followed([(RUNNING, [ROUND, failed]), *looks[1:]], log)[0].broken


def test_a_site_that_refused_the_job_is_told_as_absent() -> None:
    meta = {**RUNNING, "job_deploy_detail": DENIED}
    _, told, _ = followed([(meta, []), (meta, []), (BROKEN, [])])
    absent = [event for event in told if isinstance(event, Absent)]
    assert absent == [Absent(site="hospital-2", reason="not authorized to deploy: BYOC")]


def test_sites_that_kept_a_job_from_starting_are_named_although_nvflare_notes_them_after_its_end(monkeypatch) -> None:
    monkeypatch.setattr(following, "REASONS_SECONDS", 0.0)
    failed = {"status": "FINISHED:FAILED_TO_RUN"}
    ending, _, _ = followed([(failed, []), ({**failed, "job_deploy_detail": DENIED}, [])])
    assert ending.reason == "the job could not be started; hospital-2: not authorized to deploy: BYOC"
    # Waited for once: there may be nothing to say.
    ending, _, _ = followed([(failed, []), (failed, [])], log=LOG + LATER)
    assert ending.reason == "the job could not be started. The server's log says: cannot load the model"


def test_without_the_right_to_see_progress_the_end_is_still_waited_for() -> None:
    ending, told, _ = followed([(RUNNING, NotPermitted("no")), ({"status": "FINISHED:COMPLETED"}, [])])
    assert ending.complete
    assert "authorization.json does not give your role app_command" in str(told[0])


def test_a_job_whose_server_was_restarted_ends_the_following(monkeypatch) -> None:
    session = Scripted([(RUNNING, [ROUND]), (RUNNING, []), (RUNNING, [])])
    session.alive = set()
    monkeypatch.setattr(following, "LOST_SECONDS", 0.01)
    ending = follow(session, "job", lambda event: None, poll=0.02)
    assert ending == Ending(
        "RUNNING", False, "the server has lost the job: it was restarted while the job ran", 1, True
    )


def test_a_complete_run_is_not_called_lost_while_nvflare_waits_for_a_site_that_vanished(monkeypatch) -> None:
    monkeypatch.setattr(following, "LOST_SECONDS", 0.0)
    finished: Look = (RUNNING, [ROUND, FINISHED])
    for last, status in (({"status": "FINISHED:COMPLETED"}, "FINISHED:COMPLETED"), (RUNNING, "RUNNING")):
        session = Scripted([finished, (RUNNING, []), (RUNNING, []), (last, [])])
        session.alive = set()
        monkeypatch.setattr(following, "OUTCOMES_SECONDS", 60.0 if last is not RUNNING else 0.005)
        told: list[Event] = []
        ending = follow(session, "job", told.append, poll=0.01)
        assert (ending.status, ending.complete) == (status, True)
        assert [event.reason for event in told if isinstance(event, Notice)] == [following.CLOSING]


def test_a_run_that_had_ended_before_anybody_followed_it_is_not_called_lost(monkeypatch) -> None:
    monkeypatch.setattr(following, "LOST_SECONDS", 0.0)
    session = Scripted([(RUNNING, []), ({"status": "FINISHED:COMPLETED"}, [])], LOG + DONE)
    session.alive = set()
    told: list[Event] = []
    assert follow(session, "job", told.append, poll=0.0).complete
    assert str(told[-1]) == following.CLOSING


def test_a_short_silence_of_the_server_is_borne_and_a_long_one_is_not(monkeypatch) -> None:
    silent = ServerSilent("cannot look at job: localhost:1 does not answer")
    ending, told, session = followed([silent, silent, (BROKEN, [])])
    assert ending.status == BROKEN["status"]
    # Logged in anew: a server that was started again does not know the old session.
    assert session.renewed == 2
    assert [str(event) for event in told] == [
        f"{silent}: asking again for up to 10 minutes",
        "the server answers again",
    ]
    monkeypatch.setattr(following, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(RunFailed, match="does not answer"):
        followed([silent, silent])
