"""Pretrain consilia-sam, a promptable segmenter of 1.5 M parameters, on masks of phantoms and of the public pool.

    python -m pretraining.sam --data $CONSILIA_DATA --cache CACHE --out FOLDER

The whole of transformers' SamModel is trained, by the two passes of Segment Anything (Kirillov et al. 2023): three
masks from the prompt, of which the best carries the loss; then one mask, given the logits of the mask that the model
itself thought best. Prompts are a box around the structure with jitter, a point in it, both, or the whole image as box
(which asks for the structure without saying where it is). Loss: Dice + BCE, and the error of the predicted IoU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from consilia.core.determinism import derive_seed, generator, seeded
from consilia.models.foundation import empty_foundation
from pretraining.common import (
    Source,
    arguments,
    dice_loss,
    fit,
    load_sources,
    ship,
    to_device,
    together,
)
from pretraining.start import cosine_patches, positions

SIZE = 128
CONFIG: dict[str, Any] = {
    "model_type": "sam",
    "input": "3 x 128 x 128, (x/255 - 0.5) / 0.5",
    "initializer_range": 0.02,
    "vision_config": {
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "mlp_dim": 512,
        "output_channels": 64,
        "image_size": SIZE,
        "patch_size": 16,
        "window_size": 5,
        "global_attn_indexes": [2, 5],
        "num_pos_feats": 32,
        "initializer_range": 0.02,
    },
    "prompt_encoder_config": {"hidden_size": 64, "image_size": SIZE, "patch_size": 16, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 64, "mlp_dim": 256, "num_attention_heads": 4, "iou_head_hidden_dim": 64},
}
BATCH = {"ultrasound": 5, "busbra": 3, "prostate": 2, "skin": 2, "polyp": 2, "fundus": 2}  # gray sources first
PROMPTS = ("box", "box", "box", "both", "point", "whole")
PEAK = 8e-4


@torch.no_grad()
def start(model: Any) -> None:
    """Positions and patches as :mod:`pretraining.start` has them, and places of prompts that can be told apart.

    transformers draws the random frequencies of places with a standard deviation of half the width (published weights
    overwrite them): at 64 turns per half image neighbouring places have nothing in common. Segment Anything has 1.
    """
    vision = CONFIG["vision_config"]
    grid, width = SIZE // vision["patch_size"], vision["hidden_size"]
    encoder = model.vision_encoder
    encoder.pos_embed.copy_(0.5 * positions(grid, width).view(1, grid, grid, width))
    encoder.patch_embed.projection.weight.copy_(cosine_patches(width, vision["patch_size"]))
    encoder.patch_embed.projection.bias.zero_()
    places = model.shared_image_embedding.positional_embedding
    places.copy_(torch.randn(places.shape)).requires_grad_(False)


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes (N, 4) as x1, y1, x2, y2 in pixels around masks (N, 1, H, W); the whole image where a mask is empty."""
    size = masks.shape[-1]
    axis = torch.arange(size, device=masks.device)
    columns, rows = masks[:, 0].amax(1) > 0, masks[:, 0].amax(2) > 0
    low = [torch.where(there, axis, size).amin(1) for there in (columns, rows)]
    high = [torch.where(there, axis + 1, 0).amax(1) for there in (columns, rows)]
    boxes = torch.stack([*low, *high], dim=1).float()
    whole = torch.tensor([0.0, 0.0, size, size], device=masks.device)
    return torch.where(rows.any(1)[:, None], boxes, whole)


def prompts(masks: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """One kind of prompt for the batch: ``input_boxes`` (N, 1, 4), ``input_points`` (N, 1, 1, 2), or both."""
    count, device = len(masks), masks.device
    kind = PROMPTS[int(torch.randint(len(PROMPTS), (1,), generator=rng))]
    chosen: dict[str, Tensor] = {}
    if kind in ("box", "both"):
        boxes = tight_boxes(masks)
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        jitter = torch.randn(count, 4, generator=rng).to(device).mul(0.06).clamp(-0.15, 0.15)
        chosen["input_boxes"] = (boxes + jitter * sides).clamp(0, SIZE)[:, None]
    if kind == "whole":
        chosen["input_boxes"] = torch.tensor([0.0, 0.0, SIZE, SIZE], device=device).expand(count, 1, 4)
    if kind in ("point", "both"):
        score = torch.rand(masks[:, 0].flatten(1).shape, generator=rng).to(device) * masks.flatten(1)
        at = score.argmax(1)
        points = torch.stack([at % SIZE, at // SIZE], dim=1).float() + 0.5
        chosen["input_points"] = points[:, None, None]
        chosen["input_labels"] = torch.ones(count, 1, 1, dtype=torch.long, device=device)
    return chosen


def mask_losses(low: Tensor, predicted: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Dice + BCE and the squared error of the predicted IoU, each (N, K), for mask logits (N, K, h, w)."""
    count, kept = low.shape[:2]
    logits = F.interpolate(low, masks.shape[-2:], mode="bilinear", align_corners=False).flatten(0, 1)
    truth = masks.expand(-1, kept, -1, -1).flatten(0, 1)
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(1).mean(1)
    shape = dice_loss(logits, truth) + 2 * bce
    with torch.no_grad():
        found = (logits > 0).float()
        both, either = (found * truth).flatten(1).sum(1), torch.maximum(found, truth).flatten(1).sum(1)
        iou = both / either.clamp(min=1)
    return shape.view(count, kept), ((predicted.flatten() - iou) ** 2).view(count, kept)


def loss_of(model: Any, sources: dict[str, Source], rng: torch.Generator) -> dict[str, Tensor]:
    """One batch out of all sources through both passes: the losses by name, and the Dice of the second pass."""
    device = next(model.parameters()).device
    drawn = [sources[name].draw(count, rng) for name, count in BATCH.items()]
    images, masks = together(drawn, rng)
    kept = masks.flatten(1).sum(1) > 20  # the augmentation has not moved the structure out of the image
    images, masks = images[kept].to(device), masks[kept].to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        embeddings = model.vision_encoder(images).last_hidden_state
    embeddings = embeddings.float()
    prompt = prompts(masks, rng)
    first = model(image_embeddings=embeddings, multimask_output=True, **prompt)
    low, predicted = first.pred_masks[:, 0], first.iou_scores[:, 0]
    shape, error = mask_losses(low, predicted, masks)
    best = predicted.argmax(1)
    shown = low[torch.arange(len(low)), best].detach()[:, None]
    second = model(image_embeddings=embeddings, input_masks=shown, multimask_output=False, **prompt)
    shape_again, error_again = mask_losses(second.pred_masks[:, 0], second.iou_scores[:, 0], masks)
    return {
        "three masks": shape.amin(1).mean(),
        "one mask": shape_again.mean(),
        "iou": error.mean() + error_again.mean(),
    }


def main() -> None:
    """Train and write the folder."""
    options = arguments(__doc__, steps=5000)
    device = to_device()
    sources, record = load_sources(options.data, options.cache)
    used = {name: record[name] for name in ("busbra",)} | {
        "phantoms": {kind: record["phantoms"][kind] for kind in BATCH if kind in record["phantoms"]}
    }
    with seeded(options.seed, "initialisation"):
        model = empty_foundation(CONFIG)
        start(model)
    model.to(device)
    torch.manual_seed(derive_seed(options.seed, "sam"))
    rng = generator(options.seed, "batches")
    average = fit(model, lambda: loss_of(model, sources, rng), steps=options.steps, peak=PEAK)
    ship(options.out, CONFIG, average, {**used, "seed": options.seed, "steps": options.steps})


if __name__ == "__main__":
    main()
