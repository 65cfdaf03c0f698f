"""Where the command line prints: results on standard output, errors on standard error."""

from __future__ import annotations

from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table

from consilia.core.terminal import PlainConsole

# In a file or pipe nothing may be cut off at 80.
console = PlainConsole(width=None if PlainConsole().is_terminal else 110)
errors = PlainConsole(stderr=True)


def print_table(table: Table) -> None:
    """Print a table, wider than the console where it has to be, so that no number loses its end."""
    needed = Measurement.get(console, console.options.update(width=10_000), table).minimum
    # print() takes no width beyond the console's.
    wide = console.render(table, console.options.update(width=max(needed, console.width)))
    console.print(Segments(wide), crop=False, end="")
