"""The list of commands in a help text, with no text cut off."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

LONGEST = 1000
"""Characters of a command's first sentence; click would cut it at the end of the line."""


class WholeTexts(TyperGroup):
    """A group whose commands stand in its help with their whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a row per command; typer has a copy of click's classes in some versions, and click's own in others."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(LONGEST)) for name, command in found if command and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
