"""Augmentation: what decides it, what it does to an image, and that a mask moves along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from consilia.core.errors import ConfigError
from consilia.data.augmentation import Augmentation, AugmentationChoice, AugmentationConfig

CASES = [f"case-{i}" for i in range(12)]
IMAGES = torch.randn(12, 2, 20, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12)
CHOICE = TypeAdapter(AugmentationChoice)
PRESET = CHOICE.validate_python("images")


def augmented(config=PRESET, order=range(12), *, seed=1, site="a", round_number=1, epoch=0, images=IMAGES):
    """The augmented images in the order of CASES, whatever the order in which they came."""
    order = list(order)
    transform = Augmentation(config, seed, site).transform(round_number, epoch)
    found, labels = transform(images[order], LABELS[order], [CASES[i] for i in order])
    assert labels.tolist() == order
    result = torch.empty_like(images)
    result[order] = found
    return result


def test_pixels_do_not_depend_on_the_order_of_cases() -> None:
    whole = augmented()
    assert not torch.equal(whole, IMAGES)
    assert torch.equal(whole, augmented(order=reversed(range(12))))
    one, _ = Augmentation(PRESET, 1, "a").transform(1, 0)(IMAGES[7:8], LABELS[7:8], CASES[7:8])
    assert torch.equal(one[0], whole[7])


def test_pixels_do_not_depend_on_global_generators_and_leave_them_alone() -> None:
    first = augmented()
    torch.manual_seed(5)
    np.random.seed(5)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(augmented(), first)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.parametrize("other", [{"seed": 2}, {"site": "b"}, {"round_number": 2}, {"epoch": 1}])
def test_another_seed_site_round_or_epoch_gives_other_pixels(other) -> None:
    first, second = augmented(), augmented(**other)
    assert all(not torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_another_case_gives_other_pixels() -> None:
    same = augmented(images=IMAGES[:1].expand(12, -1, -1, -1).contiguous())
    assert len({tuple(image.flatten().tolist()) for image in same}) == 12


@pytest.mark.parametrize(("direction", "axis"), [("vertical", 1), ("horizontal", 2)])
def test_a_flip_is_torch_flip_of_about_half_the_cases(direction, axis) -> None:
    config = AugmentationConfig(flip=(direction,))
    epochs = [augmented(config, epoch=epoch) for epoch in range(20)]
    flipped = 0
    for images in epochs:
        for image, original in zip(images, IMAGES, strict=True):
            was = torch.equal(image, original.flip(axis))
            assert was or torch.equal(image, original)
            flipped += was
    assert 85 < flipped < 155  # of 240, 4.5 standard deviations on either side


def test_intensity_is_a_factor_and_an_offset_within_range() -> None:
    for image, original in zip(augmented(AugmentationConfig(intensity=0.2)), IMAGES, strict=True):
        # A line through all pixels, by least squares.
        factor, offset = np.polyfit(original.flatten().numpy(), image.flatten().numpy(), 1)
        assert 0.8 <= factor <= 1.2
        assert abs(offset) <= 0.2
        torch.testing.assert_close(image, float(factor) * original + float(offset), rtol=1e-4, atol=1e-4)


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass (B, 2), rows and columns, of (B, H, W)."""
    weight = images.double()
    rows, columns = (torch.arange(size).double() for size in images.shape[1:])
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(2) * rows).sum(1) / total, (weight.sum(1) * columns).sum(1) / total], 1)


def blocks(rows: int = 6, columns: int = 8) -> torch.Tensor:
    """A bright block off the centre of each image (12, 40, 40)."""
    images = torch.zeros(12, 40, 40)
    images[:, 14 : 14 + rows, 20 : 20 + columns] = 1
    return images


def test_a_shift_moves_the_centre_of_mass_within_range() -> None:
    before = blocks()
    after = augmented(AugmentationConfig(shift=0.2), images=before[:, None])[:, 0]
    moved = centres(after) - centres(before)
    assert moved.abs().max() <= 0.2 * 40 + 0.1
    assert moved.abs().max(0).values.min() > 1  # rows and columns both


