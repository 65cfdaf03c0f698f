"""A site's data and the server's, as a run sees them: of one dataset role, or of the tasks that its method trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from consilia.data.dataset import SiteData
from consilia.data.layout import server_data
from consilia.data.loading import load_site
from consilia.data.tasked import TaskedData, load_tasks
from consilia.federation.config import RunConfig
from consilia.methods.fedkim.cases import fingerprint, load_server_cases
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.record.injection import Injection


def load_run_data(config: RunConfig, site_yaml: Path) -> SiteData | TaskedData:
    """Load them; see :func:`~consilia.data.loading.load_site` and :func:`~consilia.data.tasked.load_tasks`."""
    tasks = config.method.tasks()
    return load_tasks(site_yaml, tasks) if tasks else load_site(site_yaml, config.role)


def same_server_data(told: Injection, config: RunConfig, site_files: Mapping[str, Path]) -> bool:
    """Whether the server's own data are still those that a record tells of."""
    path = server_data(site_files)
    if path is None or not isinstance(config.method, FedKIMConfig):
        return False
    return fingerprint(load_server_cases(path, config.method.catalogue)) == told.fingerprint
