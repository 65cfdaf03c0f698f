"""Errors as a person at a terminal wants them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from consilia.cli.console import errors
from consilia.core.errors import ConsiliaError

P = ParamSpec("P")
R = TypeVar("R")


def friendly(command: Callable[P, R]) -> Callable[P, R]:
    """Print our own errors as a message instead of a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ConsiliaError, OSError) as error:
            errors.print(f"Error: {error}", style="bold red", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None

    return wrapped
