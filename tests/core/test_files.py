"""Who may read a file: the umask decides, and what is private is private from its first byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from consilia.core import files, tensor_files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_is_read_and_left_as_it_was() -> None:
    now = os.umask(0o077)
    os.umask(now)
    assert now == files._UMASK


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, expected: int) -> None:
    monkeypatch.setattr(files, "_UMASK", umask)
    files.write_bytes(tmp_path / "bytes", b"x")
    files.write_json(tmp_path / "json", {})
    tensor_files.write_tensors(tmp_path / "tensors", {"w": torch.zeros(1)}, durable=False)
    assert {mode(path) for path in tmp_path.iterdir()} == {expected}


def test_folders_made_for_a_private_file_are_its_owners_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    files.write_bytes(tmp_path / "state" / "runs" / "file", b"x", private=True)
    assert {mode(tmp_path / "state"), mode(tmp_path / "state" / "runs")} == {0o700}
    assert mode(tmp_path) == 0o755


def test_private_files_are_never_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UMASK", 0)
    target = tmp_path / "model"
    target.write_text("old, and readable by all")
    target.chmod(0o666)
    with files.atomic_path(target, private=True) as temporary:
        assert mode(temporary) == 0o600
        temporary.write_text("new")
    assert (mode(target), target.read_text()) == (0o600, "new")
    files.write_bytes(tmp_path / "bytes", b"x", private=True)
    files.write_json(tmp_path / "json", {}, private=True)
    tensor_files.write_tensors(tmp_path / "tensors", {"w": torch.zeros(1)}, private=True)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
