"""What a finished run leaves in its folder at the server: record, report, event files, models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from consilia.federation.coordinator import Coordinator
from consilia.federation.model_card import global_card, save_model
from consilia.federation.run_folder import PROGRESS, RESULT
from consilia.methods.shown import panels_of, scalars_of
from consilia.record.files import save_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.report.tensorboard import write_events

REPORT, EVENTS = "report.html", "tensorboard"
SAVED = "injected"
"""What the method's half at the server saves: a model that it has trained itself, say."""
GLOBAL = tuple(f"global-{name}.{suffix}" for name in ("last", "best") for suffix in ("safetensors", "md"))
SHARED = (RESULT, REPORT, PROGRESS, EVENTS, SAVED, *GLOBAL)
"""What administrators may have of a run. Checkpoints stay where the run is."""


def copy_outputs(source: Path, target: Path, private: Sequence[str] = ()) -> None:
    """Copy what there is of a run's outputs, whether it came to its end or not; files of a private name stay."""
    for name in SHARED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns(*private)
            shutil.copytree(source / name, target / name, dirs_exist_ok=True, ignore=ignored)
        elif (source / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def write_outputs(folder: Path, coordinator: Coordinator, record: Record, *, pages: bool = True) -> None:
    """Write the last and the best global model with their cards, the record, the report and TensorBoard events.

    Without ``pages`` no report and no events: ``consilia report`` makes the one from the record at any time.
    """
    config = coordinator.config
    save_model(folder / "global-last.safetensors", coordinator.state, global_card(config, record, "last"))
    save_model(folder / "global-best.safetensors", coordinator.best.state, global_card(config, record, "best"))
    coordinator.server.save(folder / SAVED)
    # The record first: what comes after can be made from it again.
    save_record(record, folder / RESULT)
    if pages:
        write_report([record], folder / REPORT, panels_of([record]))
        write_events(record, folder / EVENTS, scalars_of(record))