def test_scale_changes_the_area_by_the_square() -> None:
    before = blocks()
    areas = augmented(AugmentationConfig(scale=0.2), images=before[:, None])[:, 0].sum((1, 2)) / before[0].sum()
    # Both sides by a factor from 0.8 to 1.2, or by its inverse.
    assert areas.min() > 0.8**2 * 0.95
    assert areas.max() < 1 / 0.8**2 * 1.05
    assert areas.max() - areas.min() > 0.1


def test_a_rotation_keeps_the_distance_from_the_middle() -> None:
    before = blocks(4, 4)
    after = augmented(AugmentationConfig(rotate=30), images=before[:, None])[:, 0]
    middle = torch.tensor([19.5, 19.5]).double()
    start, end = centres(before) - middle, centres(after) - middle
    torch.testing.assert_close(end.norm(dim=1), start.norm(dim=1), rtol=0.02, atol=0.05)
    cosine = (start * end).sum(1) / start.norm(dim=1) / end.norm(dim=1)
    degrees = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    assert degrees.max() <= 31
    assert degrees.max() > 5


def test_a_mask_moves_with_its_image() -> None:
    masks = blocks(10, 12).to(torch.uint8)
    config = AugmentationConfig(flip=("horizontal", "vertical"), shift=0.1, rotate=20, scale=0.1)
    images, moved = Augmentation(config, 1, "a").transform(1, 0)(masks[:, None].float(), masks, CASES)
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) == {0, 1}
    assert not torch.equal(moved, masks)
    # The image is the mask: where interpolation leaves no doubt they must agree.
    sure = (images[:, 0] < 0.25) | (images[:, 0] > 0.75)
    assert torch.equal(moved[sure].float(), images[:, 0][sure].round())
    assert sure.float().mean() > 0.95


def test_intensity_leaves_masks_alone() -> None:
    masks = blocks().to(torch.uint8)
    config = AugmentationConfig(intensity=0.5)
    images, same = Augmentation(config, 1, "a").transform(1, 0)(masks[:, None].float(), masks, CASES)
    assert torch.equal(same, masks)
    assert not torch.equal(images[:, 0], masks.float())


def test_results_are_plain_tensors_of_the_same_type() -> None:
    images, labels = Augmentation(PRESET, 1, "a").transform(1, 0)(IMAGES, LABELS, CASES)
    assert type(images) is torch.Tensor
    assert (images.dtype, images.shape) == (IMAGES.dtype, IMAGES.shape)
    assert labels is LABELS


def test_what_is_no_image_is_refused_or_passes_unchanged() -> None:
    table = torch.randn(12, 5)
    augmentation = Augmentation(PRESET, 1, "a")
    with pytest.raises(ConfigError, match=r"site a have the shape \(5,\) each: set training.augmentation to null"):
        augmentation.check(table)
    augmentation.check(IMAGES)
    assert augmentation.transform(1, 0)(table, LABELS, CASES)[0] is table


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("photos", "expected null, images or a mapping"),
        ({}, "changes nothing"),
        ({"rotate": 181}, "less than or equal to 180"),
        ({"shift": float("nan")}, "shift"),
        ({"flip": ["horizontal", "horizontal"]}, "each direction once"),
        ({"blur": 1}, "unknown key; expected one of flip, intensity, rotate, scale, shift"),
    ],
)
def test_a_wrong_configuration_is_named(value, message) -> None:
    with pytest.raises(ValidationError, match=message):
        CHOICE.validate_python(value)


def test_null_and_the_preset() -> None:
    assert CHOICE.validate_python(None) is None
    assert AugmentationConfig(flip=("horizontal",), shift=0.1, rotate=15, scale=0.1, intensity=0.1) == PRESET
    assert CHOICE.validate_python(CHOICE.dump_python(PRESET, mode="json")) == PRESET
