"""Atomic file writes: a reader (or a restarted process) sees the old file or the new one, never half of either."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consilia.core.errors import ConfigError
from consilia.core.plain import plain

# The mask can only be read by setting it. Once, at import: later, other threads may be creating files meanwhile.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Begins a formula in a spreadsheet; the last four are the same signs in full width."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, for the owner alone; what is there stays as it is."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def refuse_links(state_dir: Path, *places: Path) -> None:
    """Refuse symbolic links on the way from ``state_dir`` to places below it, and in them; it may be one itself.

    Raises:
        ConfigError: names the link.
    """
    for place in places:
        way = [place, *place.parents]
        way = way[: way.index(state_dir)]
        for path in (*way, *(place.iterdir() if place.is_dir() else ())):
            if path.is_symlink():
                raise ConfigError(f"{path} is a symbolic link: the site's state stays in {state_dir}; remove the link")


@contextmanager
def atomic_path(target: Path, *, durable: bool = True, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it replaces the target, on error it is removed.

    ``durable`` waits until the bytes are on the disk, which a loss of power asks for and a killed process does not.
    ``private`` lets only the owner read the file and look into folders that are made for it, at no moment anyone else;
    otherwise the process's umask decides.
    """
    if private:
        make_private(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp has made it 0600.
        temporary.chmod(0o600 if private else 0o666 & ~_UMASK)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes, *, durable: bool = True, private: bool = False) -> None:
    """Write bytes atomically; for the options see :func:`atomic_path`."""
    with atomic_path(target, durable=durable, private=private) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, content: Any, *, private: bool = False, compact: bool = False) -> None:
    """Write JSON atomically: UTF-8, sorted keys, and no NaN (which is not JSON; undefined values are null).

    ``compact`` leaves out the line breaks, for files that no person reads.
    """
    indent = None if compact else 1
    text = json.dumps(content, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(target, (text + "\n").encode(), private=private)


def append_text(path: Path, text: str) -> None:
    """Add to a file that only the owner may read, and that is no symbolic link."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        file.write(text)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]], *, private: bool = False) -> None:
    """A csv file, written whole or not at all. Floating numbers have six decimals; undefined ones are blank.

    A spreadsheet would take a text that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and carry it out: it
    gets an apostrophe before it, unless it is a number. Control characters are escaped. A fixed line end makes the file
    the same on every system.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (heading, *rows))
    write_bytes(path, text.getvalue().encode(), private=private)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
