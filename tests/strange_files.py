"""Files that mean harm, or are damaged: what every command that reads one must refuse by its name, soon."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[Path], None]
"""Puts a strange file at a path."""


def _text(text: str) -> Make:
    return lambda path: path.write_text(text) and None


def _sparse(size: int, start: bytes = b"") -> Make:
    """A file of so many bytes that takes no room on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, size)

    return make


ANY: dict[str, Make] = {
    "nothing": _text(""),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "bytes that are no text": lambda path: path.write_bytes(b"\xff\xfe{}\x80") and None,
}
"""Whatever is read."""

JSON: dict[str, Make] = {
    **ANY,
    "deep objects": _text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "deep lists": _text("[" * 500 + "]" * 500),
    "a gigantic integer": _text('{"rounds": ' + "9" * 1_000_000 + "}"),
    "a gigantic number": _text('{"rounds": 1e999}'),
    "NaN": _text('{"rounds": NaN}'),
    "a key twice": _text('{"schema": 1, "schema": 2}'),
    "a terrabyte": _sparse(2**40),
    "text after the end": _text("{} {}"),
    "no object": _text("[]"),
    "escapes": _text(json.dumps({"\x1b[2J\u202e": "\x1b]0;owned\x07\r\n", "schema": "\x1b[2J"})),
}

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

YAML: dict[str, Make] = {
    **ANY,
    "a billion laughs": _text(LAUGHS),
    "a billion merges": _text(MERGES),
    "an alias of itself": _text("a: &a [*a]"),
    "deep lists": _text("[" * 20_000 + "]" * 20_000),
    "a gigantic integer": _text("rounds: " + "9" * 100_000),
    "a gigantic duration": _text("day: " + ":".join(["1"] * 500_000)),
    "a date that is none": _text("day: 2001-99-99"),
    "a terrabyte": _sparse(2**40),
    "an object of Python": _text("!!python/object/apply:os.system [id]"),
    "an unhashable key": _text("? [a]\n: 1"),
    "no mapping": _text("- a"),
    "escapes": _text('"\\e[2J": "\\e]0;owned\\a"'),
}


def _header(header: Any, data: bytes = b"", length: int | None = None) -> Make:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()

    def make(path: Path) -> None:
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    return make


def _tensor(shape: list[Any], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


TENSORS: dict[str, Make] = {
    **ANY,
    "seven bytes": lambda path: path.write_bytes(b"1234567") and None,
    "a header of no bytes": _header({}, length=0),
    "a header beyond the file": _header({}, length=10_000),
    "a header of 2**64 - 1 bytes": _header({}, length=2**64 - 1),
    "a header of 100 MB": _sparse(101 * 2**20, struct.pack("<Q", 100 * 2**20) + b'{"a'),
    "a header that is no JSON": _header(b"{" * 5000),
    "a deep header": _header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a shape whose product overflows": _header({"a": _tensor([2**33, 2**33], 0, 4)}, b"1234"),
    "a shape of 2**63": _header({"a": _tensor([2**63], 0, 4)}, b"1234"),
    "a shape beyond integers": _header({"a": _tensor([10**30], 0, 4)}, b"1234"),
    "a negative shape": _header({"a": _tensor([-1], 0, 4)}, b"1234"),
    "a shape larger than its data": _header({"a": _tensor([10**12], 0, 4)}, b"1234"),
    "data beyond the file": _header({"a": _tensor([10**9], 0, 4 * 10**9)}, b"1234"),
    "overlapping tensors": _header({"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, bytes(12)),
    "the same bytes twice": _header({"a": _tensor([1], 0, 4), "b": _tensor([1], 0, 4)}, bytes(4)),
    "a gap": _header({"a": _tensor([1], 0, 4), "b": _tensor([1], 8, 12)}, bytes(12)),
    "offsets turned round": _header({"a": _tensor([1], 4, 0)}, bytes(4)),
    "an unknown type": _header({"a": _tensor([1], 0, 4, "PICKLE")}, bytes(4)),
    "bytes at the end": _header({"a": _tensor([1], 0, 4)}, bytes(999)),
    "metadata that is no text": _header({"__metadata__": {"consilia": {"a": 1}}}),
}
