"""Fed-GPL's segmenter: the specification's counts, transformers' own SAM as the reference, where gradient goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from consilia.models.exchange import exchanged_state
from consilia.models.foundation import empty_foundation
from consilia.models.prompted_sam import PromptedSam
from consilia.models.sam_segmenter import MaskPrompts, SamSegmenter
from consilia.models.tuned import TunedSam
from tests.models.support import small_sam

BOXES = torch.tensor([[8.0, 4.0, 50.0, 40.0], [0.0, 0.0, 63.0, 63.0], [20.0, 30.0, 22.0, 60.0]])
UNUSED = ("iou_prediction_head", "output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2", "hypernetworks_mlps.3")
"""Of the mask decoder, what only the first pass (without gradient) uses: three of four masks, and their quality."""


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "expected"), [(1, 6_141_476), (2, 6_781_220)])
def test_sam_vit_b_trains_exactly_the_published_number_of_parameters(rows: int, expected: int) -> None:
    # transformers counts 256 positional constants of SAM among its parameters.
    sam = empty_foundation({"model_type": "sam"})
    assert sum(parameter.numel() for parameter in sam.parameters()) == 93_735_472 + 256
    model = PromptedSam(sam, prompt_rows=rows)
    assert trainable(model) == expected
    assert sum(tensor.numel() for tensor in exchanged_state(model).values()) == expected
    assert trainable(model.sam.mask_decoder) == 4_058_340


def test_without_prompt_rows_it_is_transformers_sam() -> None:
    torch.manual_seed(0)
    sam = small_sam()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        reference = sam(pixel_values=images, input_boxes=BOXES[:, None], multimask_output=False).pred_masks[:, 0]
        expected = nn.functional.interpolate(reference, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(SamSegmenter(sam)(images, MaskPrompts(BOXES)), expected, rtol=1e-5, atol=1e-6)


def test_rows_go_below_the_map_through_all_layers_and_are_cut() -> None:
    """The encoder written out with transformers' own layers."""
    torch.manual_seed(1)
    model = PromptedSam(small_sam(), prompt_rows=2)
    encoder = model.sam.vision_encoder
    nn.init.normal_(encoder.pos_embed)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        patches = encoder.patch_embed(images)
        rows = model.prompt_generator(patches.flatten(1, 2))
        assert rows.shape == (2, 2, 8, 32)
        states = torch.cat([patches + encoder.pos_embed, rows], dim=1)
        for layer in encoder.layers:
            states = layer(states)
        torch.testing.assert_close(model.encode(images), encoder.neck(states[:, :8]))


def test_the_second_pass_is_shown_the_best_mask_of_the_first() -> None:
    torch.manual_seed(2)
    sam = small_sam()
    images = torch.randn(2, 3, 64, 64)
    boxes = BOXES[:2]
    with torch.no_grad():
        first = sam(pixel_values=images, input_boxes=boxes[:, None], multimask_output=True)
        best = first.iou_scores[:, 0].argmax(dim=1)
        shown = torch.stack([first.pred_masks[i, 0, best[i]] for i in range(2)])
        second = sam(
            pixel_values=images, input_boxes=boxes[:, None], input_masks=shown[:, None], multimask_output=False
        ).pred_masks[:, 0]
        expected = nn.functional.interpolate(second, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
        got = SamSegmenter(sam)(images, MaskPrompts(boxes), refine=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["released", "normalised", "none"])
def test_gradient_reaches_what_is_trained_and_nothing_else(variant: Any) -> None:
    torch.manual_seed(3)
    model = PromptedSam(small_sam(), generator=variant).train()
    points = torch.tensor([[[10.0, 10.0], [40.0, 50.0]]]).expand(3, -1, -1)
    prompts = MaskPrompts(BOXES, points, torch.tensor([[1, 0], [1, 0], [-1, -1]]), torch.tensor([True, False, True]))
    model(torch.randn(3, 3, 64, 64), prompts, refine=True).square().mean().backward()
    for name, parameter in model.named_parameters():
        if not (name.startswith("prompt_generator.") or ".mask_decoder." in name):
            assert parameter.grad is None, name
        elif not any(part in name for part in (*UNUSED, "key_projection.bias", "k_proj.bias")):
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_a_missing_box_or_point_is_no_point() -> None:
    """One prompt per image within a batch gives what the image gets alone."""
    torch.manual_seed(4)
    model = SamSegmenter(small_sam())
    images = torch.randn(2, 3, 64, 64)
    points = torch.tensor([[[10.0, 12.0], [40.0, 50.0]], [[5.0, 5.0], [60.0, 60.0]]])
    labels = torch.tensor([[1, 0], [-1, -1]])
    has_box = torch.tensor([False, True])
    with torch.no_grad():
        both = model(images, MaskPrompts(BOXES[:2], points, labels, has_box))
        for i in range(2):
            one = slice(i, i + 1)
            alone = model(images[one], MaskPrompts(BOXES[one], points[one], labels[one], has_box[one]))
            torch.testing.assert_close(both[one], alone, rtol=1e-4, atol=1e-6)
        other_box = model(images, MaskPrompts(BOXES[1:3], points, labels, has_box))
    # The first image's box is not looked at, the second one's is.
    torch.testing.assert_close(both[0], other_box[0], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(both[1], other_box[1], atol=1e-4)


def test_attention_over_the_map() -> None:
    torch.manual_seed(5)
    model = PromptedSam(small_sam())
    images = torch.randn(3, 1, 64, 64)
    shown = model.attention(images)
    assert shown.shape == (3, 8, 8)
    assert bool((shown.sum(dim=(1, 2)) < 1).all())
    # Without queries and keys attention is uniform over the 72 tokens, 64 of which are patches.
    model.sam.vision_encoder.layers[-1].attn.qkv.weight.data.zero_()
    model.sam.vision_encoder.layers[-1].attn.qkv.bias.data.zero_()
    torch.testing.assert_close(model.attention(images), torch.full((3, 8, 8), 1 / 72))


def test_only_the_decoder_may_say_that_its_encoder_is_frozen() -> None:
    torch.manual_seed(6)
    images = torch.randn(2, 3, 64, 64)
    prompts = MaskPrompts(BOXES[:2])
    decoder = TunedSam(small_sam(), tune="decoder")
    assert decoder.encoder_is_frozen
    assert not any(parameter.requires_grad for parameter in decoder.sam.vision_encoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(decoder.decode(decoder.encode(images), prompts), decoder(images, prompts))
    for other in (PromptedSam(small_sam()), TunedSam(small_sam(), tune="all"), TunedSam(small_sam(), tune="lora")):
        assert not other.encoder_is_frozen
    # Never learnt: the random frequencies of the positions, and SAM's prompt encoder.
    whole = TunedSam(small_sam(), tune="all")
    frozen = {name for name, parameter in whole.named_parameters() if not parameter.requires_grad}
    assert all("prompt_encoder" in name or "positional_embedding" in name for name in frozen)


def test_another_image_size_is_refused() -> None:
    with pytest.raises(ValueError, match="SAM takes images of 64 x 64, got 32 x 32"):
        PromptedSam(small_sam())(torch.randn(1, 1, 32, 32), MaskPrompts(BOXES[:1]))
