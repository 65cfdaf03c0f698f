"""What every baseline shares: its setting, the metrics of its predictions, and the models that it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from consilia.core.determinism import state_digest
from consilia.core.events import Progress
from consilia.data.dataset import SiteData, Split
from consilia.data.site import RUNS, SiteConfig
from consilia.evaluation.thresholds import Threshold, mean_threshold
from consilia.federation.config import RunConfig
from consilia.federation.saved_predictions import write_predictions
from consilia.federation.server_settings import ServerSettings
from consilia.methods.tasks import TASKS, Predictions
from consilia.record.schema import FinalModels, SiteMetrics
from consilia.record.study_result import Version

BySite = dict[str, SiteMetrics]
State = dict[str, Tensor]
Saved = dict[Version, State]
"""Global models that are to be saved, by which they are."""
Predict = Callable[[Split], Predictions]


class Setting(NamedTuple):
    """What every baseline needs beside the data; ``sites`` are their settings by name, ``folder`` is the run's.

    ``pages``: whether sites write their own reports. ``predictions``: on test cases, by site and version, then model;
    see :meth:`keep`.
    """

    config: RunConfig
    server: ServerSettings
    sites: Mapping[str, SiteConfig]
    folder: Path | None
    progress: Progress
    pages: bool
    predictions: dict[tuple[str, str], dict[str, Predictions]]

    def keep(self, model: str, versions: Iterable[str], sites: Iterable[SiteData], predict: Predict) -> None:
        """Keep a model's predictions on the test cases of sites, for the tables of a study."""
        for site in sites:
            if self.sites[site.site].keep_predictions:
                found = predict(site.test)
                for version in versions:
                    self.predictions.setdefault((site.site, version), {})[model] = found

    def write_predictions(self, sites: Iterable[SiteData]) -> None:
        """Write what is kept, where a site of a federated run does."""
        own = {site.site: site for site in sites}
        for (site, version), found in self.predictions.items():
            by_dataset = {model: {own[site].name: predictions} for model, predictions in found.items()}
            write_predictions(self.sites[site], self.config.run_id, version, own[site], by_dataset)

    def site_folder(self, site: str) -> Path:
        """Where a site keeps what it has of the run."""
        return self.sites[site].state_dir / RUNS / self.config.run_id


def training_sites(sites: list[SiteData]) -> list[SiteData]:
    """The sites that have training cases."""
    return [site for site in sites if not site.is_test_only]


def pooled(sites: list[SiteData], name: str) -> Split:
    """One split of all sites together, each preprocessed as at its site."""
    parts = [(site.site, site.split(name)) for site in sites]
    return Split(
        torch.cat([split.inputs for _, split in parts]),
        torch.cat([split.labels for _, split in parts]),
        tuple(f"{site}/{case}" for site, split in parts for case in split.case_ids),
        # Spacing plays no part in training, and the pooled data are for nothing else.
    )


def site_metrics(site: SiteData, predict: Predict, *, slow: bool = True, threshold: Threshold = "own") -> SiteMetrics:
    """Metrics of predictions on a site's validation and test cases, at the threshold that the former choose or another.

    What only a final evaluation has, with ``slow``, is of the test cases alone.
    """
    task, own = TASKS[site.task], None
    found: dict[str, dict[str, Any] | None] = {"validation": None, "test": None}
    for name in found:
        split = site.split(name)
        predictions = predict(split) if len(split) else {}
        at = own if threshold == "own" else threshold
        metrics = task.metrics(predictions, split, slow=slow and name == "test", threshold=at) if len(split) else None
        if name == "validation" and metrics is not None:
            own = task.threshold(predictions, split)
            metrics |= {} if own is None else {"threshold": own}
        found[name] = metrics
    return SiteMetrics.model_validate(found)


def shared_metrics(sites: list[SiteData], predict: Predict) -> tuple[float | None, BySite]:
    """The threshold of one model of all sites, and every site's metrics at it."""
    threshold = mean_threshold({site.site: site_metrics(site, predict, slow=False) for site in sites})
    return threshold, {site.site: site_metrics(site, predict, threshold=threshold) for site in sites}


def final_models(
    version: int,
    state: Mapping[str, Tensor],
    shared: BySite,
    personal: BySite,
    threshold: float | None = None,
) -> FinalModels:
    """What the record holds of a global model, with its threshold, and of the sites' own."""
    return FinalModels.model_validate(
        {
            "version": version,
            "sha256": state_digest(state),
            "threshold": threshold,
            "global": shared,
            "personal": personal,
            "variants": {},
        }
    )
