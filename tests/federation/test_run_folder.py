"""The folder of a run's state: one job at a time, and a clone takes an unfinished one over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from consilia.core.errors import RunFailed
from consilia.core.events import Finished, Notice, Refused
from consilia.core.lock import locked
from consilia.federation.run_folder import LOCK, PROGRESS, RESULT, ended_before, take_over
from consilia.federation.server_settings import ServerSettings
from tests.federation.support import Federation, small


def test_where_the_folder_is(tmp_path) -> None:
    kit = tmp_path / "kit"
    assert ServerSettings().run_folder("j1", kit) == kit / "consilia" / "j1"
    assert ServerSettings(state_dir=tmp_path / "runs-{job_id}").run_folder("j1", kit) == tmp_path / "runs-j1"
    assert ServerSettings(state_dir=tmp_path / "one").run_folder("j1", kit) == tmp_path / "one" / "j1"
    assert ServerSettings(state_dir=tmp_path / "one", engine="sim").run_folder("j1", kit) == tmp_path / "one"


def test_a_folder_is_one_jobs_at_a_time_and_free_again_when_its_process_is_killed(tmp_path) -> None:
    lock = tmp_path / "run" / LOCK
    with locked(lock), pytest.raises(RunFailed, match="in use by another job"), locked(lock):
        pass
    hold = "import sys,time;from pathlib import Path;from consilia.core.lock import locked\n"
    hold += "with locked(Path(sys.argv[1]) / '.lock'): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(RunFailed), locked(tmp_path / "run" / LOCK):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "run" / LOCK):
        pass


def unfinished(folder: Path) -> Path:
    with locked(folder / LOCK):
        (folder / "checkpoint").mkdir()
    return folder


def test_a_stopped_run_is_taken_over_finished_or_not(tmp_path) -> None:
    earlier = unfinished(tmp_path / "a")
    # The job's number may stand anywhere in the path.
    take_over(earlier, tmp_path / "b" / "state")
    assert not earlier.exists()
    assert (tmp_path / "b" / "state" / "checkpoint").is_dir()
    # And the clone's clone takes over from the clone, but for what that has told: it would pass for the new one's.
    for name in (PROGRESS, RESULT):
        (tmp_path / "b" / "state" / name).touch()
    take_over(tmp_path / "b" / "state", tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [".lock", "checkpoint"]
    # Of one that was broken before its first full round there is no checkpoint, and nothing to lose.
    with locked(tmp_path / "early" / LOCK):
        pass
    take_over(tmp_path / "early", tmp_path / "anew")
    assert (tmp_path / "anew").is_dir()


def test_a_running_run_is_waited_for_and_then_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("consilia.federation.run_folder.ORPHAN_SECONDS", 0.1)
    running = unfinished(tmp_path / "running")
    with locked(running / LOCK), pytest.raises(RunFailed, match="in use by another job"):
        take_over(running, tmp_path / "b")
    assert running.is_dir()
    take_over(running, tmp_path / "b")
    assert (tmp_path / "b" / "checkpoint").is_dir()


def test_a_clone_does_not_begin_anew_and_a_folder_that_holds_no_run_stays_where_it_is(tmp_path) -> None:
    with pytest.raises(RunFailed, match=r"nothing to go on with in .*none: .* or another clone has gone on with it"):
        take_over(tmp_path / "none", tmp_path / "b")
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "server.key").touch()
    with pytest.raises(RunFailed, match=r"nothing to go on with in .*startup"):
        take_over(tmp_path / "startup", tmp_path / "b")
    # Nor does a run that has begun already take another's place.
    take_over(unfinished(tmp_path / "a"), unfinished(tmp_path / "c"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "startup"]


def test_a_process_that_stands_in_for_a_killed_one_knows_how_far_that_one_came(tmp_path) -> None:
    progress, notice = tmp_path / PROGRESS, json.dumps(Notice(reason="on").to_json()) + "\n"
    assert ended_before(tmp_path) is None
    for content, whole, ended in (
        ("", "", False),
        (notice[:9], "", False),
        (notice + notice[:9], notice, False),
        (notice + json.dumps(Finished(rounds=1, seconds=2.0).to_json()) + "\n", None, True),
    ):
        progress.write_text(content)
        assert ended_before(tmp_path) is ended
        # What was being written when the process was killed would spoil the next line.
        assert progress.read_text() == (content if whole is None else whole)


def test_what_the_server_cannot_keep_is_no_fault_of_the_site_that_sent_it(wisconsin, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spool").write_text("in the way")
    federation = Federation(small("fedavg"), wisconsin, tmp_path / "run")
    with pytest.raises(RunFailed, match=r"the server cannot keep an update: .*spool"):
        federation.run()
    assert not [event for event in federation.events if isinstance(event, Refused)]
