"""Fed-GPL's classifier against the specification's counts and formulas, worked out here in NumPy-like loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consilia.models.exchange import exchanged_state
from consilia.models.foundation import empty_foundation
from consilia.models.prompt_generator import PromptGenerator, prompt_diversity
from consilia.models.prompted_vit import PromptedViT
from tests.models.support import SMALL_VIT, small_vit


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize(("length", "classes", "expected"), [(10, 5, 7_098_826), (10, 2, 7_096_519), (2, 5, 2_367_946)])
def test_vit_b_16_trains_exactly_the_published_number_of_parameters(length: int, classes: int, expected: int) -> None:
    backbone = empty_foundation({"architecture": "vit_base_patch16_224"})
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 85_798_656
    model = PromptedViT(backbone, classes, prompt_length=length)
    assert trainable(model) == expected
    assert sum(tensor.numel() for tensor in exchanged_state(model).values()) == expected


def by_hand(generator: PromptGenerator, patches: Tensor) -> Tensor:
    """Specification 2.2 and 2.3, one image, one query, one head at a time; no shared code with the module."""
    shared = generator.prompt.reshape(-1, generator.prompt.shape[-1])
    if generator.variant == "normalised":
        shared = (shared - shared.mean(1, keepdim=True)) / (shared.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    keys = shared @ generator.key_projection.weight.T + generator.key_projection.bias
    values = shared @ generator.value_projection.weight.T + generator.value_projection.bias
    side = shared.shape[1] // generator.heads
    prompts = []
    for image in patches:
        if generator.variant == "normalised":
            image = (image - image.mean(0)) / (image.std(0, correction=0) + 1e-5)
        rows = []
        for unit in range(generator.width):
            query = sum(generator.query_projection.weight[unit, t] * image[t] for t in range(len(image)))
            query = query + generator.query_projection.bias[unit]
            pieces = []
            for head in range(generator.heads):
                place = slice(head * side, (head + 1) * side)
                weights = torch.stack([(query[place] * key[place]).sum() for key in keys]) / math.sqrt(side)
                pieces.append(weights.softmax(0) @ values[:, place])
            context = torch.cat(pieces)
            rows.append(generator.output_projection.weight @ context + generator.output_projection.bias)
        prompts.append(generator.prompt + torch.stack(rows).reshape(generator.prompt.shape))
    return torch.stack(prompts)


@pytest.mark.parametrize("variant", ["released", "normalised"])
@pytest.mark.parametrize(("units", "width"), [(3, 1), (2, 4), (1, 4)])
def test_generator_is_the_formula(variant: Any, units: int, width: int) -> None:
    torch.manual_seed(1)
    generator = PromptGenerator(tokens=9, dim=12, units=units, heads=3, fan=16, width=width, variant=variant)
    torch.nn.init.normal_(generator.prompt)  # large enough to tell softmax weights apart
    patches = torch.randn(4, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(generator(patches), by_hand(generator, patches), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_prompt_starts_within_the_bound_of_the_image_side() -> None:
    torch.manual_seed(0)
    model = PromptedViT(empty_foundation({"architecture": "vit_base_patch16_224"}), 2)
    bound = math.sqrt(6 / (3 * 224 * 224 + 768))
    assert bound == pytest.approx(0.0063, abs=5e-5)
    largest = float(model.prompt_generator.prompt.detach().abs().max())
    assert 0.99 * bound < largest <= bound


def test_forward_is_the_backbone_with_prompts_last() -> None:
    """Z_0 = [cls + pos; E + pos; P(x)], all blocks, norm, class token, head: written out with timm's own modules."""
    torch.manual_seed(2)
    backbone = small_vit()
    nn.init.normal_(backbone.pos_embed)
    model = PromptedViT(backbone, 3, prompt_length=4).eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        patches = backbone.patch_embed(images)
        classes = backbone.cls_token.expand(5, -1, -1) + backbone.pos_embed[:, :1]
        states = torch.cat(
            [classes, patches + backbone.pos_embed[:, 1:], model.prompt_generator(patches).flatten(1, 2)], 1
        )
        for block in backbone.blocks:
            states = block(states)
        expected = model.head(backbone.norm(states)[:, 0])
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)


