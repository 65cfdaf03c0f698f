"""Where the command line prints: results on standard output, errors on standard error."""

from __future__ import annotations

from consilia.core.terminal import PlainConsole

# In a file or pipe nothing may be cut off at 80.
console = PlainConsole(width=None if PlainConsole().is_terminal else 110)
errors = PlainConsole(stderr=True)
