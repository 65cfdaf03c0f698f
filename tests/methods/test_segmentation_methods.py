"""Every method that says so trains a segmentation: two rounds with its server, and the personal model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consilia.aggregation import mean_of_updates, weighted_mean
from consilia.data.dataset import DatasetSplits, SiteData, Split
from consilia.methods import Mean, Round, UpdateMetadata
from consilia.methods.registry import BUILT_IN, method_class
from consilia.models.sam_segmenter import MaskPrompts
from tests.methods.linear import SGD
from tests.methods.support import client_of, server_of

METHODS = [name for name in BUILT_IN if method_class(name).any_model and "segmentation" in method_class(name).tasks]
SIZE = 8


class Masker(nn.Module):
    """Finds bright pixels, with a normalisation layer; where it is shown to look makes no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        return self.norm(self.first(images))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor, prompts: MaskPrompts, *, refine: bool = False) -> Tensor:
        return self.head(codes.relu())[:, 0]  # type: ignore[no-any-return]

    def forward(self, images: Tensor, prompts: MaskPrompts, *, refine: bool = False) -> Tensor:
        return self.decode(self.encode(images), prompts)


def site_data() -> SiteData:
    images = torch.randn(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    split = Split(images, (images[:, 0] > 0.5).to(torch.uint8), tuple(f"case-{i}" for i in range(6)))
    return SiteData("a", {"r": DatasetSplits(("structure",), split, split, split, task="segmentation")})


@pytest.mark.parametrize("method", METHODS)
def test_two_rounds_and_a_personal_model(method: Any) -> None:
    torch.manual_seed(0)
    model, own = Masker(), site_data()
    client = client_of(method, copy.deepcopy(model), own, SGD)
    server = server_of(method, model)
    start = state = client.state(client.shared)
    for number in (1, 2):
        update = client.train(Round(number, state, server.payload(number)))
        sent = {"a": {**update.state, **update.extras}}
        weights = server.weights({"a": UpdateMetadata(update.cases, update.weight, update.fields)})
        extras = weighted_mean(sent, {"a": 1.0}, names=list(server.extras)) if server.extras else {}
        state = dict(server.step(state, Mean(mean_of_updates(sent, weights, state), extras, 1, 1), number))
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert not torch.equal(state["first.weight"], start["first.weight"])
    client.load(client.personalize(Round(3, state, server.payload(3))))
    for masks in client.predict(own.test).values():
        assert masks.shape == (6, SIZE, SIZE)
