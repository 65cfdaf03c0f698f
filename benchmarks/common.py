"""What every benchmark shares: the machine it ran on, a table of figures beside their bounds, the JSON file."""

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
class Figure:
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
    """Cores, load and graphics processor of the machine: figures from unlike machines do not compare."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.machine(),
        # A load well above zero before the first measurement means that somebody else is using the machine.
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def report(
    title: str, figures: Sequence[Figure], details: dict[str, Any], found: dict[str, Any], out: Path | None
) -> None:
    """Print the figures as a table; with ``out`` also write them, the machine and all single measurements as JSON."""
    table = Table(title=title)
    for column in ("figure", "value", "unit", "bound", "holds"):
        table.add_column(column, justify="right" if column in ("value", "bound") else "left")
    for figure in figures:
        bound = "" if figure.bound is None else shown(figure.bound)
        holds = {None: "", True: "yes", False: "NO"}[figure.holds]
        table.add_row(figure.name, shown(figure.value), figure.unit, bound, holds)
    Console(width=None if os.isatty(1) else 120).print(table)
    if out is not None:
        content = {
            "title": title,
            "machine": found,
            "versions": versions(),
            "figures": [{**asdict(figure), "holds": figure.holds} for figure in figures],
            **details,
        }
        write_json(out, content)


def shown(value: float) -> str:
    """Three decimals for small values, thousands separated for large ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
