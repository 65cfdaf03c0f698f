"""Where the command line prints: results on standard output, errors on standard error."""

from __future__ import annotations

from rich.console import Console

console = Console(width=None if Console().is_terminal else 110)  # in a file or pipe nothing may be cut off at 80
errors = Console(stderr=True)