def test_without_output_it_is_vpt_shallow() -> None:
    """Acceptance (d): O forced to zero leaves the shared prompt alone."""
    torch.manual_seed(3)
    backbone = small_vit()
    ours = PromptedViT(backbone, 2, prompt_length=4).eval()
    vpt = PromptedViT(backbone, 2, prompt_length=4, generator="none").eval()
    with torch.no_grad():
        ours.prompt_generator.output_projection.weight.zero_()
        ours.prompt_generator.output_projection.bias.zero_()
        vpt.prompt_generator.prompt.copy_(ours.prompt_generator.prompt)
        vpt.head.load_state_dict(ours.head.state_dict())
        images = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(ours(images), vpt(images), rtol=0, atol=0)
    # n prompts of d channels, and the head.
    assert trainable(vpt) == 4 * 24 + 2 * 24 + 2


@pytest.mark.parametrize("variant", ["released", "normalised", "none"])
def test_gradient_reaches_what_is_trained_and_nothing_else(variant: Any) -> None:
    torch.manual_seed(4)
    model = PromptedViT(small_vit(), 2, prompt_length=4, generator=variant).train()
    assert not model.backbone.training
    loss = nn.functional.cross_entropy(model(torch.randn(6, 3, 32, 32)), torch.tensor([0, 1, 0, 1, 1, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            assert parameter.grad is None, name
        # A bias of all keys shifts every attention logit alike, so its gradient is zero but for rounding.
        elif "key_projection.bias" not in name:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_individuality() -> None:
    """By hand: two images, prompts (0, 2) and (4, 2): variances across images 4 and 0, overall 2."""
    prompts = torch.tensor([[[[0.0], [2.0]]], [[[4.0], [2.0]]]])
    assert prompt_diversity(prompts) == pytest.approx(math.sqrt((4 + 0) / 2) / math.sqrt(2))
    assert prompt_diversity(prompts[:1]) is None
    assert prompt_diversity(torch.ones(3, 1, 2, 1)) == 0.0


def test_prompts_differ_between_images_and_after_a_step() -> None:
    """Acceptance (b), with the tolerance that the released initialisation needs."""
    torch.manual_seed(5)
    ratios = {}
    for variant in ("released", "normalised"):
        model = PromptedViT(small_vit(), 2, prompt_length=4, generator=variant)  # type: ignore[arg-type]
        images = torch.randn(8, 3, 32, 32)
        before = model.prompt_generator(model.patches(images)).detach()
        ratios[variant] = prompt_diversity(before)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1] * 4)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        after = model.prompt_generator(model.patches(images)).detach()
        assert float((after - before).abs().max()) > 1e-4
    assert 0 < ratios["released"] < 0.001
    assert ratios["normalised"] > 0.05


def test_one_prompt_cannot_depend_on_the_image_in_the_released_vit() -> None:
    """Softmax over one prompt token is 1 whatever the query (specification 8, note)."""
    torch.manual_seed(6)
    model = PromptedViT(small_vit(), 2, prompt_length=1)
    prompts = model.prompt_generator(model.patches(torch.randn(4, 3, 32, 32)))
    assert float(prompts.detach().std(dim=0).max()) < 1e-7


def test_attention_over_patches() -> None:
    model = PromptedViT(small_vit(), 2, prompt_length=4).eval()
    shown = model.attention(torch.randn(3, 1, 32, 32))
    assert shown.shape == (3, 4, 4)
    assert bool((shown >= 0).all())
    # The rest goes to the class token and the prompts themselves.
    assert bool((shown.sum(dim=(1, 2)) < 1).all())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"generator must be one of .*'bogus'"):
        PromptedViT(small_vit(), 2, generator="bogus")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one prompt unit"):
        PromptedViT(small_vit(), 2, prompt_length=0)


def test_blocks_of_another_kind_go_the_long_way() -> None:
    """Average pooling reads every token: no shortcut may be taken."""
    torch.manual_seed(7)
    backbone = empty_foundation(
        {**SMALL_VIT, "model_args": {**SMALL_VIT["model_args"], "global_pool": "avg", "class_token": True}}
    )
    model = PromptedViT(backbone, 2, prompt_length=2).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        patches = backbone.patch_embed(images)
        states = torch.cat([backbone._pos_embed(patches), model.prompt_generator(patches).flatten(1, 2)], 1)
        normed = backbone.norm(backbone.blocks(states)[:, :17])
        expected = model.head(backbone.fc_norm(normed[:, 1:].mean(dim=1)))
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)
