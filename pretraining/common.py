"""What both pretrainings share: batches out of several sources, augmentation, the schedule, and the shipped folder."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consilia.core.files import write_json
from consilia.core.tensor_files import write_tensors
from pretraining.corpus import FIRST_SCANNER, PER_SCANNER, PHANTOMS, SEED, Images, busbra, phantoms, pneumonia, vqa_rad


@dataclass(frozen=True)
class Source:
    """One set of images as tensors: uint8 (N, C, H, W) with 1 or 3 channels, masks (N, H, W) and labels, if any."""

    pixels: Tensor
    masks: Tensor | None
    labels: Tensor | None
    extra: dict[str, Tensor]

    @classmethod
    def of(cls, images: Images) -> Source:
        pixels = torch.from_numpy(images.pixels)
        return cls(
            pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None],
            None if images.masks is None else torch.from_numpy(images.masks),
            None if images.labels is None else torch.from_numpy(images.labels),
            {name: torch.from_numpy(values) for name, values in images.extra.items()},
        )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, images (n, C, H, W) in 0..1 and masks (n, 1, H, W) in 0..1 (0 where there are none)."""
        at = torch.randint(len(self.pixels), (count,), generator=generator)
        images = self.pixels[at].float().div_(255)
        if self.masks is None:
            return at, images, torch.zeros(count, 1, *images.shape[2:])
        return at, images, self.masks[at, None].float().div_(255)


def load_sources(data: Path, cache: Path) -> tuple[dict[str, Source], dict[str, Any]]:
    """All sources by name, and the record of the cases in them that goes into training_data.json."""
    real = {"busbra": busbra(data, pooled=True), "pneumonia": pneumonia(data), "vqa-rad": vqa_rad(data)}
    sources = {name: Source.of(images) for name, images in real.items()}
    sources.update({kind: Source.of(phantoms(kind, cache)) for kind in PHANTOMS})
    drawn = {
        kind: {
            "count": count,
            "per_scanner": PER_SCANNER,
            "seeds": [SEED, SEED + count // PER_SCANNER - 1],
            "scanners": [FIRST_SCANNER, FIRST_SCANNER + count // PER_SCANNER - 1],
        }
        for kind, count in PHANTOMS.items()
    }
    record = {
        "busbra": {"images": list(real["busbra"].ids), "patients": sorted(set(real["busbra"].patients))},
        "pneumoniamnist": {"sha256_of_pixels": sorted(real["pneumonia"].ids)},
        "vqa_rad": {"images": list(real["vqa-rad"].ids)},
        "phantoms": drawn,
    }
    return sources, record


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random flip, small shift, turn and zoom of image and mask; gray, gamma, gain, offset and noise of the image.

    Images (N, C, H, W) in 0..1 become network input, (x - 0.5) / 0.5. Height over width is kept within 5 %: it tells
    a benign mass from a malignant one.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    zoom, turn, stretch = torch.exp(uniform(-0.2, 0.2)), uniform(-0.15, 0.15), torch.exp(uniform(-0.05, 0.05))
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    rows = [cos * stretch * flip, -sin, uniform(-0.12, 0.12), sin * flip, cos / stretch, uniform(-0.12, 0.12)]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, padding_mode="zeros", align_corners=False)
    gray = (uniform(0, 1) < 0.3).float().view(-1, 1, 1, 1)
    images = images.lerp(images.mean(dim=1, keepdim=True).expand_as(images), gray)
    gamma, gain, offset, noise = (
        value.view(-1, 1, 1, 1)
        for value in (torch.exp(uniform(-0.5, 0.5)), uniform(0.7, 1.3), uniform(-0.1, 0.1), uniform(0, 0.08))
    )
    images = images.clamp(1e-3, 1) ** gamma * gain + offset
    images = images + noise * torch.randn(images[:, :1].shape, generator=generator)
    return images.clamp(0, 1).sub(0.5).div(0.5), (masks > 0.5).float()


def together(drawn: list[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One augmented batch of what several sources gave, in their order: images (N, 3, H, W) and masks (N, 1, H, W)."""
    done = []
    for channels, group in groupby(drawn, key=lambda part: part[1].shape[1]):  # gray is cheaper as one channel
        parts = list(group)
        images, masks = augment(
            torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]), generator
        )
        done.append((images.expand(-1, 3, -1, -1) if channels == 1 else images, masks))
    return torch.cat([images for images, _ in done]), torch.cat([masks for _, masks in done])


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum p g + 1) / (sum p + sum g + 1) per image, over all but the first dimension: (N,)"""
    p, g = torch.sigmoid(logits).flatten(1), targets.flatten(1)
    return 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first twentieth, then a half cosine down to a hundredth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


class Average:
    """Exponential moving average of a model's weights; the average is what ships."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor.detach(), 1 - decay)


def fit(
    model: nn.Module,
    losses_of: Callable[[], dict[str, Tensor]],
    *,
    steps: int,
    peak: float,
    heads: nn.Module | None = None,
    factors: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Train with AdamW, the gradient clipped to norm 1, and give the running average of the model's weights.

    Args:
        model: what ships.
        losses_of: draws a batch and gives its losses by name; called once a step.
        steps, peak: see :func:`learning_rate`.
        heads: what is trained with the model and does not ship.
        factors: of each loss in the sum that is minimised, by name; 1 for all by default.
    """
    modules = [model] if heads is None else [model, heads]
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=peak, weight_decay=0.05, betas=(0.9, 0.98))
    average, began = Average(model), time.monotonic()
    seen: dict[str, float] = {}
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        losses = losses_of()
        total = torch.stack([loss if factors is None else factors[name] * loss for name, loss in losses.items()]).sum()
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        average.update(model, step)
        for name, loss in losses.items():
            seen[name] = 0.98 * seen.get(name, float(loss.detach())) + 0.02 * float(loss.detach())
        if step % 100 == 99:
            text = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            print(f"step {step + 1}/{steps} {time.monotonic() - began:.0f} s: {text}", flush=True)
    return average.state


def arguments(description: str | None, steps: int) -> argparse.Namespace:
    """The command line of both pretrainings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with busbra, pneumoniamnist and vqa_rad")
    parser.add_argument("--cache", type=Path, required=True, help="folder for drawn phantoms (pretraining.corpus)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def ship(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write config.json, model.safetensors (float16: half the size, same probe) and training_data.json."""
    write_tensors(folder / "model.safetensors", {name: tensor.half().cpu() for name, tensor in state.items()})
    write_json(folder / "config.json", config)
    write_json(folder / "training_data.json", record)
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    print(f"{folder}: {megabytes:.2f} MB", flush=True)


def to_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
