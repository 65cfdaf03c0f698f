"""Fed-GPL at the server is federated averaging of the tensors that are trained (specification 2.5)."""

from __future__ import annotations

from consilia.methods.fedgpl.config import FedGPLConfig
from consilia.methods.server import Strategy


class FedGPLStrategy(Strategy[FedGPLConfig]):
    """The shared strategy as it is: n_k / n in general, which is the paper's uniform mean at sites of one size."""
