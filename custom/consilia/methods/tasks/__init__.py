"""Learning tasks: what a method needs to know of classification, of segmentation and of survival."""

from consilia.methods.tasks.base import Network, Predictions, Task, network_of
from consilia.methods.tasks.classification import Classification
from consilia.methods.tasks.segmentation import Segmentation
from consilia.methods.tasks.survival import Survival

TASKS: dict[str, Task] = {
    "classification": Classification(),
    "segmentation": Segmentation(),
    "survival": Survival(),
}

__all__ = ["TASKS", "Classification", "Network", "Predictions", "Segmentation", "Survival", "Task", "network_of"]
