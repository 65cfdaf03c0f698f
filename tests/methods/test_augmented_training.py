"""Training on augmented images: which pixels a step sees, and what is taken on the cases as they are."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilia.core.determinism import generator, state_digest
from consilia.core.errors import ConfigError
from consilia.data.augmentation import Augmentation, AugmentationConfig
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.methods import Client, Round, TrainingConfig
from consilia.methods.fit import shuffled
from tests.methods import support

PRESET = TrainingConfig(augmentation="images").augmentation


def training(augmentation: AugmentationConfig | str | None) -> TrainingConfig:
    return TrainingConfig(local_epochs=2, batch_size=4, learning_rate=0.1, device="cpu", augmentation=augmentation)


def site_data(cases: int = 11) -> SiteData:
    images = torch.randn(cases, 1, 12, 10, generator=torch.Generator().manual_seed(3))
    train = Split(images, (images[:, 0, :6].mean((1, 2)) > 0).long(), tuple(f"case-{i}" for i in range(cases)))
    return SiteData("a", {"diagnosis": DatasetSplits(("x", "y"), train, empty_split(images), train)})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 2))


class Halves(nn.Module):
    """A frozen encoder with dropout, and a head."""

    def __init__(self, declared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(120, 8), nn.Tanh()).requires_grad_(False)
        self.head = nn.Linear(8, 2)
        self.encoder_is_frozen = declared

    def encode(self, images: Tensor) -> Tensor:
        return functional.dropout(self.body(images), 0.5, self.training and self.encoder_is_frozen)

    def decode(self, codes: Tensor) -> Tensor:
        return self.head(codes)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def client_of(augmentation, method="fedavg", model: nn.Module | None = None, data: SiteData | None = None) -> Client:
    return support.client_of({"method": method}, model or network(), data or site_data(), training(augmentation))


def train(client: Client, number: int = 1):
    return client.train(Round(number, client.state()))


def test_training_takes_the_augmented_images_of_its_round_and_epochs() -> None:
    data, model = site_data(), network()
    augmentation, order = Augmentation(PRESET, 1, "a"), generator(1, "batches", "a", 3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1 * 0.99**2, momentum=0.9, weight_decay=1e-5)
    for epoch in range(2):
        images, labels = augmentation.transform(3, epoch)(data.train.inputs, data.train.labels, data.train.case_ids)
        for indices in shuffled(11, 4, order):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[indices]), labels[indices]).backward()
            optimiser.step()
    found = train(client_of("images"), 3).state
    assert state_digest(found) == state_digest(dict(model.state_dict()))
    assert state_digest(found) != state_digest(train(client_of(None), 3).state)


def test_the_same_bytes_twice() -> None:
    client = client_of("images")
    start = client.state()
    first = state_digest(client.train(Round(1, start)).state)
    assert first == state_digest(client.train(Round(1, start)).state)
    assert first == state_digest(train(client_of("images")).state)


def test_without_augmentation_the_inputs_are_untouched() -> None:
    client = client_of(None)
    assert client.augmentation is None
    batch = next(client.batches(torch.Generator().manual_seed(1)))
    first = next(shuffled(11, 4, torch.Generator().manual_seed(1)))
    assert torch.equal(batch.inputs, site_data().train.inputs[first])


def test_accuracy_of_fedkper_is_that_of_the_cases_as_they_are() -> None:
    client = client_of(AugmentationConfig(flip=("vertical",), rotate=180), "fedkper")
    update = train(client)
    model = network()
    model.load_state_dict(update.state)
    data = site_data().train
    correct = int((model(data.inputs).argmax(1) == data.labels).sum())
    assert update.fields["train_accuracy"] == round(correct / 11, 4)


def test_a_frozen_encoder_sees_the_augmented_images_and_keeps_nothing_of_them(caplog) -> None:
    with caplog.at_level(logging.INFO):
        kept = client_of("images", model=Halves(declared=True))
    assert "output on training batches is not kept" in caplog.text
    whole = client_of("images", model=Halves(declared=False))
    # Equal although the declared encoder would drop half of its output in training mode: it runs in evaluation mode.
    for name, tensor in train(kept).state.items():
        torch.testing.assert_close(tensor, train(copy.deepcopy(whole)).state[name])
    assert kept._encoded == {}
    caplog.clear()
    client_of(None, model=Halves(declared=True))
    assert not caplog.text


def test_a_site_without_images_is_told_so_before_the_rounds() -> None:
    table = torch.randn(6, 120)
    split = Split(table, torch.zeros(6, dtype=torch.int64), tuple("abcdef"))
    data = SiteData("a", {"diagnosis": DatasetSplits(("x", "y"), split, empty_split(table), split)})
    with pytest.raises(ConfigError, match=r"the inputs of site a have the shape \(120,\) each"):
        client_of("images", data=data).check_model()
    client_of(None, data=data).check_model()
