"""Every method by name. One line each: configuration, the site's half, the server's half."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field

from consilia.methods.config import MethodConfig
from consilia.methods.fedavg.config import FedAvgConfig
from consilia.methods.fedavg.learner import FedAvgLearner
from consilia.methods.fedavg.server import FedAvgStrategy
from consilia.methods.fedgpl.config import FedGPLConfig
from consilia.methods.fedgpl.learner import FedGPLLearner
from consilia.methods.fedgpl.server import FedGPLStrategy
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.learner import FedKIMLearner
from consilia.methods.fedkim.server import FedKIMStrategy
from consilia.methods.fedkper.config import FedKPerConfig
from consilia.methods.fedkper.learner import FedKPerLearner
from consilia.methods.fedkper.server import FedKPerStrategy
from consilia.methods.fedprox.config import FedProxConfig
from consilia.methods.fedprox.learner import FedProxLearner
from consilia.methods.fedprox.server import FedProxStrategy
from consilia.methods.learner import Learner
from consilia.methods.server import Strategy


class Method(NamedTuple):
    """The three pieces of a method's furniture."""

    config: type[MethodConfig]
    learner: type[Learner[Any]]
    strategy: type[Strategy[Any]]


METHODS = {
    "fedavg": Method(FedAvgConfig, FedAvgLearner, FedAvgStrategy),
    "fedprox": Method(FedProxConfig, FedProxLearner, FedProxStrategy),
    "fedkper": Method(FedKPerConfig, FedKPerLearner, FedKPerStrategy),
    "fedgpl": Method(FedGPLConfig, FedGPLLearner, FedGPLStrategy),
    "fedkim": Method(FedKIMConfig, FedKIMLearner, FedKIMStrategy),
}

AnyMethodConfig = Annotated[
    FedAvgConfig | FedProxConfig | FedKPerConfig | FedGPLConfig | FedKIMConfig, Field(discriminator="method")
]
