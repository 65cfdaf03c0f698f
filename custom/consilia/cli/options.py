"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Engine = Annotated[str, typer.Option(help="sim = NVFlare's simulator, a process per site; inprocess = one plain loop.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A configuration value, e.g. training.batch_size=16; may be given several times."),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(help="A Python file that defines a method of your own; its SHA-256 becomes part of the run."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what an earlier run left in the folder.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: the cores, and 1 with --engine sim.")]
