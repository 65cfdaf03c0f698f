"""A study's runs: several at a time, killed and begun again, and always the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from consilia.study.study import Study
from tests.conftest import REPOSITORY
from tests.study.small_study import carried_out, digests, federation, study

CHILD = """
import signal
import sys
from pathlib import Path
from tests.study.small_study import carried_out
from tests.study.test_engine import two_methods

if __name__ == "__main__":
    # A shell that starts the tests in the background has interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    carried_out(two_methods(sys.argv[1]), Path(sys.argv[2]), jobs=int(sys.argv[3]))
"""


def two_methods(data: str) -> Study:
    """Four runs."""
    return study(data, ("fedavg", "fedprox"), folds=2, run={"rounds": 4, "training": {"local_epochs": 1}})


def begun(folder: Path, data: str, jobs: int) -> subprocess.Popen[bytes]:
    """The study in a process of its own."""
    script = folder.parent / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), data, str(folder), str(jobs)], env=environment)


def wait_for(folder: Path, patterns: Sequence[str], child: subprocess.Popen[bytes]) -> None:
    """Until one of these files is there."""
    until = time.monotonic() + 120
    while not any(True for pattern in patterns for _ in folder.glob(pattern)):
        assert child.poll() is None, "the study has ended before it could be stopped"
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The data of a study, and the digests of what it leaves when nobody stops it; one run at a time."""
    folder = tmp_path_factory.mktemp("whole")
    data = federation(folder)
    carried_out(two_methods(data), folder / "study")
    return data, digests(folder / "study")


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_bytes_and_makes_no_run_twice(
    whole: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    data, expected = whole
    child = begun(tmp_path / "study", data, 1)
    wait_for(tmp_path / "study", ["fold-*/fedprox-seed0/checkpoint"], child)
    child.kill()
    child.wait()
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("result.json")}
    assert 0 < len(records) < 4
    carried_out(two_methods(data), tmp_path / "study")
    assert digests(tmp_path / "study") == expected
    assert {path: path.stat().st_mtime_ns for path in records} == records


@pytest.mark.slow
def test_a_killed_worker_is_begun_again_and_the_bytes_are_those_of_one_job(
    whole: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    data, expected = whole
    child = begun(tmp_path / "study", data, 2)
    wait_for(tmp_path / "study", ["fold-*/fed*-seed0/checkpoint"], child)
    # All but the process by which multiprocessing tracks its resources.
    workers = [one for one in psutil.Process(child.pid).children() if "resource_tracker" not in " ".join(one.cmdline())]
    workers[0].kill()
    assert child.wait(180) == 0
    assert digests(tmp_path / "study") == expected


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_study_goes_on(whole: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    data, expected = whole
    child = begun(tmp_path / "study", data, 2)
    wait_for(tmp_path / "study", ["fold-*/fed*-seed0/checkpoint"], child)
    family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) != 0
    assert psutil.wait_procs(family, timeout=30)[1] == []
    carried_out(two_methods(data), tmp_path / "study")
    assert digests(tmp_path / "study") == expected


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_compare(tmp_path: Path) -> None:
    """The new processes would run it once more, study and all."""
    data = federation(tmp_path)
    methods = {name: {"method": name} for name in ("fedavg", "fedprox")}
    spec = {"data": data, "methods": methods, "baselines": [], "run": {"rounds": 1}}
    (tmp_path / "script.py").write_text(
        "import consilia\n"
        f"found = consilia.compare({spec!r}, jobs=2, out='study')\n"
        "print('done', *[run.name for run in found.runs])\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'custom'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done fedavg-seed0 fedprox-seed0") == 1


def test_data_sets_and_options_are_compared_apart(tmp_path: Path) -> None:
    data = {"one": federation(tmp_path / "one"), "two": federation(tmp_path / "two")}
    several = study(data, options={"few": {"train_cases": 10}, "all": {}})
    planned = carried_out(several, tmp_path / "study")
    assert [(one.federation.data, one.federation.option) for one in planned] == [
        ("one", "few"),
        ("one", "all"),
        ("two", "few"),
        ("two", "all"),
    ]
    trained = [one.record.sites["a"].train for one in planned if one.record is not None]
    assert trained[0] == trained[2] == 10
    assert trained[1] == trained[3] > 10
    # Equal data give equal models, whatever their label.
    found = digests(tmp_path / "study")
    model = "fedavg-seed0/global-last.safetensors"
    assert found[f"one/few/{model}"] == found[f"two/few/{model}"] != found[f"one/all/{model}"]
