"""submit, resume, follow where there is no federation: folders, messages, and how events read."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from consilia.cli import submitting
from consilia.cli.progress import SiteBoard, job_view
from consilia.cli.submitting import Wanted, check_job, submit_command
from consilia.core.errors import ConfigError
from consilia.core.events import Absent, Back, Missing, Notice, Personalizing, Prepared, Refused, Replied, RoundDone
from consilia.core.plain import plain
from consilia.core.terminal import PlainConsole
from consilia.deploy.kit import Kit
from consilia.deploy.session import JobSession
from tests.conftest import REPOSITORY

JOB = REPOSITORY / "jobs" / "fedkper-wisconsin"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return Path(shutil.copytree(JOB, tmp_path / "jobs" / "mine"))


def test_an_exported_job_is_taken_by_any_path_to_it(job, monkeypatch) -> None:
    assert check_job(job) == (job, "fedkper-wisconsin")
    monkeypatch.chdir(job)
    assert check_job(Path()) == (job, "fedkper-wisconsin")


def test_a_folder_of_jobs_is_no_job(job) -> None:
    with pytest.raises(ConfigError, match=r"it has no meta\.json: .* it holds the jobs mine: name one"):
        check_job(job.parent)
    with pytest.raises(ConfigError, match="is no job folder"):
        check_job(job.parent / "nowhere")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"name": "x"}', '{"deploy_map": {}}', '{"name": "x", "deploy_map": 1}']
)
def test_a_damaged_meta_is_named(job, content: str) -> None:
    (job / "meta.json").write_text(content)
    with pytest.raises(ConfigError, match=r"meta\.json: expected (a job's name and deploy_map|JSON)"):
        check_job(job)


def test_an_app_that_is_missing_is_named(job) -> None:
    meta = json.loads((job / "meta.json").read_text())
    (job / "meta.json").write_text(json.dumps({**meta, "deploy_map": {"app": ["@ALL"], "other": ["hospital-1"]}}))
    with pytest.raises(ConfigError, match="names the app 'other'"):
        check_job(job)


def test_a_job_without_anything_for_the_server_is_refused(job) -> None:
    (job / "app" / "config" / "config_fed_server.json").unlink()
    with pytest.raises(ConfigError, match=r"no app has config/config_fed_server\.json"):
        check_job(job)


def test_a_name_that_nvflare_would_refuse_is_refused_first(job) -> None:
    with pytest.raises(ConfigError, match="'my job' cannot be a job's name"):
        check_job(job.rename(job.parent / "my job"))


def test_submitting_says_what_is_wrong_before_it_looks_for_a_server(job, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--download .* is a file"):
        submit_command(job, tmp_path / "kit", Wanted(False, tmp_path / "file", 0))
    with pytest.raises(ConfigError, match="is no startup kit"):
        submit_command(job, tmp_path / "kit", Wanted(False, None, 0))


def test_submitting_to_a_server_that_is_down_names_its_address(job, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "kit" / "startup").mkdir(parents=True)
    admin = {"username": "lead@consortium.org", "host": "localhost", "port": port}
    (tmp_path / "kit" / "startup" / "fed_admin.json").write_text(json.dumps({"admin": admin}))
    with pytest.raises(ConfigError, match=f"localhost:{port} cannot be reached"):
        submit_command(job, tmp_path / "kit", Wanted(True, None, 0))


# ---- jobs that are broken off ----------------------------------------------------------------------------------------


class Server(JobSession):
    """A server whose jobs end after their first event, each as the next status says."""

    def __init__(self, statuses: Sequence[str]) -> None:
        self.kit, self.statuses = Kit(Path("kit"), "admin", "lead@consortium.org", "localhost", 1), list(statuses)
        self.ended: list[dict[str, Any]] = []
        self.asked: set[str] = set()
        self.clone("")

    def clone(self, job_id: str) -> str:
        number = f"job-{len(self.ended)}"
        status = f"FINISHED:{self.statuses[len(self.ended)]}"
        self.ended.append(
            {"job_id": number, "name": "mine", "status": status, "start_time": "now", "cloned_from": job_id}
        )
        return number

    def jobs(self) -> list[dict[str, Any]]:
        return self.ended

    def running(self) -> set[str]:
        return {str(job["job_id"]) for job in self.ended}

    def meta(self, job_id: str) -> dict[str, Any]:
        job = next(job for job in self.ended if job["job_id"] == job_id)
        return job if job_id in self.asked else {**job, "status": "RUNNING"}

    def events(self, job_id: str, start: int) -> tuple[list[dict[str, Any]], int]:
        self.asked.add(job_id)
        return [PREPARED.to_json()], 1

    def server_log(self, job_id: str) -> str:
        return ""


LOST = "EXECUTION_EXCEPTION"


@pytest.mark.parametrize(
    ("statuses", "retries", "jobs"),
    [
        ([LOST, "ABNORMAL", "COMPLETED"], 3, 3),
        ([LOST, LOST, LOST], 1, 2),
        ([LOST, LOST], 0, 1),
        (["ABORTED", "COMPLETED"], 3, 1),
        ([LOST, "ABORTED", "COMPLETED"], 3, 2),
        (["CAN_NOT_SCHEDULE", "COMPLETED"], 3, 1),
    ],
)
def test_a_job_that_is_broken_off_is_resumed_as_often_as_wanted_and_one_that_was_aborted_is_not(
    monkeypatch, capsys, statuses: list[str], retries: int, jobs: int
) -> None:
    monkeypatch.setattr(submitting, "PAUSES", (0.0,))
    server = Server(statuses)
    last, ending = submitting._see_through(server, "job-0", "mine", retries)
    assert len(server.ended) == jobs
    assert last == server.ended[-1]["job_id"]
    assert ending.status == f"FINISHED:{statuses[jobs - 1]}"
    told = capsys.readouterr().out
    assert told.count("was broken off") == jobs - 1
    assert told.count("mine: goes on as job-") == jobs - 1


# ---- how events read -------------------------------------------------------------------------------------------------

SITES = ["hospital-1", "hospital-2"]
PREPARED = Prepared(sites=SITES, rounds=3)
ROUND = RoundDone(round=1, of=3, updates=1, participants=2, validation=0.91234, seconds=2.0)
REFUSED = Refused(request="train", site="hospital-2", reason="head.weight has a value that is nan")


def test_the_board_shows_what_was_last_heard_of_each_site() -> None:
    board = SiteBoard()
    board(Absent(site="hospital-3", reason="another class list"))
    board(PREPARED)
    assert board.states["hospital-1"] == "waiting for its first answer"
    board(Replied(request="train", site="hospital-1", version=0))
    board(REFUSED)
    assert board.states == {
        "hospital-1": "round 1: answered with its update",
        "hospital-2": "refused: head.weight has a value that is nan",
        "hospital-3": "absent: another class list",
    }
    board(ROUND)
    assert board.states["hospital-2"] == "round 2: waiting for its answer"
    assert board.states["hospital-3"] == "absent: another class list"
    board(ROUND.model_copy(update={"round": 3}))
    assert board.states["hospital-1"] == "round 2: waiting for its answer"
    board(Personalizing(keep="last", sites=SITES))
    assert board.states["hospital-1"] == "waiting for its last metrics"


def test_the_board_keeps_a_missing_site_until_it_answers_again() -> None:
    board = SiteBoard()
    board(PREPARED)
    board(Missing(site="hospital-2", since="2026-11-29T17:05:12+00:00", reason="no answer since 17:05"))
    board(ROUND)
    assert board.states == {
        "hospital-1": "round 2: waiting for its answer",
        "hospital-2": "missing: no answer since 17:05",
    }
    board(Back(site="hospital-2"))
    assert board.states["hospital-2"] == "answers again"
    board(ROUND.model_copy(update={"round": 2}))
    assert board.states["hospital-2"] == "round 3: waiting for its answer"


HOSTILE = "\x1b[2Jgone [bold]\x07[/wrong]"


def test_what_a_site_says_cannot_steer_the_terminal(capsys, monkeypatch) -> None:
    with job_view("mine") as view:
        view(Refused(request="train", site="hospital-1", reason=HOSTILE))
    assert capsys.readouterr().out == f"hospital-1: refused: {plain(HOSTILE)}\n"
    shown = PlainConsole(force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr("consilia.cli.progress.console", shown)
    with job_view("mine") as view:
        view(Notice(reason=HOSTILE))
        view(Refused(request="train", site="hospital-1", reason=HOSTILE))
    text = capsys.readouterr().out
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert r"gone [bold]\x07[/wrong]" in text


def test_a_pipe_gets_a_line_per_event(capsys) -> None:
    with job_view("mine") as view:
        for event in (PREPARED, ROUND):
            view(event)
    # Two rounds are to come, and the first has taken 2 s.
    assert capsys.readouterr().out.splitlines() == [str(PREPARED), f"{ROUND}, left 0:00:04"]
