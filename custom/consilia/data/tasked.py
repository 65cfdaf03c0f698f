"""A site's data for several tasks that are trained together: one dataset role per task, each with its own splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from consilia.core.errors import ConfigError
from consilia.core.task import Task
from consilia.data.dataset import SPLITS, SiteData, Split
from consilia.data.loading import load_site
from consilia.data.site import load_site_config


@dataclass(frozen=True)
class TaskedSplit:
    """The same split of every task, by task."""

    parts: Mapping[str, Split]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())


@dataclass(frozen=True)
class TaskedData:
    """What a site has of the tasks that a run trains; it need not have all of them.

    Attributes:
        site: its name.
        class_names: the run's tasks, those of this site and the others, so that all sites name the same.
        tasks: this site's data by task.
    """

    site: str
    class_names: tuple[str, ...]
    tasks: Mapping[str, SiteData]
    task: Task = "classification"

    @property
    def train(self) -> TaskedSplit:
        """The training cases."""
        return self.split("train")

    @property
    def validation(self) -> TaskedSplit:
        """The validation cases."""
        return self.split("validation")

    @property
    def test(self) -> TaskedSplit:
        """The test cases."""
        return self.split("test")

    @property
    def is_test_only(self) -> bool:
        """Whether the site trains nothing."""
        return len(self.train) == 0

    def split(self, name: str) -> TaskedSplit:
        """The split called ``train``, ``validation`` or ``test``, of every task."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        return TaskedSplit({task: data.split(name) for task, data in self.tasks.items()})

    def training_cases(self) -> dict[str, int]:
        """Number of training cases by task."""
        return {task: len(data.train) for task, data in self.tasks.items()}

    def fingerprint(self) -> str:
        """SHA-256 over the tasks' names and fingerprints."""
        parts = "".join(f"{task}\x1f{data.fingerprint()}\x1e" for task, data in sorted(self.tasks.items()))
        return hashlib.sha256(parts.encode()).hexdigest()


def load_tasks(path: Path, tasks: Mapping[str, int]) -> TaskedData:
    """The site's data for those of the tasks that its site.yaml has as dataset roles.

    Args:
        path: site.yaml.
        tasks: the run's tasks, and the number of classes each must have.

    Raises:
        ConfigError: the site has none of them, or a role has other classes or is a segmentation.
        DataError: the data do not fit their specification.
    """
    config = load_site_config(path)
    there = [name for name in sorted(tasks) if name in config.datasets]
    if not there:
        raise ConfigError(f"{path}: expected a dataset role for some of {sorted(tasks)}, got {sorted(config.datasets)}")
    for name in there:
        kind = config.datasets[name].task
        if kind != "classification":
            raise ConfigError(f"{path}: datasets.{name}.task: tasks trained together are classifications, got {kind}")
        classes = config.datasets[name].classes
        if len(classes) != tasks[name]:
            raise ConfigError(
                f"{path}: datasets.{name}.classes: the task has {tasks[name]} answers, got classes {list(classes)}"
            )
    data = {name: load_site(path, name) for name in there}
    return TaskedData(config.site, tuple(sorted(tasks)), data)
