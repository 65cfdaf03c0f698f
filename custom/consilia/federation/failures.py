"""What ends a run though nobody raised it on purpose, a method's mistake most of all: a message, and the traceback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from consilia.core.errors import ConsiliaError, RunFailed, described
from consilia.federation.site_errors import note_error
from consilia.methods.registry import plugin_file


@contextmanager
def failures_explained(folder: Path) -> Iterator[None]:
    """Inside the block an error that is none of ours becomes one that says where it was raised.

    Args:
        folder: the run's; the traceback is written to errors.log there.

    Raises:
        RunFailed: names the error, its file and line.
    """
    try:
        yield
    except (ConsiliaError, OSError):
        raise
    except (Exception, SystemExit) as error:
        place = note_error(folder, "the run", error)
        what = described(error, plugin_file())
        raise RunFailed(
            f"the run ended with {what}; the traceback is in {place}, complete rounds in the checkpoint"
        ) from error


def as_lines(errors: Mapping[str, str]) -> str:
    """The last error of each site, a line for those that have the same one."""
    found: dict[str, list[str]] = {}
    for name, text in sorted(errors.items()):
        found.setdefault(text, []).append(name)
    return "".join(f"\n{', '.join(names)}: {text}" for text, names in found.items())
