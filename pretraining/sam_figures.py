"""What consilia-sam is worth: Dice with a tight box and with the whole image as box, on cases it has not seen.

    python -m pretraining.sam_figures --data $CONSILIA_DATA [--model FOLDER] [--out figures.json]

Phantoms of new seeds and scanners, and BUS-BRA outside the public pool. The ellipse that fills the tight box is the
baseline: a model that has learnt nothing but the box gets that far.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from consilia.core.files import write_json
from consilia.data.allowed import FoundationFolder
from consilia.models.foundation import EMBEDDED_FOLDER, foundation_digest, read_foundation
from consilia.simulation.synthetic import KINDS, draw_phantoms
from pretraining.corpus import busbra
from pretraining.sam import SIZE, tight_boxes

COUNT, SEED, SCANNER = 100, 5, 900


def dice(found: Tensor, truth: Tensor) -> float:
    """Mean Dice over images; masks (N, H, W) bool."""
    both = (found & truth).flatten(1).sum(1)
    return float((2 * both / (found.flatten(1).sum(1) + truth.flatten(1).sum(1)).clamp(min=1)).mean())


def ellipses(boxes: Tensor) -> Tensor:
    """The ellipse that fills each box (N, 4), as masks (N, SIZE, SIZE) bool."""
    axis = torch.arange(SIZE) + 0.5
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    x, y = ((axis - centre[:, i, None]) / half[:, i, None] for i in (0, 1))
    return x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1


@torch.no_grad()
def metrics(model: Any, pixels: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Dice by prompt for images uint8 (N, H, W[, 3]) and masks (N, H, W)."""
    truth = torch.from_numpy(masks > 127)
    boxes = tight_boxes(truth[:, None].float())
    whole = torch.tensor([0.0, 0.0, SIZE, SIZE]).expand_as(boxes)
    images = torch.from_numpy(pixels).float().div(127.5).sub(1)
    images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)
    result = {}
    for name, asked in (("tight box", boxes), ("whole image", whole)):
        found = []
        for part, box in zip(images.split(32), asked.split(32), strict=True):
            low = model(pixel_values=part, input_boxes=box[:, None], multimask_output=False).pred_masks[:, 0]
            found.append(F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0] > 0)
        result[name] = dice(torch.cat(found), truth)
    result["ellipse in the box"] = dice(ellipses(boxes), truth)
    return result


def main() -> None:
    """Print the metrics and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER / "consilia-sam")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = FoundationFolder(folder=options.model.absolute(), digest=foundation_digest(options.model))
    model = read_foundation(place)
    result: dict[str, Any] = {"model_digest": place.digest, "dice": {}}
    for kind in KINDS:
        drawn = draw_phantoms(kind, COUNT, seed=SEED, scanner=SCANNER, size=SIZE)
        result["dice"][kind] = metrics(model, drawn.images, drawn.masks)
    real = busbra(options.data, pooled=False)
    assert real.masks is not None
    result["dice"]["BUS-BRA outside the pool"] = metrics(model, real.pixels, real.masks)
    if options.out is not None:
        write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
