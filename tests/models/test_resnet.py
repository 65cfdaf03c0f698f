"""The small residual network: shapes, counts by hand, and that cases do not depend on their batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.models.build import build_model
from consilia.models.resnet import SmallResNet

NAME = "consilia.models.resnet.SmallResNet"


def images(cases: int, channels: int = 1, side: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.randn(cases, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [8, 28, 64, 65, 224])
def test_any_image_size(side: int) -> None:
    model = SmallResNet(3, in_channels=3)
    assert model(images(2, 3, side)).shape == (2, 3)
    assert model.features(images(2, 3, side)).shape == (2, 128)


def test_parameters_by_hand() -> None:
    def convolution(before: int, after: int, size: int = 3) -> int:
        return size * size * before * after + 2 * after  # and a scale and a shift of each channel

    def block(before: int, after: int) -> int:
        shortcut = 0 if before == after else convolution(before, after, 1)
        return convolution(before, after) + convolution(after, after) + shortcut

    stages = block(16, 16) + block(16, 32) + block(32, 64) + block(64, 128)
    expected = convolution(1, 16) + stages + 128 * 2 + 2
    model = SmallResNet(2)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected == 307_506
    deeper = sum(parameter.numel() for parameter in SmallResNet(2, blocks=2).parameters())
    assert deeper == expected + sum(block(width, width) for width in (16, 32, 64, 128))
    assert not list(model.buffers())  # no running means


def test_a_case_does_not_depend_on_its_batch() -> None:
    model = SmallResNet(2).train()
    batch = images(6)
    alone = torch.cat([model(case[None]) for case in batch])
    torch.testing.assert_close(model(batch), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


def test_learns() -> None:
    """A bright square in the upper or in the lower half, at any place."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % 2
    inputs = 0.1 * images(64, seed=2)
    for case, label in enumerate(labels.tolist()):
        row, column = torch.randint(0, 9, (2,), generator=draw).tolist()
        inputs[case, 0, row + 14 * label : row + 14 * label + 5, column : column + 5] += 1
    model = build_model(NAME, {"num_classes": 2}, seed=0, allowed=DEFAULT_ALLOWED)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    first = float(functional.cross_entropy(model(inputs), labels).detach())
    for _ in range(40):
        optimiser.zero_grad()
        loss: torch.Tensor = functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1 < first
    assert float((model(inputs).argmax(1) == labels).float().mean()) == 1


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of 8 .*got 12"):
        SmallResNet(2, width=12)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SmallResNet(2, blocks=0)
    assert isinstance(SmallResNet(5, width=8).head, nn.Linear)
