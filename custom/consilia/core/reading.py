"""Read files that somebody else may have made: of bounded size, nothing but plain files, and errors that name them."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from consilia.core.errors import ConfigError, ConsiliaError

MAX_BYTES = 256 * 2**20
"""Of a JSON file: the record of a thousand rounds at a hundred sites has less."""

MAX_DEPTH = 50
"""Levels of objects and lists in a JSON file; Consilia's own have about ten."""

MAX_INTEGER = 2**64


def read_plain(path: Path, limit: int, *, links: bool = True, error: type[ConsiliaError] = ConfigError) -> bytes:
    """The bytes of a file.

    Args:
        path: of the file.
        limit: most bytes that are read.
        links: whether the path may be a symbolic link.
        error: what is raised.

    Raises:
        ConsiliaError: the file cannot be read, is no plain file (but a pipe or device, say), or is too large.
    """
    with open_plain(path, links=links, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(f"{path}: cannot be read: it has {size:,} bytes, expected at most {limit:,}")
        return file.read(limit)


def open_plain(path: Path, *, links: bool = True, error: type[ConsiliaError] = ConfigError) -> BinaryIO:
    """A file that is open for reading; arguments and errors as :func:`read_plain`."""
    try:
        # Opening a pipe would otherwise wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
    except OSError as caught:
        link = caught.errno == errno.ELOOP and not links
        reason = "it is a symbolic link: expected the file itself" if link else caught.strerror
        raise error(f"{path}: cannot be read: {reason}") from caught
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise error(f"{path}: cannot be read: it is no plain file")
    return os.fdopen(handle, "rb")


def read_text(path: Path, limit: int, *, links: bool = True, error: type[ConsiliaError] = ConfigError) -> str:
    """A file's text, which must be UTF-8; arguments and errors as :func:`read_plain`."""
    try:
        return read_plain(path, limit, links=links, error=error).decode("utf-8")
    except UnicodeDecodeError as caught:
        raise error(f"{path}: cannot be read: expected UTF-8, got other bytes at {caught.start}") from caught


def read_json(
    path: Path, limit: int = MAX_BYTES, *, links: bool = True, error: type[ConsiliaError] = ConfigError
) -> Any:
    """The content of a JSON file; arguments and errors as :func:`read_plain` and :func:`parse_json`."""
    return parse_json(read_text(path, limit, links=links, error=error), path, error)


def parse_json(text: str, source: object, error: type[ConsiliaError] = ConfigError) -> Any:
    """The value of a JSON text that means the same to every reader.

    Raises:
        ConsiliaError: of the class ``error``: the text is not JSON, has a key twice, NaN, infinity or a number beyond
            +-2**64, or objects and lists within each other more than :data:`MAX_DEPTH` levels deep.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=unique, parse_constant=_not_finite, parse_int=_integer, parse_float=_number
        )
    except RecursionError as caught:
        raise error(f"{source}: expected JSON of at most {MAX_DEPTH} levels") from caught
    except ValueError as caught:
        raise error(f"{source}: expected JSON: {caught}") from caught
    if _is_deep(value):
        raise error(f"{source}: expected JSON of at most {MAX_DEPTH} levels")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``object_pairs_hook``: of two values under one key one reader sees the last, another the first."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name[:60]!r} stands twice")
        found[name] = value
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _integer(text: str) -> int:
    # Checked before it is made: Python takes quadratic time to read digits.
    if len(text) > 21 or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits, expected at most 2**64")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is beyond what a float holds")
    return value


def _is_deep(value: Any) -> bool:
    level: Iterable[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True
