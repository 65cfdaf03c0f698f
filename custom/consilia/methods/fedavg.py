"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.

Local training on the task's loss, the mean weighted by training cases, and local fine-tuning as the personal baseline.
"""

from __future__ import annotations

from typing import ClassVar

from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method


class FedAvg(Method[MethodConfig]):
    """The mean of the locally trained models, weighted by training cases (McMahan et al. 2017)."""

    name = "fedavg"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")
