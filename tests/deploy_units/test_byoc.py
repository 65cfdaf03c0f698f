"""A job that brings the code: the whole package and nothing else, and it can be imported from there alone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

import consilia
from consilia.cli.app import app
from consilia.core.errors import ConfigError
from consilia.core.files import sha256_of_file
from consilia.deploy.byoc import add_code

PACKAGE = Path(consilia.__file__).parent


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    (folder / "app" / "config").mkdir(parents=True)
    return folder


def test_the_job_holds_the_package_file_by_file(job: Path) -> None:
    stale = job / "app" / "custom" / "consilia" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    added = add_code(job)
    assert added == job / "app" / "custom" / "consilia"
    here = {path.relative_to(added): sha256_of_file(path) for path in added.rglob("*") if path.is_file()}
    there = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert here == {path: sha256_of_file(PACKAGE / path) for path in there}
    assert [path.name for path in (job / "app" / "custom").iterdir()] == ["consilia"]


def test_a_python_without_consilia_imports_it_from_the_job(job: Path) -> None:
    custom = add_code(job).parent
    # -S leaves out what makes an editable installation importable; NVFlare appends custom/ to the path as here.
    code = f"""
import sys
sys.path.append({sysconfig.get_path("purelib")!r})
try:
    import consilia
    sys.exit("consilia is installed: this shows nothing")
except ModuleNotFoundError:
    sys.path.append({str(custom)!r})
from consilia.core import errors
print(errors.__file__)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(custom / "consilia" / "core" / "errors.py"), done.stderr


def test_a_folder_that_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no exported job: it has no app/config"):
        add_code(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_puts_it_into_the_job_when_asked(tmp_path: Path) -> None:
    common = ["export", "fedprox", "--out", str(tmp_path), "--name", "mine"]
    custom = tmp_path / "mine" / "app" / "custom"
    for options, there in ((["--byoc"], True), ([], False)):
        assert CliRunner().invoke(app, [*common, *options]).exit_code == 0
        assert (custom / "consilia" / "flare" / "executor.py").is_file() == there
