"""Learning tasks: what a method needs to know of classification and of segmentation."""

from consilia.methods.tasks.base import Network, Predictions, Task, network_of
from consilia.methods.tasks.classification import Classification
from consilia.methods.tasks.segmentation import Segmentation

TASKS: dict[str, Task] = {"classification": Classification(), "segmentation": Segmentation()}

__all__ = ["TASKS", "Classification", "Network", "Predictions", "Segmentation", "Task", "network_of"]
