"""TensorBoard events of a run, made from its record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from consilia.evaluation.rounds import MERIT, evaluations, merit, round_figures, split_metrics
from consilia.record.schema import Record


def scalars(record: Record) -> Iterator[tuple[str, int, float]]:
    """(tag, version, value) of everything that has a value per round.

    Tags: ``rounds/<figure>`` for the figures of :func:`~consilia.evaluation.rounds.round_figures`; per site
    ``global_test_accuracy/<site>``, ``personal_test_accuracy/<site>`` (``dice`` for a segmentation), ``weight/<site>``,
    ``train_loss/<site>`` and ``individuality/<site>``; ``bytes/down`` and ``bytes/up``, summed over sites;
    ``seconds/<phase>``. With injection ``injection/loss/<task>`` and ``injection/validation_<figure>/<task>``, accuracy
    and auroc.
    """
    plain = record.plain()
    yield from _injection(record)
    for row in round_figures(plain):
        for tag, value in row.items():
            if tag != "version" and value is not None:
                yield f"rounds/{tag}", row["version"], value
    for model in ("global", "personal"):
        for version, by_site in evaluations(plain, model).items():
            for site, metrics in split_metrics(by_site, sorted(by_site)).items():
                if (value := merit(metrics)) is not None:
                    yield f"{model}_test_{MERIT[record.run.task]}/{site}", version, value
    for part in record.rounds:
        for site, contribution in sorted(part.contributions.items()):
            yield f"weight/{site}", part.round, contribution.weight
            if contribution.train_loss is not None:
                yield f"train_loss/{site}", part.round, contribution.train_loss
            if contribution.individuality is not None:
                yield f"individuality/{site}", part.round, contribution.individuality
        yield "bytes/down", part.round, sum(part.bytes_down.values())
        yield "bytes/up", part.round, sum(part.bytes_up.values())
        for phase, seconds in sorted(part.seconds.items()):
            yield f"seconds/{phase}", part.round, seconds


def _injection(record: Record) -> Iterator[tuple[str, int, float]]:
    for part in record.injection.rounds if record.injection else ():
        for task, loss in sorted(part.loss.items()):
            yield f"injection/loss/{task}", part.round, loss
        for task, figures in sorted(part.validation.items()):
            for name, value in (("accuracy", figures.accuracy), ("auroc", figures.auroc)):
                if value is not None:
                    yield f"injection/validation_{name}/{task}", part.round, value


class EventLog:
    """One TensorBoard event file in a folder, written as a run goes on; files of an earlier sitting are replaced."""

    def __init__(self, log_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in log_dir.glob("events.out.tfevents*"):
            old.unlink()
        self._writer = SummaryWriter(str(log_dir))
        self._written: set[tuple[str, int]] = set()

    def update(self, record: Record) -> None:
        """Write the scalars that are new since the last time; the step is the version."""
        for tag, version, value in scalars(record):
            if (tag, version) not in self._written:
                self._writer.add_scalar(tag, value, version)
                self._written.add((tag, version))
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def write_events(record: Record, log_dir: Path) -> None:
    """Write the scalars of a finished run."""
    events = EventLog(log_dir)
    events.update(record)
    events.close()
