"""A killed process of a job is started again: with real processes, whose launch alone is not NVFlare's."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

import pytest
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
from nvflare.utils.process_utils import spawn_process

from consilia.deploy import launcher
from consilia.deploy.doctor.policies import check_launcher, check_outcome_wait
from consilia.deploy.kit import Kit
from consilia.deploy.launcher import RelaunchedProcess, SiteLauncher
from consilia.flare.nvflare_internals import PIECE_TIMEOUT
from tests.deploy.support import until
from tests.deploy_units.kits import done, read

DIES = "import os, signal; os.kill(os.getpid(), signal.{})"
SLEEPS = "import time; time.sleep(60)"


class Launches:
    """Starts one program after the other, and counts."""

    def __init__(self, programs: Sequence[str]) -> None:
        self.programs, self.count = programs, 0

    def __call__(self) -> ProcessHandle:
        program = self.programs[self.count]
        self.count += 1
        return ProcessHandle(process_adapter=spawn_process([sys.executable, "-c", program], {}))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PAUSES", (0.0, 0.0, 0.0))


def ended(programs: Sequence[str], over: bool = False) -> tuple[Launches, int]:
    launches = Launches(programs)
    process = RelaunchedProcess(launches, lambda: over, "job-1")
    assert process.poll() == JobReturnCode.UNKNOWN
    process.wait()
    return launches, process.poll()


def test_a_killed_process_is_started_again_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        launches, code = ended([DIES.format("SIGKILL"), DIES.format("SIGSEGV"), "pass"])
    assert (launches.count, code) == (3, JobReturnCode.SUCCESS)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("job job-1: its process was killed by SIGKILL (the kernel's for want of memory, perhaps)")
    assert first.endswith("(1 of 3 times)")
    assert "by SIGSEGV; it is started again in 0 s (2 of 3 times)" in second


def test_after_three_new_starts_the_job_ends(caplog: pytest.LogCaptureFixture) -> None:
    launches, code = ended([DIES.format("SIGKILL")] * 5)
    assert (launches.count, code) == (4, JobReturnCode.EXECUTION_ERROR)
    assert "once more, after 3 new starts: the job ends here" in caplog.records[-1].getMessage()


def test_a_process_that_ends_by_itself_or_after_its_run_stays_ended() -> None:
    assert ended(["raise SystemExit(1)"])[0].count == 1
    assert ended([DIES.format("SIGKILL")], over=True)[0].count == 1


@pytest.mark.parametrize("pause", [0.0, 60.0], ids=["while it runs", "between two starts"])
def test_a_job_that_is_aborted_is_not_started_again(monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
    monkeypatch.setattr(launcher, "PAUSES", (pause,) * 3)
    launches = Launches([DIES.format("SIGKILL"), SLEEPS, SLEEPS] if pause else [SLEEPS, SLEEPS])
    process = RelaunchedProcess(launches, lambda: False, "job-1")
    waiting = threading.Thread(target=process.wait)
    waiting.start()
    if pause:
        until(lambda: process._process.adapter.poll() == -signal.SIGKILL, "the first process's end", 10)
    process.terminate()
    waiting.join(10)
    assert not waiting.is_alive()
    assert launches.count == 1
    assert process.poll() == JobReturnCode.EXECUTION_ERROR


@pytest.mark.parametrize("kind", ["site", "server"])
def test_install_puts_ours_in_place_of_nvflare_s_and_the_doctor_misses_it(
    request: pytest.FixtureRequest, kind: str
) -> None:
    kit: Kit = request.getfixturevalue(kind)
    assert check_launcher(kit, read(kit, "resources.json.default")).level == "FAILED"
    done(kit)
    done(kit)
    resources = read(kit, "resources.json")
    launchers = [item for item in resources["components"] if "launcher" in item["path"]]
    ours = {"site": "SiteLauncher", "server": "ServerLauncher"}[kind]
    assert launchers == [{"id": "process_launcher", "path": f"consilia.deploy.launcher.{ours}", "args": {}}]
    assert check_launcher(kit, resources).level == "ok"
    launchers[0]["path"] = "nvflare.app_opt.job_launcher.docker_launcher.ClientDockerJobLauncher"
    assert check_launcher(kit, {"components": launchers}).level == "warning"


def test_install_sets_the_wait_for_outcomes_and_the_doctor_misses_it(server: Kit) -> None:
    assert check_outcome_wait(server, read(server, "resources.json.default")).level == "FAILED"
    done(server)
    assert check_outcome_wait(server, read(server, "resources.json")).level == "ok"


def test_the_jobs_of_a_site_do_not_wait_ten_minutes_for_a_piece_of_a_model(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    SiteLauncher()
    assert os.environ == {PIECE_TIMEOUT: "60"}
    monkeypatch.setattr(os, "environ", {PIECE_TIMEOUT: "900"})
    SiteLauncher()
    assert os.environ == {PIECE_TIMEOUT: "900"}
