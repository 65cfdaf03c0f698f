"""A site's data as a run sees them: of one dataset role, or of the several that its method trains together."""

from __future__ import annotations

from pathlib import Path

from consilia.data.dataset import SiteData
from consilia.data.loading import load_site
from consilia.data.tasked import TaskedData, load_tasks
from consilia.federation.config import RunConfig
from consilia.methods.registry import make_method


def load_run_data(config: RunConfig, site_yaml: Path) -> SiteData | TaskedData:
    """Load them; see :func:`~consilia.data.loading.load_site` and :func:`~consilia.data.tasked.load_tasks`."""
    datasets = make_method(config.method).datasets()
    return load_tasks(site_yaml, datasets) if datasets else load_site(site_yaml, config.role)
