"""Pictures of cases, read back as pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from consilia.report.pictures import attended, outlined, thumbnail


def opened(address: str) -> Image.Image:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_thumbnail_is_the_image_stretched() -> None:
    address = thumbnail(torch.tensor([[[-1.0, 0.0], [1.0, -1.0]]]))
    assert np.asarray(opened(address)).tolist() == [[0, 128], [255, 0]]


def test_large_colour_images_are_reduced() -> None:
    address = thumbnail(torch.rand(3, 600, 300))
    picture = opened(address)
    assert (picture.mode, picture.size) == ("RGB", (112, 224))


def test_outlines_lie_on_the_edges_of_the_masks() -> None:
    truth, found = torch.zeros(32, 64), torch.zeros(32, 64)
    truth[8:24, 8:24] = 1
    found[8:24, 40:56] = 1
    picture = opened(outlined(torch.zeros(1, 32, 64), truth, found)).convert("RGB")
    assert picture.size == (320, 160)  # as wide as tall as the image
    drawn = np.asarray(picture).astype(int)
    # 320 dots for the 66 columns that are shown: columns 7.5 to 23.5 lie around dots 44 and 121.
    white = np.argwhere(drawn.min(axis=2) > 200)
    assert abs(white[:, 1].min() - 44) <= 3
    assert abs(white[:, 1].max() - 121) <= 3
    orange = np.argwhere((drawn[..., 0] > 200) & (drawn[..., 2] < 120))
    assert orange[:, 1].min() > 160  # the prediction is in the right half
    # Without colour: the true line is unbroken, the other has gaps.
    middle = len(drawn) // 2
    assert len(white[white[:, 0] == middle]) > 0
    assert 0.3 < len(orange) / len(white) < 0.9


def test_the_box_that_was_given_is_dotted_in_blue() -> None:
    nothing = torch.zeros(32, 64)
    picture = opened(outlined(torch.zeros(1, 32, 64), nothing, nothing, torch.tensor([8.0, 4.0, 39.0, 27.0])))
    drawn = np.asarray(picture.convert("RGB")).astype(int)
    blue = np.argwhere((drawn[..., 2] > 180) & (drawn[..., 0] < 150))
    # 320 dots for 66 columns: the box lies around columns 7.5 and 39.5, dots 44 and 199.
    assert abs(blue[:, 1].min() - 44) <= 3
    assert abs(blue[:, 1].max() - 199) <= 3


def test_an_empty_prediction_has_no_line_and_colour_images_work() -> None:
    picture = opened(outlined(torch.zeros(3, 16, 16), torch.zeros(16, 16), torch.zeros(16, 16))).convert("L")
    assert np.asarray(picture).max() == 0


def test_attention_darkens_where_it_is_low() -> None:
    attention = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    image = torch.linspace(0, 1, 32)[:, None].expand(1, 32, 32)
    shown = np.asarray(opened(attended(image, attention)).convert("L")).astype(float)
    bottom = shown[-20]  # the brightest rows of the image
    assert bottom[-20] > 200
    assert bottom[20] < 0.4 * bottom[-20]  # a quarter of the light is left


def test_pictures_are_the_same_each_time() -> None:
    image, mask = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)), torch.eye(20)
    assert outlined(image, mask, mask) == outlined(image, mask, mask)
