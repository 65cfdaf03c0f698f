"""Startup kits made by NVFlare's own provisioning, once per test session; each test works on a copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from consilia.deploy.doctor.findings import Finding
from consilia.deploy.install.plan import install, plan_installation
from consilia.deploy.kit import Kit, open_kit
from consilia.federation.config import run_config
from consilia.flare.recipe import ConsiliaRecipe
from tests.conftest import REPOSITORY

PROJECT = """
api_version: 3
name: kits
description: kits for tests
participants:
  - {name: localhost, type: server, org: consortium, fed_learn_port: 18473}
  - {name: hospital-1, type: client, org: hospital_1}
  - {name: example-hospital, type: client, org: example}
  - {name: admin@consortium.org, type: admin, org: consortium, role: project_admin}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {template_file: [master_template.yml]}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {config_folder: config, scheme: grpc}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""
EXAMPLE = REPOSITORY / "site_configs" / "example"
_FOLDER = TemporaryDirectory(prefix="consilia-kits-")


@cache
def provisioned() -> Path:
    """The folder with a kit per participant."""
    folder = Path(_FOLDER.name)
    (folder / "project.yml").write_text(PROJECT)
    # A home of its own: nvflare's commands write their settings there.
    environment = {**os.environ, "HOME": str(folder)}
    command = [Path(sys.executable).parent / "nvflare", "provision", "-p", "project.yml", "-w", "ws", "--force"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=120, umask=0o077)
    return folder / "ws" / "kits" / "prod_00"


def kit_of(name: str, folder: Path) -> Kit:
    """A fresh copy of a participant's kit, below ``folder``."""
    return open_kit(shutil.copytree(provisioned() / name, folder / name))


def visits_job(folder: Path) -> Path:
    """An exported FedAvg job for the example's table, on 12 inputs: 12 x 8 + 8 + 8 x 2 + 2 = 122 numbers."""
    model = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 12, "num_classes": 2, "hidden": [8]}}
    ConsiliaRecipe(run_config({"method": "fedavg", "model": model}), name="visits").export(str(folder))
    return folder / "visits"


def done(kit: Kit, config: Path | None = None) -> tuple[str, ...]:
    """Install; what the kit's people are told."""
    plan = plan_installation(kit, config)
    install(plan)
    return plan.notes


def read(kit: Kit, name: str) -> Any:
    """A policy in local/."""
    return json.loads((kit.local / name).read_text())


def write(kit: Kit, name: str, content: Any) -> Path:
    """Write a policy into local/."""
    path = kit.local / name
    path.write_text(json.dumps(content))
    return path


def contents(kit: Kit) -> dict[str, tuple[bytes, int]]:
    """Bytes and permissions of every file of a kit."""
    files = (path for path in sorted(kit.folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(kit.folder)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in files}


def site_yaml(folder: Path, name: str = "hospital-1", more: str = "") -> Path:
    """The example's site.yaml and its rows, for another site."""
    folder.mkdir(exist_ok=True)
    (folder / "visits.csv").write_bytes((EXAMPLE / "visits.csv").read_bytes())
    path = folder / "site.yaml"
    text = (EXAMPLE / "site.yaml").read_text().replace("site: example-hospital", f"site: {name}")
    # Its forty rows are fewer than a real site's limits let jobs train on.
    for few in ("max_batch_fraction", "min_training_cases", "min_cases_per_metric"):
        text = re.sub(rf"(?m)^  {few}: \S+", f"  {few}: null", text)
    path.write_text(text + more)
    return path


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Check and level of what a doctor does not find ok."""
    return [(finding.check, finding.level) for finding in findings if finding.level != "ok"]
