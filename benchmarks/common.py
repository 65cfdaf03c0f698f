"""What every benchmark shares: the machine it ran on, a table of measurements beside their bounds, the JSON file."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from consilia.core.files import write_json
from consilia.federation.recorder import versions


@dataclass(frozen=True)
class Measurement:
    """One measured value; ``bound`` is the largest value that is still good enough, None where there is none."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the value is within its bound."""
        return None if self.bound is None else self.value <= self.bound


def machine() -> dict[str, Any]:
    """Cores, load and graphics processor of the machine: measurements from unlike machines do not compare."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.machine(),
        # A load well above zero before the first measurement means that somebody else is using the machine.
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def memory(*, peak: bool = False, process: int | None = None) -> int:
    """Bytes that a process, by default this one, has in memory now, or had at most since :func:`clear_peak` (Linux).

    Raises:
        KeyError: the process has ended.
    """
    lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def clear_peak() -> None:
    """Forget the most that this process had in memory: its imports may have left that above what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")


def report(
    title: str, measurements: Sequence[Measurement], details: dict[str, Any], found: dict[str, Any], out: Path | None
) -> None:
    """Print the measurements as a table; with ``out`` write them, the single runs, and the machine as JSON, too."""
    table = Table(title=title)
    for column in ("measurement", "value", "unit", "bound", "holds"):
        table.add_column(column, justify="right" if column in ("value", "bound") else "left")
    for measurement in measurements:
        bound = "" if measurement.bound is None else shown(measurement.bound)
        holds = {None: "", True: "yes", False: "NO"}[measurement.holds]
        table.add_row(measurement.name, shown(measurement.value), measurement.unit, bound, holds)
    Console(width=None if os.isatty(1) else 120).print(table)
    if out is not None:
        content = {
            "title": title,
            "machine": found,
            "versions": versions(),
            "measurements": [{**asdict(measurement), "holds": measurement.holds} for measurement in measurements],
            **details,
        }
        write_json(out, content)


def shown(value: float) -> str:
    """Three decimals for small values, thousands separated for large ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
