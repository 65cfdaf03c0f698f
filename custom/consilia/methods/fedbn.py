"""FedBN: Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021.

Everything is averaged as in FedAvg, except for the normalisation layers: their affine parameters and running statistics
stay at the site that trained them, because scanners and protocols shift the features of each hospital in a way of their
own. They are found by the type of the module, never by a name. The paper has batch normalisation; layer, group,
instance and root-mean-square normalisation are kept likewise. There is no global model: every site judges what is
averaged with its own normalisation.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from consilia.core.errors import ConfigError
from consilia.methods.client import CannotEvaluate, Client, ClientContext
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State

# _NormBase: batch and instance normalisation of any dimension, synchronised or not.
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class FedBNClient(Client[MethodConfig]):
    """Local training as it is; what is not exchanged is kept by the contract."""

    def state_for(self, kind: str, global_state: State) -> State:
        """The global model with this site's own normalisation layers."""
        if kind == "global" and self.data.is_test_only:
            raise CannotEvaluate(
                "with FedBN every site has normalisation layers of its own, trained on its own cases; this site trains "
                "none, so the global model is incomplete here"
            )
        return super().state_for(kind, global_state)


class FedBN(Method[MethodConfig]):
    """FedAvg without the normalisation layers, which stay at each site (Li et al. 2021)."""

    name = "fedbn"
    global_model = False
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "survival")

    def exchanged(self, model: nn.Module) -> list[str]:
        """What is trained, except for the normalisation layers; raises :class:`ConfigError` where there are none."""
        local = {prefix for prefix, module in model.named_modules() if isinstance(module, NORMALISATION)}
        everything = super().exchanged(model)
        shared = [name for name in everything if name.rpartition(".")[0] not in local]
        if len(shared) == len(everything):
            raise ConfigError(
                "method fedbn: expected a model with normalisation layers that are trained, got "
                f"{type(model).__name__}, of which nothing would stay at the sites: take fedavg, or another model"
            )
        return shared

    def client(self, context: ClientContext) -> FedBNClient:
        """The site's half."""
        return FedBNClient(self, context)
