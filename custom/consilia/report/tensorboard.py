"""TensorBoard events of a run, made from its record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from consilia.evaluation.rounds import evaluations, primary, split_metrics
from consilia.evaluation.summary import series
from consilia.record.metrics import PRIMARY
from consilia.record.schema import Record


def scalars(record: Record) -> Iterator[tuple[str, int, float]]:
    """(tag, version, value) of everything that has a value per round.

    Tags: ``rounds/<metric>`` for the round metrics (:data:`consilia.evaluation.metrics.ROUNDS`); per site
    ``global_test_accuracy/<site>``, ``personal_test_accuracy/<site>`` (``dice``, ``c_index`` of other tasks),
    ``weight/<site>``, and ``fields/<name>/<site>`` for what sites report with their updates (``Record.fields``);
    ``bytes/down`` and ``bytes/up``, summed over sites; ``seconds/<phase>``.
    """
    for tag, values in series(record).items():
        for version, value in values.items():
            if value is not None:
                yield f"rounds/{tag}", version, value
    models: tuple[Literal["global", "personal"], ...] = ("global", "personal")
    for model in models:
        for version, by_site in evaluations(record, model).items():
            for site, metrics in split_metrics(by_site, sorted(by_site)).items():
                if (value := primary(metrics)) is not None:
                    yield f"{model}_test_{PRIMARY[record.run.task]}/{site}", version, value
    for part in record.rounds:
        for site, contribution in sorted(part.contributions.items()):
            yield f"weight/{site}", part.round, contribution.weight
            for name, value in sorted(contribution.fields.items()):
                yield f"fields/{name}/{site}", part.round, value
        yield "bytes/down", part.round, sum(part.bytes_down.values())
        yield "bytes/up", part.round, sum(part.bytes_up.values())
        for phase, seconds in sorted(part.seconds.items()):
            yield f"seconds/{phase}", part.round, seconds


class EventLog:
    """One TensorBoard event file in a folder, written as a run goes on; files of an earlier sitting are replaced."""

    def __init__(self, log_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in log_dir.glob("events.out.tfevents*"):
            old.unlink()
        self._writer = SummaryWriter(str(log_dir))
        self._written: set[tuple[str, int]] = set()

    def update(self, record: Record, more: Iterable[tuple[str, int, float]] = ()) -> None:
        """Write the scalars, ``more`` of the method's own too, that are new; the step is the version."""
        for tag, version, value in (*scalars(record), *more):
            if (tag, version) not in self._written:
                self._writer.add_scalar(tag, value, version)
                self._written.add((tag, version))
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def write_events(record: Record, log_dir: Path, more: Iterable[tuple[str, int, float]] = ()) -> None:
    """Write the scalars of a finished run, with ``more`` of the method's own."""
    events = EventLog(log_dir)
    events.update(record, more)
    events.close()
