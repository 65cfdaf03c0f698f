"""Commands of the command line that come with a method.

A function with typer's annotations; a package registers its own under the entry point group ``consilia.commands``. The
command line loads every one of them to show its help, so that a module of commands must not import torch by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

GROUP = "consilia.commands"

BUILT_IN = {"ask": "consilia.methods.fedkim.commands:ask"}


def commands() -> dict[str, Callable[..., None]]:
    """Every method's commands by name; of a name that is registered twice Consilia's own."""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    entries |= {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    return {name: entry.load() for name, entry in sorted(entries.items())}
