"""Pretrain consilia-vit, a vision transformer of 1.3 M parameters, on phantoms and the public pools.

    python -m pretraining.vit --data $CONSILIA_DATA --cache CACHE --out FOLDER

One network, many teachers; all losses are added:
- the class of each phantom, of the pool's ultrasound images (malignancy, BI-RADS) and X-rays, from the cls token;
- measures of the marked structure (size, place, height over width, roughness of the outline, contrast, what is
  behind it, sharpness of the margin), from the cls token: they exist for every mask, drawn or real;
- the mask itself, 16 x 16 pixels from each patch token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
from pretraining.start import structured_start

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 128, "patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4},
    "num_classes": 0,
    "input": "3 x 128 x 128, (x/255 - 0.5) / 0.5",
}
WIDTH, PATCH, GRID, HEADS = 128, 16, 8, 4
BATCH = {  # gray sources first
    "ultrasound": 17,
    "busbra": 6,
    "prostate": 2,
    "pneumonia": 1,
    "vqa-rad": 1,
    "skin": 3,
    "polyp": 2,
    "fundus": 2,
}
CLASSES = {
    "ultrasound": 2,
    "busbra": 2,
    "skin": 2,
    "polyp": 2,
    "fundus": 5,
    "prostate": 2,
    "pneumonia": 2,
    "vqa-rad": 3,
}
PEAK = 1.2e-3


def measures(images: Tensor, masks: Tensor) -> Tensor:
    """What a reader would say about the structure: (N, 9), each roughly within -2..2. Images and masks (N, ., H, W)."""
    gray = images.mean(dim=1) * 0.5 + 0.5
    inside = masks[:, 0]
    size = inside.shape[-1]
    area = inside.sum((1, 2)).clamp(min=1)
    axis = (torch.arange(size, device=images.device) + 0.5) / size
    rows, columns = inside.sum(2) / area[:, None], inside.sum(1) / area[:, None]
    y, x = rows @ axis, columns @ axis
    height = ((rows * (axis - y[:, None]) ** 2).sum(1)).clamp(min=1e-5).sqrt()
    width = ((columns * (axis - x[:, None]) ** 2).sum(1)).clamp(min=1e-5).sqrt()
    # Edge pixels against those of the ellipse with the same moments (Ramanujan's formula, half axes 2 sd).
    edge = inside + F.max_pool2d(F.max_pool2d(-masks, (3, 1), 1, (1, 0)), (1, 3), 1, (0, 1))[:, 0]
    a, b = 2 * height * size, 2 * width * size
    ellipse = torch.pi * (3 * (a + b) - ((3 * a + b) * (a + 3 * b)).sqrt())
    rough = torch.log(edge.sum((1, 2)).clamp(min=1) / ellipse.clamp(min=1))
    fill = torch.log(area / (torch.pi * a * b).clamp(min=1))
    near = F.max_pool2d(F.max_pool2d(masks, (13, 1), 1, (6, 0)), (1, 13), 1, (0, 6))[:, 0] - inside

    def level(where: Tensor) -> Tensor:
        return torch.log(((gray * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)) + 0.05)

    # What lies behind: the columns of the structure below it, against the same rows beside them.
    above = inside.cumsum(1).clamp(max=1)
    depth = F.pad(above, (0, 0, 24, 0))[:, :size]
    behind = above * (1 - inside) * (1 - depth)
    beside = (behind.sum(2, keepdim=True) > 0).float() * (1 - inside.amax(1, keepdim=True))
    across = F.avg_pool2d(gray[:, None], 3, 1, 1)[:, 0]
    slope = (
        across.diff(dim=1, append=across[:, -1:]).abs() + across.diff(dim=2, append=across[:, :, -1:]).abs()
    ) * edge
    sharp = torch.log(slope.sum((1, 2)) / edge.sum((1, 2)).clamp(min=1) + 0.01)
    values = [
        torch.log(area / size**2) + 2.8,
        (y - 0.4) * 6,
        (x - 0.5) * 6,
        torch.log(height / width) * 2,
        rough * 5,
        fill * 8,
        level(inside) - level(near),
        level(behind) - level(beside),
        sharp + 3,
    ]
    return torch.stack(values, dim=1).clamp(-3, 3)


class Teachers(nn.Module):
    """The heads that the losses hang on; they do not ship."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.ModuleDict({name: nn.Linear(WIDTH, count) for name, count in CLASSES.items()})
        self.birads = nn.Linear(WIDTH, 4)
        self.measures = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 9))
        self.mask = nn.Linear(WIDTH, PATCH * PATCH)


def patches(images: Tensor) -> Tensor:
    """(N, 1, H, W) as (N, tokens, pixels of a patch)."""
    return F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def loss_of(model: nn.Module, heads: Teachers, sources: dict[str, Source], rng: torch.Generator) -> dict[str, Tensor]:
    """One batch out of all sources: the losses by name."""
    device = next(model.parameters()).device
    drawn = {name: sources[name].draw(count, rng) for name, count in BATCH.items()}
    images, masks = together(list(drawn.values()), rng)
    images, masks = images.to(device), masks.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tokens = model.forward_features(images).float()  # type: ignore[operator]
    cls, spatial = tokens[:, 0], tokens[:, 1:]
    losses: dict[str, Tensor] = {}
    start = 0
    for name, (at, _, _) in drawn.items():
        labels = sources[name].labels
        if labels is not None:
            logits = heads.classes[name](cls[start : start + len(at)])
            losses[name] = F.cross_entropy(logits, labels[at].to(device), label_smoothing=0.05)
        if name == "busbra":
            grade = (sources[name].extra["birads"][at] - 2).to(device)
            losses["birads"] = F.cross_entropy(heads.birads(cls[start : start + len(at)]), grade, label_smoothing=0.05)
        start += len(at)
    marked = masks.flatten(1).sum(1) > 20
    wanted = measures(images, masks)[marked]
    losses["measures"] = F.smooth_l1_loss(heads.measures(cls[marked]), wanted, beta=0.5)
    logits, truth = heads.mask(spatial[marked]), patches(masks[marked])
    losses["mask"] = F.binary_cross_entropy_with_logits(logits, truth) + 0.5 * dice_loss(logits, truth).mean()
    return losses


FACTORS = {**dict.fromkeys(CLASSES, 0.3), "ultrasound": 1.0, "birads": 0.15, "measures": 4.0, "mask": 1.0}


def main() -> None:
    """Train and write the folder."""
    options = arguments(__doc__, steps=1700)
    torch.manual_seed(derive_seed(options.seed, "vit"))
    device = to_device()
    sources, record = load_sources(options.data, options.cache)
    with seeded(options.seed, "initialisation"):
        model, heads = empty_foundation(CONFIG), Teachers().to(device)
        structured_start(model, GRID, WIDTH, PATCH, HEADS)
    model.to(device)
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # the fused kernel's backward pass is slow in bfloat16 on a CPU
    rng = generator(options.seed, "batches")
    average = fit(
        model,
        lambda: loss_of(model, heads, sources, rng),
        steps=options.steps,
        peak=PEAK,
        heads=heads,
        factors=FACTORS,
    )
    ship(options.out, CONFIG, average, {**record, "seed": options.seed, "steps": options.steps})


if __name__ == "__main__":
    main()
