"""The baselines on a foundation model, and what of a model travels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from consilia.core.errors import CheckpointError
from consilia.models.exchange import count_elements, exchanged_state, in_type, load_exchanged
from consilia.models.prompted_vit import PromptedViT
from consilia.models.tuned import TunedSam, TunedViT
from tests.models.support import small_sam, small_vit


def names(model: nn.Module) -> set[str]:
    return set(exchanged_state(model))


def test_full_fine_tuning_exchanges_everything() -> None:
    model = TunedViT(small_vit(), 2)
    assert names(model) == set(model.state_dict())


def test_head_alone_is_exchanged_and_reads_features() -> None:
    torch.manual_seed(0)
    model = TunedViT(small_vit(), 2, tune="head")
    assert names(model) == {"head.weight", "head.bias"}
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        features = model.backbone(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)


def test_lora_is_exchanged_with_the_head_and_starts_at_the_backbone() -> None:
    torch.manual_seed(1)
    plain = small_vit()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain(images)
        model = TunedViT(plain, 2, tune="lora", rank=4)
        torch.testing.assert_close(model.encode(images), expected)
    # Two blocks, qkv: A is 4 x 24, B is 72 x 4; head 2 x 24 + 2.
    assert sum(tensor.numel() for tensor in exchanged_state(model).values()) == 2 * (4 * 24 + 72 * 4) + 50
    assert all("lora_" in name or name.startswith("head.") for name in names(model))


def test_lora_of_sam_is_exchanged_with_the_decoder() -> None:
    model = TunedSam(small_sam(), tune="lora")
    assert all("lora_" in name or "mask_decoder" in name for name in names(model))
    assert any("lora_" in name for name in names(model))


@pytest.mark.parametrize(
    "build", [lambda: TunedViT(small_vit(), 2, tune="some"), lambda: TunedSam(small_sam(), tune="x")]
)  # type: ignore[arg-type]
def test_unknown_way_of_tuning(build) -> None:
    with pytest.raises(ValueError, match="tune must be one of"):
        build()


def test_batch_norm_statistics_travel_with_what_is_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert names(model) == set(model.state_dict())
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    assert names(model) == {name for name in model.state_dict() if name[0] in "23"}
    assert count_elements(model) == (2 * 3 + 3) + (4 * 3 + 1) + (3 * 4 + 4) + (4 * 4 + 1)


def test_loading_leaves_what_is_frozen_and_names_what_does_not_fit() -> None:
    torch.manual_seed(2)
    model = PromptedViT(small_vit(), 2, prompt_length=3)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in exchanged_state(model).items()}
    load_exchanged(model, state)
    assert bool((model.head.weight == 0.5).all())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) missing \(first: 'head.bias'\), 0 unknown"):
        load_exchanged(model, {name: tensor for name, tensor in state.items() if name != "head.bias"})
    with pytest.raises(CheckpointError, match=r"'head.weight' has shape \(3, 24\), the model expects \(2, 24\)"):
        load_exchanged(model, {**state, "head.weight": torch.zeros(3, 24)})
    with pytest.raises(CheckpointError, match=r"1 unknown \(first: 'backbone.cls_token'\)"):
        load_exchanged(model, {**state, "backbone.cls_token": torch.zeros(1, 1, 24)})


def test_half_precision_is_what_numpy_rounds_to() -> None:
    values = torch.tensor([1.0, 1 / 3, 1e-9, -2049.0])
    assert in_type(values, "float16").numpy().tolist() == values.numpy().astype("float16").tolist()
    assert in_type(torch.tensor([3]), "float16").dtype == torch.int64
    assert in_type(values, "float32") is values
    assert in_type(values, "float32", copy=True) is not values
