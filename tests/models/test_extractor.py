"""Encoders and the knowledge extractor: shapes, what depends on what, and messages for inputs that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from consilia.core.determinism import seeded
from consilia.core.errors import ConfigError
from consilia.models.build import build_model
from consilia.models.encoders import ImageEncoder, SeriesEncoder, SignalEncoder, TableEncoder
from consilia.models.exchange import exchanged_state
from consilia.models.extractor import KnowledgeExtractor
from consilia.models.foundation import load_foundation

VIT: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
ENCODERS: dict[str, Any] = {
    "image": {"kind": "image", "tokens": 2, **VIT},
    "signal": {"kind": "signal", "leads": 12, "tokens": 5},
    "vitals": {"kind": "series", "columns": [0, 3], "tokens": 4},
    "labs": {"kind": "series", "columns": [3, 7], "tokens": 4},
    "table": {"kind": "table", "features": 6},
}
HEADS = {
    "lesion": {"modalities": ["image"], "answers": 3},
    "kidney": {"modalities": ["vitals", "labs"], "answers": 2},
}
INPUTS = {
    "image": (2, 3, 16, 16),
    "signal": (2, 12, 250),
    "vitals": (2, 24, 7),
    "labs": (2, 24, 7),
    "table": (2, 6),
}
TOKENS = {"image": 5, "signal": 5, "vitals": 4, "labs": 4, "table": 2}


def extractor(foundation: torch.nn.Module | None = None, **changed: Any) -> KnowledgeExtractor:
    with seeded(0, "extractor"):
        return KnowledgeExtractor(foundation, **{"encoders": ENCODERS, "heads": HEADS, "width": 8, **changed}).eval()


def inputs(modality: str, seed: int = 0) -> torch.Tensor:
    return torch.randn(INPUTS[modality], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("modality", sorted(ENCODERS))
@torch.no_grad()
def test_tokens_are_normed_and_a_cases_own(modality: str) -> None:
    model, given = extractor(), inputs(modality)
    tokens = model.tokens(given, modality)
    assert tokens.shape == (2, TOKENS[modality], 8)
    torch.testing.assert_close(tokens.mean(dim=2), torch.zeros(2, TOKENS[modality]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.square().mean(dim=2), torch.ones(2, TOKENS[modality]), atol=1e-2, rtol=0)
    other = given.clone()
    other[1] = inputs(modality, 1)[1]
    changed = model.tokens(other, modality)
    torch.testing.assert_close(changed[0], tokens[0], atol=1e-5, rtol=0)
    assert not torch.allclose(changed[1], tokens[1], atol=1e-3)
    torch.testing.assert_close(model.tokens(given[:1], modality)[0], tokens[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_attention_of_a_series_is_over_time() -> None:
    model, given = extractor(), inputs("vitals")
    before = model.tokens(given, "vitals")
    late = given.clone()
    late[0, -1, :3] += 3.0
    after = model.tokens(late, "vitals")
    # The first of the four tokens is of hours 0 to 5: it hears of hour 23 through attention alone.
    assert not torch.allclose(after[0, 0], before[0, 0], atol=1e-5)
    assert torch.equal(after[1], before[1])
    shuffled = model.tokens(given[:, torch.arange(23, -1, -1)], "vitals").flip(1)
    assert not torch.allclose(shuffled, before, atol=1e-3)  # order in time is heard, too


@torch.no_grad()
def test_a_series_modality_reads_its_columns_alone() -> None:
    model, given = extractor(), inputs("vitals")
    changed = given.clone()
    changed[..., 3:] += 1.0
    assert torch.equal(model.tokens(given, "vitals"), model.tokens(changed, "vitals"))
    assert not torch.equal(model.tokens(given, "labs"), model.tokens(changed, "labs"))


@torch.no_grad()
def test_a_small_gray_image_is_enlarged_and_repeated() -> None:
    model = extractor()
    gray = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    tokens = model.tokens(gray, "image")
    assert tokens.shape == (2, 5, 8)
    resized = functional.interpolate(gray, size=(16, 16), mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(tokens, model.tokens(resized, "image"), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_images_tokens_are_class_token_and_quarters() -> None:
    encoder = extractor().encoders["image"]
    given = inputs("image")
    features = encoder.vit.forward_features(given)
    quarters = features[:, 1:].reshape(2, 2, 2, 2, 2, 8).mean(dim=(2, 4)).reshape(2, 4, 8)
    expected = functional.layer_norm(torch.cat([features[:, :1], quarters], dim=1), (8,))
    torch.testing.assert_close(encoder(given), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [3, 70, 1000])
@torch.no_grad()
def test_records_of_any_length(steps: int) -> None:
    assert SignalEncoder(8, leads=2, tokens=5).eval()(torch.randn(1, 2, steps * 25)).shape == (1, 5, 8)
    assert SeriesEncoder(8, columns=(0, 1), tokens=5).eval()(torch.randn(1, steps, 1)).shape == (1, 5, 8)


@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        (ImageEncoder(8, **VIT), (2, 2, 16, 16), "images have 2 channels, the encoder takes 1 or 3"),
        (ImageEncoder(8, **VIT), (2, 3), r"images must be \(cases, channels, height, width\), got \(2, 3\)"),
        (SignalEncoder(8), (2, 12), r"signals must be \(cases, 12 leads, samples\), got \(2, 12\)"),
        (SignalEncoder(8), (2, 3, 100), r"signals must be \(cases, 12 leads, samples\), got \(2, 3, 100\)"),
        (SeriesEncoder(8, columns=(2, 5)), (2, 24, 4), r"5 features or more\), got \(2, 24, 4\)"),
        (SeriesEncoder(8, columns=(2, 5)), (24, 5), r"5 features or more\), got \(24, 5\)"),
        (TableEncoder(8, features=4), (2, 5), r"rows must be \(cases, 4 features\), got \(2, 5\)"),
        (TableEncoder(8, features=4), (2, 3, 4), r"rows must be \(cases, 4 features\), got \(2, 3, 4\)"),
    ],
)
def test_wrong_shapes_are_told(encoder: torch.nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape))


@pytest.mark.parametrize("columns", [(2, 2), (3, 1), (-1, 2)])
def test_columns_that_are_none(columns: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="first below stop"):
        SeriesEncoder(8, columns=columns)


@torch.no_grad()
def test_logits_are_the_head_on_each_modalitys_mean_token() -> None:
    model, given = extractor(), inputs("vitals")
    means = [model.tokens(given, name).mean(dim=1) for name in ("vitals", "labs")]
    head = model.heads["kidney"]
    expected = functional.linear(
        functional.linear(torch.cat(means, dim=1), head[0].weight, head[0].bias).clamp(min=0),
        head[2].weight,
        head[2].bias,
    )
    assert expected.shape == (2, 2)
    torch.testing.assert_close(model(given, "kidney"), expected)
    assert model(inputs("image"), "lesion").shape == (2, 3)


def test_encoders_that_no_task_trains_do_not_travel() -> None:
    names = {".".join(name.split(".")[:2]) for name in exchanged_state(extractor())}
    assert names == {"encoders.image", "encoders.vitals", "encoders.labs", "heads.lesion", "heads.kidney"}
    everything = {
        **HEADS,
        "ecg": {"modalities": ["signal"], "answers": 2},
        "t": {"modalities": ["table"], "answers": 2},
    }
    assert len(exchanged_state(extractor(heads=everything))) == len(extractor(heads=everything).state_dict())


@torch.no_grad()
def test_the_image_encoder_starts_from_a_foundation_model() -> None:
    vit = load_foundation("consilia-vit", None, {})
    weights = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    vit.requires_grad_(False)
    model = extractor(
        vit, encoders={"image": {"kind": "image"}, "vitals": ENCODERS["vitals"], "labs": ENCODERS["labs"]}
    )
    own = model.encoders["image"].vit.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())
    assert all(parameter.requires_grad for parameter in model.encoders["image"].parameters())
    assert "encoders.image.vit.patch_embed.proj.weight" in exchanged_state(model)
    assert model.tokens(torch.randn(1, 1, 28, 28), "image").shape == (1, 10, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoders": {"image": {"kind": "sound"}}, "heads": {}}, "kind is one of .*'image'.*got 'sound'"),
        (
            {"heads": {"x": {"modalities": ["smell"], "answers": 2}}},
            r"task x reads \['smell'\], there are encoders for",
        ),
        ({"encoders": {**ENCODERS, "table": {"kind": "table", "features": 6, "leads": 2}}}, "leads"),
    ],
)
def test_arguments_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(
            "consilia.models.extractor.KnowledgeExtractor",
            {"encoders": ENCODERS, "heads": HEADS, "width": 8, **changed},
            seed=0,
        )


@pytest.mark.parametrize("images", [0, 2])
def test_a_foundation_model_is_for_one_image_encoder(images: int) -> None:
    encoders = {f"view-{place}": {"kind": "image"} for place in range(images)} | {"table": ENCODERS["table"]}
    with pytest.raises(ValueError, match="a foundation model is for the one image encoder, got"):
        extractor(load_foundation("consilia-vit", None, {}), encoders=encoders, heads={})


def test_what_is_no_vision_transformer_with_a_class_token() -> None:
    with pytest.raises(ValueError, match="expected a vision transformer of timm with a class token, got Linear"):
        ImageEncoder(8, vit=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="class token, got VisionTransformer"):
        ImageEncoder(8, **VIT, class_token=False, global_pool="avg")
