"""Startup kits made by NVFlare's own provisioning, once per test session; each test works on a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from consilia.federation.config import run_config
from consilia.flare.kit import Kit, open_kit
from consilia.flare.recipe import ConsiliaRecipe

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
    args: {config_folder: config, scheme: tcp}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""
_FOLDER = TemporaryDirectory(prefix="consilia-kits-")


@cache
def provisioned() -> Path:
    """The folder with a kit per participant."""
    folder = Path(_FOLDER.name)
    (folder / "project.yml").write_text(PROJECT)
    # A home of its own: nvflare's commands write their settings there.
    environment = {**os.environ, "HOME": str(folder)}
    command = [Path(sys.executable).parent / "nvflare", "provision", "-p", "project.yml", "-w", "ws", "--force"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=120)
    return folder / "ws" / "kits" / "prod_00"


def kit_of(name: str, folder: Path) -> Kit:
    """A fresh copy of a participant's kit, below ``folder``."""
    return open_kit(shutil.copytree(provisioned() / name, folder / name))


def visits_job(folder: Path) -> Path:
    """An exported FedAvg job for the example's table, on 12 inputs: 12 x 8 + 8 + 8 x 2 + 2 = 122 numbers."""
    model = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 12, "num_classes": 2, "hidden": [8]}}
    ConsiliaRecipe(run_config({"method": "fedavg", "model": model}), name="visits").export(str(folder))
    return folder / "visits"
