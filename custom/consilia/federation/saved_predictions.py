"""The predictions on a site's test cases, kept there for the tables of a study on one machine; never sent.

A row per test case: which model, a digest in place of patient and case id, and what the task has of a case. The digests
are the same in every fold and for every seed. They hide no id from who can guess it, and need not: the file lies where
the cases themselves are, and only their owner can read it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from consilia.core.files import write_bytes
from consilia.data.dataset import SiteData
from consilia.data.site import RUNS, SiteConfig
from consilia.methods.tasks import TASKS, Predictions

KEYS = ("model", "dataset", "patient", "case")
"""The first columns."""


def predictions_file(settings: SiteConfig, run_id: str, version: str) -> Path:
    """Where a site keeps those of the models of one version, ``last`` or ``best``."""
    return settings.state_dir / RUNS / run_id / f"predictions-{version}.csv"


def by_case(data: SiteData, predictions: Mapping[str, Mapping[str, Predictions]]) -> pd.DataFrame:
    """A row per test case, model and dataset.

    Args:
        data: the site's.
        predictions: on its test cases, by model and dataset.
    """
    frames = []
    for model, found in predictions.items():
        for name, values in found.items():
            split = data.dataset(name).test
            if not len(split):
                continue
            columns = {key: column.numpy() for key, column in TASKS[data.task].by_case(values, split).items()}
            own = {"patient": digests(split.patients), "case": digests(split.case_ids)}
            frames.append(pd.DataFrame({"model": model, "dataset": name, **own, **columns}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(KEYS))


def write_predictions(
    settings: SiteConfig,
    run_id: str,
    version: str,
    data: SiteData,
    predictions: Mapping[str, Mapping[str, Predictions]],
) -> None:
    """Write the table, if the site keeps predictions."""
    if settings.keep_predictions:
        text = by_case(data, predictions).to_csv(index=False, lineterminator="\n")
        write_bytes(predictions_file(settings, run_id, version), text.encode(), durable=False, private=True)


def read_predictions(file: Path) -> pd.DataFrame:
    """What :func:`write_predictions` wrote."""
    return pd.read_csv(file, dtype={"patient": str, "case": str})


def digests(ids: Iterable[str]) -> Sequence[str]:
    """Twelve hexadecimal digits for each id."""
    return [hashlib.blake2b(name.encode(), digest_size=6).hexdigest() for name in ids]
