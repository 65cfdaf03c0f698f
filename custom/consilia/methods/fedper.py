"""FedPer: Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, arXiv 1912.00818.

The model of site k is (W_B, W_Pk): the base layers W_B are averaged with weights n_k as in FedAvg, the
personalisation layers W_Pk are trained with them, by one optimiser, and stay at the site (Algorithms 1 and 2). Here W_P
is the head, the model's last linear layer: K_P = 1. There is no global model: every site judges W_B with its own head.
"""

from __future__ import annotations

from consilia.methods.client import ClientContext
from consilia.methods.heads import BodyMethod, HeadConfig, PrivateHeadClient


class FedPer(BodyMethod[HeadConfig]):
    """FedAvg of the body; every site keeps a head of its own (Arivazhagan et al. 2019)."""

    name = "fedper"
    Config = HeadConfig
    global_model = False

    def client(self, context: ClientContext) -> PrivateHeadClient[HeadConfig]:
        """The site's half: local training as it is, of body and head together."""
        return PrivateHeadClient(self, context)
