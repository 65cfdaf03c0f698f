"""What a report is about, in its title and its first sentence: the data set, its sites, and whose cases are tested."""

from __future__ import annotations

from collections.abc import Sequence

from consilia.evaluation.rounds import training_sites
from consilia.evaluation.tested import tested_on
from consilia.record.schema import Record
from consilia.report.format import plural

NAMED = 6
"""Sites that are named; of more there is the number."""


def data_set(record: Record) -> str:
    """The data set's name, or the names of those that are trained together."""
    several = record.run.task == "classification" and any(info.tasks for info in record.sites.values())
    if several:
        return ", ".join(record.class_names)
    name = record.config.get("dataset")
    return name if isinstance(name, str) and record.sites else ""


def sites_text(sites: Sequence[str]) -> str:
    """``2 sites (Ashford, Bergen)``."""
    names = f" ({', '.join(sites)})" if 1 < len(sites) <= NAMED else ""
    return sites[0] if len(sites) == 1 else plural(len(sites), "site") + names


def has_global(record: Record) -> bool:
    """Whether there is a global model that a site could test; of local training alone there is none."""
    return not record.final or any(final.global_ for final in record.final.values())


def whose_cases(record: Record) -> str:
    """See :func:`~consilia.evaluation.tested.tested_on`; without a global model no site is held out."""
    return tested_on(record) if has_global(record) else "each model on its own site's test cases"


def subject(record: Record) -> str:
    """For a title: ``diagnosis at 3 sites (a, b, c), tested on d, which trained nothing``."""
    name = data_set(record)
    where = [f"{name} at {sites_text(training_sites(record))}" if name else sites_text(training_sites(record))]
    return ", ".join([*where, whose_cases(record)]) if record.sites else ""
