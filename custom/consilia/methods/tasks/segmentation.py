"""Segmentation by a promptable model (SAM): prompts drawn from the truth, BCE + Dice loss, three prompt settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilia.core.determinism import generator
from consilia.data.dataset import Split
from consilia.evaluation.segmentation import case_metrics, segmentation_metrics
from consilia.methods.tasks.base import Network, Predictions, Task
from consilia.models.sam_segmenter import MaskPrompts

JITTER = 0.1
"""Each edge of the jittered box moves by up to this share of the box's side."""

PROMPTS = ("box", "image", "jitter")
"""The ways in which a model is asked."""

SMOOTH = 1e-5
NO_POINT = -1


class Segmentation(Task):
    """One structure per image, found by a model that is shown where to look.

    A model is asked three ways, which are never mixed: ``box`` is the truth's tight box (as in the paper: an oracle),
    ``image`` the whole image (no help), ``jitter`` the tight box with its edges moved by up to a tenth.
    """

    most = 32

    def loss(
        self,
        network: Network,
        inputs: Tensor,
        labels: Tensor,
        draw: torch.Generator,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """L_seg of specification 3.3 on the second of two decoder passes, mean over the batch."""
        prompts = training_prompts(labels, draw)
        return mask_loss(network(inputs, prompts, refine=True), labels)

    def prediction_shape(self, labels: Tensor, classes: int) -> tuple[int, ...]:
        """(N, H, W)."""
        return tuple(labels.shape)

    def fewest_cases(self, split: Split, classes: int) -> int:
        """The cases with a structure, which the metrics are about."""
        return int(split.labels.flatten(1).any(1).sum())

    def predict(self, network: Network, inputs: Tensor, labels: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
        """A mask (N, H, W) bool for each prompt setting."""
        codes = network.encode(inputs)
        return {
            name: (network.decode(codes, MaskPrompts(boxes)) > 0).cpu()
            for name, boxes in shown_boxes(labels, case_ids).items()
        }

    def empty_predictions(self, split: Split, classes: int) -> dict[str, Tensor]:
        """No masks."""
        return {name: torch.zeros_like(split.labels, dtype=torch.bool) for name in PROMPTS}

    def metrics(
        self, predictions: Predictions, split: Split, *, slow: bool, threshold: float | None = None
    ) -> dict[str, Any] | None:
        """Dice and IoU; if ``slow`` also HD95, number of patients and intervals.

        See :func:`~consilia.evaluation.segmentation.segmentation_metrics`.
        """
        patients = split.patients if slow else None
        return segmentation_metrics(predictions, split.labels, spacing=split.spacing, distances=slow, patients=patients)

    def by_case(self, predictions: Predictions, split: Split) -> dict[str, Tensor]:
        """``dice`` with the tight box, NaN of a case without a lesion, and of every other prompt ``dice_PROMPT``."""
        found = {
            name: case_metrics(masks, split.labels, spacing=None, distances=False).dice
            for name, masks in predictions.items()
        }
        return {"dice" if name == "box" else f"dice_{name}": values for name, values in found.items()}


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """BCE + 1 - (2 sum(p g) + eps) / (sum p + sum g + eps) per image, eps = 1e-5, mean over images (specification 3.3).

    Args:
        logits: (B, H, W); p = sigmoid(logits).
        masks: g, (B, H, W), 0 or 1.
    """
    truth = masks.to(logits.dtype)
    crossed = functional.binary_cross_entropy_with_logits(logits, truth)
    shown = logits.sigmoid()
    overlap = (shown * truth).sum(dim=(1, 2))
    total = shown.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
    return crossed + (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def tight_boxes(masks: Tensor) -> Tensor:
    """(B, H, W) -> (B, 4): x1, y1, x2, y2 of the foreground's outermost pixels; the whole image for an empty mask."""
    boxes = []
    for columns, rows in zip(masks.amax(dim=1), masks.amax(dim=2), strict=True):
        across, down = columns.nonzero()[:, 0], rows.nonzero()[:, 0]
        if len(across):
            boxes.append([float(across[0]), float(down[0]), float(across[-1]), float(down[-1])])
        else:
            boxes.append([0.0, 0.0, masks.shape[2] - 1.0, masks.shape[1] - 1.0])
    return torch.tensor(boxes, device=masks.device).reshape(-1, 4)


def shown_boxes(masks: Tensor, case_ids: tuple[str, ...]) -> dict[str, Tensor]:
    """The box (B, 4) that a model is shown of each case in each prompt setting."""
    truth = tight_boxes(masks)
    return {"box": truth, "image": whole_image(masks), "jitter": jittered(truth, case_ids, masks.shape[-1])}


def whole_image(masks: Tensor) -> Tensor:
    """(B, H, W) -> (B, 4): the box around everything."""
    height, width = masks.shape[1:]
    return torch.tensor([[0.0, 0.0, width - 1.0, height - 1.0]], device=masks.device).expand(len(masks), 4)


def jittered(boxes: Tensor, case_ids: tuple[str, ...], size: int) -> Tensor:
    """Boxes (B, 4) with each edge moved by up to a tenth of the box's side, within the image.

    Drawn from the case's id alone, so that every model and every round is shown the same box.
    """
    shifts = torch.stack([2 * torch.rand(4, generator=generator(0, "jitter", case)) - 1 for case in case_ids])
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + JITTER * sides * shifts.to(boxes.device)).clamp(0, size - 1)


def training_prompts(masks: Tensor, draw: torch.Generator) -> MaskPrompts:
    """One point inside, one outside and the tight box of each mask, with the released method's dropout.

    With probability 1/2 nothing is dropped; else the points with probability 1/4; else (a fresh draw) the box with
    probability 1/4. So the points are dropped in 12.5 % of the cases, the box in 9.4 % (specification 3.3).
    """
    chance = torch.rand(len(masks), 3, generator=draw)
    dropping = chance[:, 0] < 0.5
    no_points = dropping & (chance[:, 1] < 0.25)
    no_box = dropping & ~no_points & (chance[:, 2] < 0.25)
    points, labels = [], []
    for mask, away in zip(masks, no_points.tolist(), strict=True):
        drawn = [_point(mask == value, draw) for value in (1, 0)]
        points.append(torch.tensor([point or (0.0, 0.0) for point in drawn]))
        labels.append(
            [NO_POINT if away or point is None else label for point, label in zip(drawn, (1, 0), strict=True)]
        )
    device = masks.device
    return MaskPrompts(
        tight_boxes(masks),
        torch.stack(points).to(device),
        torch.tensor(labels, device=device),
        (~no_box).to(device),
    )


def _point(where: Tensor, draw: torch.Generator) -> tuple[float, float] | None:
    """A random pixel (x, y) of a region, None if it has none. The draw is made all the same, to keep others in step."""
    places = where.flatten().nonzero()[:, 0]
    share = float(torch.rand((), generator=draw))
    if not len(places):
        return None
    place = int(places[int(share * len(places))])
    return float(place % where.shape[1]), float(place // where.shape[1])
