"""Small disks that can be filled."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

from consilia.deploy.release_filter import AUDIT

BLOCK = 4096


def small_disk(folder: Path, size: str) -> bool:
    """Mount a small disk on a folder and put what is in the folder on it; False where mounting is not permitted."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, aside, symlinks=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    if mounted:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(aside)
    return mounted


def fill(disk: Path) -> None:
    """Write until nothing more fits, also not into what is left of the audit's last block."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(BLOCK))
    if (audit := disk / AUDIT).is_file():
        with audit.open("ab") as file:
            file.write(b"\n" * (-audit.stat().st_size % BLOCK))
