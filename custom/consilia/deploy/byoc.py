"""Put the code into a job (NVFlare's "bring your own code"), for sites that have not installed Consilia."""

from __future__ import annotations

import shutil
from pathlib import Path

import consilia
from consilia.core.errors import ConfigError


def add_code(job: Path) -> Path:
    """Copy this package into an exported job's ``app/custom``, from where NVFlare imports what is not installed.

    The sites still need the packages that Consilia stands on. An installed Consilia wins over the job's: NVFlare puts
    a job's code last in the search path.

    Returns:
        The package's folder in the job.

    Raises:
        ConfigError: ``job`` is no exported job.
    """
    if not (job / "app" / "config").is_dir():
        raise ConfigError(f"{job} is no exported job: it has no app/config")
    target = job / "app" / "custom" / "consilia"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(Path(consilia.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return target
