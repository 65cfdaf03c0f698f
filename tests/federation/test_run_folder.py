"""The folder of a run's state: one job at a time, and a clone takes an unfinished one over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from consilia.core.errors import RunFailed
from consilia.federation.outputs import RESULT
from consilia.federation.run_folder import locked, take_over
from consilia.federation.server_settings import ServerSettings


def test_where_the_folder_is(tmp_path) -> None:
    kit = tmp_path / "kit"
    assert ServerSettings().run_folder("j1", kit) == kit / "consilia" / "j1"
    assert ServerSettings(state_dir=tmp_path / "runs-{job_id}").run_folder("j1", kit) == tmp_path / "runs-j1"
    assert ServerSettings(state_dir=tmp_path / "one").run_folder("j1", kit) == tmp_path / "one"


def test_a_folder_is_one_jobs_at_a_time_and_free_again_when_its_process_is_killed(tmp_path) -> None:
    with locked(tmp_path / "run"), pytest.raises(RunFailed, match="in use by another job"), locked(tmp_path / "run"):
        pass
    hold = "import sys,time;from pathlib import Path;from consilia.federation.run_folder import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(RunFailed), locked(tmp_path / "run"):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "run"):
        pass


def unfinished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "checkpoint").mkdir()
    return folder


def test_an_unfinished_stopped_run_is_taken_over(tmp_path) -> None:
    earlier = unfinished(tmp_path / "a")
    assert take_over(earlier, tmp_path / "b")
    assert not earlier.exists()
    assert (tmp_path / "b" / "checkpoint").is_dir()
    # And the clone's clone takes over from the clone.
    assert take_over(tmp_path / "b", tmp_path / "c")


def test_a_finished_or_running_or_missing_run_is_not(tmp_path) -> None:
    assert not take_over(tmp_path / "none", tmp_path / "b")
    finished = unfinished(tmp_path / "finished")
    (finished / RESULT).touch()
    assert not take_over(finished, tmp_path / "b")
    running = unfinished(tmp_path / "running")
    with locked(running):
        assert not take_over(running, tmp_path / "b")
    assert running.is_dir()
    # Where every job has one and the same folder there is nothing to move: a checkpoint there is gone on with.
    assert not take_over(running, running)
