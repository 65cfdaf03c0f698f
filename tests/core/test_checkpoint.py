"""Checkpoints: whole or absent, and refused when damaged."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

from consilia.core import files
from consilia.core.checkpoint import INDEX, CheckpointEntry, CheckpointStore
from consilia.core.errors import CheckpointError


def save(store: CheckpointStore, version: int, value: float, best: int = 1) -> None:
    states = {"global": (version, value), "best": (best, float(best))}
    models = {
        name: CheckpointEntry("state", of, {"w": torch.full((3,), filled)}) for name, (of, filled) in states.items()
    }
    store.save(models, {"version": version})


def test_round_trip_and_only_the_newest_files_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert not store.exists()
    save(store, 1, 1.0)
    # The same state under two names is one file, which stays when only one of them moves on.
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "state-00001.safetensors"]
    written = (tmp_path / "state-00001.safetensors").stat()
    save(store, 2, 2.0)
    assert (tmp_path / "state-00001.safetensors").stat() == written
    loaded = store.load()
    assert loaded.state == {"version": 2}
    assert loaded.models["global"]["w"].tolist() == [2.0, 2.0, 2.0]
    assert loaded.models["best"]["w"].tolist() == [1.0, 1.0, 1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        INDEX,
        "state-00001.safetensors",
        "state-00002.safetensors",
    ]


def test_a_crash_before_the_index_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, 1.0)

    def crash(target: Path, content: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("consilia.core.checkpoint.write_json", crash)
    with pytest.raises(OSError, match="no space"):
        save(store, 2, 2.0)
    assert store.load().models["global"]["w"].tolist() == [1.0, 1.0, 1.0]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    files.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(target, {"a": float("nan")})
    with contextlib.suppress(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_damage_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        store.load()
    save(store, 1, 1.0)
    model = tmp_path / "state-00001.safetensors"
    whole = model.read_bytes()
    # A bit of a number, a bit of the header, an end that is missing.
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:9] + bytes([whole[9] ^ 1]) + whole[10:], whole[:-4]):
        model.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"state-00001.safetensors was altered"):
            store.load()
    model.unlink()
    with pytest.raises(CheckpointError, match="is missing, though"):
        store.load()
    (tmp_path / INDEX).write_text('{"schema": "other/9"}')
    with pytest.raises(CheckpointError, match="schema is 'other/9'"):
        store.load()
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        store.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe\x00", "expected UTF-8"),
        (b"[]", "schema is None"),
        (b"null", "schema is None"),
        (b'{"schema": "consilia.checkpoint/3"}', "expected an object under models"),
        (b'{"schema": "consilia.checkpoint/3", "models": [], "state": {}}', "expected an object under models"),
    ],
)
def test_an_index_that_is_none_says_how_to_begin_anew(tmp_path: Path, content: bytes, message: str) -> None:
    save(CheckpointStore(tmp_path), 1, 1.0)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.json.*{message}.*--overwrite"):
        CheckpointStore(tmp_path).load()
