"""Ellipses in boxes, drawn by hand and held against the area that they should have."""

from __future__ import annotations

import math

import torch

from consilia.evaluation.shapes import ellipses


def drawn(*lines: str) -> torch.Tensor:
    return torch.tensor([[letter == "#" for letter in line] for line in lines])


def test_small_ellipses_by_hand() -> None:
    found = ellipses(torch.tensor([[1.0, 0.0, 4.0, 2.0], [2.0, 1.0, 2.0, 1.0]]), 4, 6)
    # Box 1: middle (2.5, 1), half sides 2 and 1.5. Row 1: (1.5 / 2)^2 < 1. Row 0: (1 / 1.5)^2 = .44, and x = 2, 3 add
    # (.5 / 2)^2 = .06, x = 1, 4 add (1.5 / 2)^2 = .56, which is 1.007 > 1.
    assert torch.equal(found[0], drawn("..##..", ".####.", "..##..", "......"))
    assert torch.equal(found[1], drawn("......", "..#...", "......", "......"))  # one pixel
    assert found.dtype == torch.bool


def test_area_is_pi_a_b_and_the_box_is_touched() -> None:
    mask = ellipses(torch.tensor([[20.0, 30.0, 219.0, 149.0]]), 200, 256)[0]
    assert abs(int(mask.sum()) / (math.pi * 100 * 60) - 1) < 0.002
    down, across = mask.nonzero().unbind(dim=1)
    assert (across.min(), down.min(), across.max(), down.max()) == (20, 30, 219, 149)


def test_parts_outside_the_image_are_cut() -> None:
    whole = ellipses(torch.tensor([[4.0, 4.0, 11.0, 11.0]]), 16, 16)[0]
    cut = ellipses(torch.tensor([[-4.0, -4.0, 3.0, 3.0]]), 8, 8)[0]
    assert torch.equal(cut[:4, :4], whole[8:12, 8:12])
    assert not cut[4:].any()
