"""Files of others: what is read, and that everything else is refused by the file's name, within bounds."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.reading import MAX_DEPTH, parse_json, read_json, read_plain
from consilia.core.tensor_files import read_tensors
from tests.strange_files import JSON, TENSORS

VALID = {"no object": [], "escapes": {"\x1b[2J\u202e": "\x1b]0;owned\x07\r\n", "schema": "\x1b[2J"}}
"""Strange, but JSON: who reads them refuses what they hold."""


@pytest.mark.parametrize("kind", JSON)
def test_strange_json_is_refused_by_the_files_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "strange.json"
    JSON[kind](path)
    began = time.monotonic()
    if kind in VALID:
        assert read_json(path) == VALID[kind]
    else:
        with pytest.raises(CheckpointError, match=r"strange\.json: (cannot be read|expected JSON)"):
            read_json(path, error=CheckpointError)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", TENSORS)
def test_strange_tensors_are_refused_by_the_files_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "strange.safetensors"
    TENSORS[kind](path)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"strange\.safetensors"):
        read_tensors(path)
    assert time.monotonic() - began < 5


def test_plain_json_is_read_as_it_is(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, 2**64, None, True, "é\n"], "b": {"a": {}}, "tiny": 1e-300}
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_json(path) == value


@pytest.mark.parametrize(("levels", "good"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False)])
def test_the_depth_is_bounded(levels: int, good: bool) -> None:
    text = "[" * levels + "1" + "]" * levels
    if good:
        parse_json(text, "text")
    else:
        with pytest.raises(ConfigError, match="at most 50 levels"):
            parse_json(text, "text")


@pytest.mark.parametrize("text", ['{"a": 18446744073709551617}', '{"a": -18446744073709551617}', "1e400", "-Infinity"])
def test_numbers_are_bounded(text: str) -> None:
    with pytest.raises(ConfigError, match=r"text: expected JSON"):
        parse_json(text, "text")


def test_links_are_refused_where_they_may_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link", 10) == b"{}"
    with pytest.raises(ConfigError, match="link: cannot be read: it is a symbolic link"):
        read_plain(tmp_path / "link", 10, links=False)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234567")
    assert read_plain(tmp_path / "file", 7) == b"1234567"
    with pytest.raises(ConfigError, match="it has 7 bytes, expected at most 6"):
        read_plain(tmp_path / "file", 6)
