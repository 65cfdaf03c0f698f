"""The command line in this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from consilia.cli.app import app


def consilia(*arguments: str | Path, code: int = 0) -> str:
    """Output of a command, on one line; it must end with status ``code``."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())
