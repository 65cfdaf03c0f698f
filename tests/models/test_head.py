"""Every network for classification says which layer makes logits of features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from consilia.core.errors import ConfigError
from consilia.models.cnn import FourLayerCNN
from consilia.models.head import head_name, head_tensors, logits_and_features
from consilia.models.linear import PooledLinear
from consilia.models.mlp import MLP
from consilia.models.prompted_vit import PromptedViT
from consilia.models.resnet import SmallResNet
from consilia.models.sequences import SeriesGRU, SignalCNN
from consilia.models.tuned import TunedViT
from tests.models.support import small_vit

IMAGES = (2, 3, 32, 32)
NETWORKS = {
    "mlp": (lambda: MLP(5, 3, hidden=[8, 4]), "layers.4", 4, (2, 5)),
    "mlp without hidden layers": (lambda: MLP(5, 3, hidden=[]), "layers.0", 5, (2, 5)),
    "cnn": (lambda: FourLayerCNN(3, 3, 32, hidden=16), "classifier.3", 16, IMAGES),
    "resnet": (lambda: SmallResNet(3, 3, width=8), "head", 64, IMAGES),
    "signals": (lambda: SignalCNN(3, leads=2, width=8), "head", 8, (2, 2, 50)),
    "series": (lambda: SeriesGRU(3, features=4, width=8), "head", 8, (2, 5, 4)),
    "linear": (lambda: PooledLinear(6, 3), "layer", 6, (2, 6)),
    "prompted": (lambda: PromptedViT(small_vit(), 3, prompt_length=2), "head", 24, IMAGES),
    "tuned": (lambda: TunedViT(small_vit(), 3), "head", 24, IMAGES),
    "tuned head": (lambda: TunedViT(small_vit(), 3, tune="head"), "head", 24, IMAGES),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_the_head_of_the_features(network: str) -> None:
    build, name, width, shape = NETWORKS[network]
    model = build().eval()
    assert head_name(model) == name
    assert head_tensors(model, name) == [f"{name}.weight", f"{name}.bias"]
    layer = model.get_submodule(name)
    assert (layer.in_features, layer.out_features) == (width, 3)
    inputs = torch.randn(shape)
    logits, features = logits_and_features(model, name, model, inputs)
    assert features.shape == (2, width)
    assert torch.equal(logits, model(inputs))
    torch.testing.assert_close(features @ layer.weight.T + layer.bias, logits)
    assert not layer._forward_pre_hooks


def test_a_head_that_is_not_called_as_a_layer_is_named() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.head.weight.T

    model = Around()
    with pytest.raises(ConfigError, match="Around does not call its head 'head' on features"):
        logits_and_features(model, "head", model, torch.zeros(1, 4))


def test_a_head_that_is_declared_but_not_there() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.head = "9"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"Sequential declares the head '9', expected .* \('0', probably\)"):
        head_name(model)
