"""FedBN: Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021.

Everything is averaged as in FedAvg, except for the normalisation layers: their parameters and statistics stay at the
site that trained them, because scanners and protocols shift the features of each hospital in a way of their own.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from consilia.methods import CannotEvaluate, Client, ClientContext, Method, MethodConfig, State

LOCAL_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Batch and instance normalisation, and its kin."""


class FedBNClient(Client[MethodConfig]):
    """Local training as it is; what is not exchanged is kept by the contract."""

    def state_for(self, kind: str, global_state: State) -> State:
        """The global model with this site's own normalisation layers."""
        if kind == "global" and self.private and self.data.is_test_only:
            raise CannotEvaluate(
                "with FedBN every site has normalisation layers of its own, trained on its own cases; this site trains "
                "none, so the global model is incomplete here"
            )
        return super().state_for(kind, global_state)


class FedBN(Method[MethodConfig]):
    """FedAvg without the normalisation layers."""

    name = "fedbn"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")

    def exchanged(self, model: nn.Module) -> list[str]:
        """What is trained, except for the normalisation layers."""
        local = [prefix for prefix, module in model.named_modules() if isinstance(module, LOCAL_LAYERS)]
        return [name for name in super().exchanged(model) if name.rpartition(".")[0] not in local]

    def client(self, context: ClientContext) -> FedBNClient:
        """The site's half."""
        return FedBNClient(self, context)
