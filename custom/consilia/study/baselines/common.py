"""What every baseline shares: its setting, the metrics of its predictions, and the models that it saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from consilia.core.determinism import state_digest
from consilia.core.events import Progress
from consilia.data.dataset import SiteData, Split
from consilia.data.site import SiteConfig
from consilia.federation.config import RunConfig
from consilia.federation.server_settings import ServerSettings
from consilia.methods.tasks import TASKS, Predictions
from consilia.record.schema import FinalModels, SiteMetrics

BySite = dict[str, SiteMetrics]
State = dict[str, Tensor]
Which = Literal["last", "best"]
Saved = dict[Which, State]
"""Global models that are to be saved, by which they are."""
Predict = Callable[[Split], Predictions]


class Setting(NamedTuple):
    """What every baseline needs beside the data; ``sites`` are their settings by name, ``folder`` is the run's."""

    config: RunConfig
    server: ServerSettings
    sites: Mapping[str, SiteConfig]
    folder: Path | None
    progress: Progress


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


def site_metrics(site: SiteData, predict: Predict, *, slow: bool = True) -> SiteMetrics:
    """Metrics of predictions on a site's validation and test cases."""
    found = {}
    for name in ("validation", "test"):
        split = site.split(name)
        found[name] = TASKS[site.task].metrics(predict(split), split, slow=slow) if len(split) else None
    return SiteMetrics.model_validate(found)


def final_models(version: int, state: Mapping[str, Tensor], shared: BySite, personal: BySite) -> FinalModels:
    """What the record holds of a global model and of the sites' own."""
    return FinalModels.model_validate(
        {"version": version, "sha256": state_digest(state), "global": shared, "personal": personal, "variants": {}}
    )
