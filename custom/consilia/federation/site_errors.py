"""What goes wrong at a site, in full, where only the site can read it.

An error's message may quote a row, a case or a patient. The logs that NVFlare keeps may be streamed to the server, so
they get the kind of the error and the place of this file.
"""

from __future__ import annotations

import textwrap
import traceback
from contextlib import suppress
from pathlib import Path

from consilia.core.clock import timestamp
from consilia.core.files import append_text, make_private
from consilia.core.plain import plain

FILE = "errors.log"


def note_error(state_dir: Path, what: str, error: BaseException) -> Path:
    """Append an error with its traceback to the site's own errors.log (readable by its owner alone).

    A full or read-only disk may be the very error: that it cannot be noted must not hide it.
    """
    path = state_dir / FILE
    # Indented: what an error quotes may be of a job or a server, and must not begin an entry of its own.
    text = textwrap.indent(plain("".join(traceback.format_exception(error)), keep="\n"), "  ")
    with suppress(OSError):
        make_private(state_dir)
        append_text(path, f"{timestamp()} {what}\n{text}\n")
    return path


def last_error(state_dir: Path) -> str | None:
    """The last line of the last error, for a person on the same machine."""
    path = state_dir / FILE
    lines = [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    return lines[-1].strip() if lines else None
