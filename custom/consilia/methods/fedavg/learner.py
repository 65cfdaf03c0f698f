"""FedAvg at a site: cross-entropy, nothing else."""

from __future__ import annotations

from consilia.methods.fedavg.config import FedAvgConfig
from consilia.methods.learner import Learner


class FedAvgLearner(Learner[FedAvgConfig]):
    """The shared local training as it is."""
