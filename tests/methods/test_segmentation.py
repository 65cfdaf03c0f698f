"""Losses and prompts of segmentation, against values worked out by hand and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from consilia.methods.tasks.segmentation import jittered, mask_loss, tight_boxes, training_prompts, whole_image


def test_mask_loss_is_bce_plus_dice_per_image() -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 3, 4)), rng.integers(0, 2, size=(2, 3, 4))
    p = 1 / (1 + np.exp(-logits))
    losses = []
    for shown, truth in zip(p, masks, strict=True):
        bce = -(truth * np.log(shown) + (1 - truth) * np.log(1 - shown)).mean()
        losses.append(bce + 1 - (2 * (shown * truth).sum() + 1e-5) / (shown.sum() + truth.sum() + 1e-5))
    got = mask_loss(torch.tensor(logits), torch.tensor(masks, dtype=torch.uint8))
    assert float(got) == pytest.approx(np.mean(losses), rel=1e-9)


def test_an_empty_mask_has_a_finite_loss() -> None:
    loss = mask_loss(torch.full((1, 4, 4), -30.0), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_boxes_by_hand() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.uint8)
    masks[0, 1:4, 2:7] = 1  # rows 1..3, columns 2..6
    masks[1, 5, 0] = 1
    assert tight_boxes(masks).tolist() == [[2, 1, 6, 3], [0, 5, 0, 5], [0, 0, 7, 5]]
    assert whole_image(masks).tolist() == [[0, 0, 7, 5]] * 3


def test_jitter_stays_within_a_tenth_and_goes_by_case() -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 50.0]]).expand(200, 4)
    moved = jittered(boxes, tuple(f"case-{i}" for i in range(200)), 128) - boxes
    sides = torch.tensor([40.0, 20.0, 40.0, 20.0])
    assert bool((moved.abs() <= 0.1 * sides).all())
    # Uniform on +-0.1: standard deviation 0.1 / sqrt 3 of the side.
    assert (moved / sides).std(dim=0).tolist() == pytest.approx([0.1 / 3**0.5] * 4, rel=0.15)
    again = jittered(boxes[:1], ("case-7",), 128) - boxes[:1]
    torch.testing.assert_close(again[0], moved[7])
    at_the_edge = jittered(torch.tensor([[0.0, 0.0, 127.0, 127.0]]), ("case-1",), 128)
    assert float(at_the_edge.min()) >= 0
    assert float(at_the_edge.max()) <= 127


def test_training_points_lie_where_their_label_says() -> None:
    masks = torch.zeros(40, 16, 16, dtype=torch.uint8)
    masks[:, 4:9, 3:12] = 1
    prompts = training_prompts(masks, torch.Generator().manual_seed(0))
    assert prompts.points is not None
    assert prompts.point_labels is not None
    for mask, points, labels in zip(masks, prompts.points, prompts.point_labels, strict=True):
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            assert label == -1 or int(mask[int(y), int(x)]) == label
    assert prompts.boxes.tolist() == [[3, 4, 11, 8]] * 40


def test_dropout_rates_are_the_published_ones() -> None:
    """12.5 % of the points, 9.4 % of the boxes, never both (specification 3.3)."""
    masks = torch.zeros(8000, 2, 2, dtype=torch.uint8)
    masks[:, 0, 0] = 1
    prompts = training_prompts(masks, torch.Generator().manual_seed(1))
    assert prompts.point_labels is not None
    assert prompts.has_box is not None
    no_points = prompts.point_labels[:, 0] == -1
    assert float(no_points.float().mean()) == pytest.approx(0.125, abs=0.012)
    assert float((~prompts.has_box).float().mean()) == pytest.approx(0.5 * 0.75 * 0.25, abs=0.012)
    assert not bool((no_points & ~prompts.has_box).any())


def test_masks_without_a_region_have_no_point_there() -> None:
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).to(torch.uint8)
    labels = torch.stack([training_prompts(masks, torch.Generator().manual_seed(s)).point_labels for s in range(20)])
    assert set(labels[:, 0, 0].tolist()) == {-1}  # nothing inside an empty mask
    assert set(labels[:, 1, 1].tolist()) == {-1}  # nothing outside a full one
    assert 1 in labels[:, 1, 0].tolist()
