"""A site's data as a run sees them: of its one dataset role, or of the tasks that its method trains together."""

from __future__ import annotations

from pathlib import Path

from consilia.data.dataset import SiteData
from consilia.data.loading import load_site
from consilia.data.tasked import TaskedData, load_tasks
from consilia.federation.config import RunConfig


def load_run_data(config: RunConfig, site_yaml: Path) -> SiteData | TaskedData:
    """Load them; see :func:`~consilia.data.loading.load_site` and :func:`~consilia.data.tasked.load_tasks`."""
    tasks = config.method.tasks()
    return load_tasks(site_yaml, tasks) if tasks else load_site(site_yaml, config.role)
