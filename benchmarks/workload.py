"""The work all engines are timed on: 4 sites, 16 steps of batch 32 on 1 x 28 x 28 images, a CNN of 0.2 M parameters."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from consilia.core.determinism import generator
from consilia.data.limits import RESEARCH_LIMITS
from consilia.data.loading import load_site
from consilia.federation.config import RunConfig, run_config
from consilia.methods.fit import shuffled
from consilia.models.build import build_model

DATASET = "diagnosis"
MODEL = "consilia.models.cnn.FourLayerCNN"
CLASSES = 10
SEED = 0


@dataclass(frozen=True)
class Workload:
    """Size of the work. The default model has 215 370 parameters."""

    sites: int = 4
    steps: int = 16
    batch: int = 32
    rounds: int = 20
    channels: tuple[int, int] = (16, 32)
    hidden: int = 128
    model_class: ClassVar[str] = MODEL

    @property
    def cases(self) -> int:
        """Training cases per site: one local epoch over them is ``steps`` steps."""
        return self.steps * self.batch

    @property
    def model_args(self) -> dict[str, Any]:
        """Keyword arguments of the model's class."""
        return {"num_classes": CLASSES, "channels": list(self.channels), "hidden": self.hidden}

    def config(self) -> RunConfig:
        """FedAvg on this work, evaluated at the end only."""
        return run_config(
            {
                "label": "benchmark",
                "dataset": DATASET,
                "method": "fedavg",
                "model": {"class": self.model_class, "args": self.model_args},
                "training": {"local_epochs": 1, "batch_size": self.batch, "device": "cpu"},
                "rounds": self.rounds,
                "evaluate_every": 0,
                "seed": SEED,
            }
        )

    def model(self) -> nn.Module:
        """The initial global model, the same as every engine starts from."""
        return build_model(self.model_class, self.model_args, seed=SEED, allowed=(self.model_class,))

    def parameters(self) -> int:
        """Number of model parameters, all float32."""
        return sum(parameter.numel() for parameter in self.model().parameters())


@dataclass(frozen=True)
class LargeWorkload(Workload):
    """A vision transformer of ``width`` channels and next to no training: one step on a handful of cases."""

    steps: int = 1
    batch: int = 4
    rounds: int = 3
    width: int = 768
    model_class: ClassVar[str] = "benchmarks.workload.VisionTransformer"

    @property
    def model_args(self) -> dict[str, Any]:
        """Keyword arguments of the model's class."""
        return {"width": self.width}


class VisionTransformer(nn.Module):
    """Names and shapes of timm's vit_base_patch16_224 with ten classes (at width 768), fed with four patches only.

    The small images are enlarged to 32 x 32 and given three channels: what is exchanged is of full size, what is
    computed is little. timm's own class needs torchvision, which NVFlare would have to import by itself.
    """

    def __init__(self, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, 16, 16)))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 28, 28)."""
        enlarged = nn.functional.interpolate(images, size=(32, 32)).expand(-1, 3, -1, -1)
        patches = self.patch_embed(enlarged).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = self.blocks(tokens + self.pos_embed[:, : tokens.shape[1]])
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


class Block(nn.Module):
    """A pre-norm block: attention with heads of 64 channels, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, 4 * width), act=nn.GELU(), fc2=nn.Linear(4 * width, width))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, width) to tokens of the same shape."""
        query, key, value = (
            self.attn["qkv"](self.norm1(tokens)).unflatten(2, (3, self.heads, 64)).permute(2, 0, 3, 1, 4)
        )
        seen = nn.functional.softmax(query @ key.transpose(2, 3) / 8, dim=-1) @ value
        tokens = tokens + self.attn["proj"](seen.transpose(1, 2).flatten(2))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


def width_of(parameters: int) -> int:
    """The width, in whole heads, at which the transformer has about so many parameters: 12 blocks of 12 width^2."""
    return 64 * max(1, round(math.sqrt(parameters / 144) / 64))


def write_sites(work: Workload, folder: Path) -> dict[str, Path]:
    """Write random images as MedMNIST files and a site.yaml per site; returns the site.yaml by site name."""
    files = {}
    for number in range(1, work.sites + 1):
        name = f"site-{number}"
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng((SEED, number))
        arrays: dict[str, Any] = {}
        for part, cases in (("train", work.cases), ("val", CLASSES), ("test", CLASSES)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (cases, 28, 28), dtype=np.uint8)
            arrays[f"{part}_labels"] = (np.arange(cases) % CLASSES).astype(np.uint8)[:, None]
        np.savez(place / "images.npz", **arrays)
        dataset = {
            "format": "medmnist",
            "file": "images.npz",
            "official_splits": True,
            "classes": [f"class-{index}" for index in range(CLASSES)],
        }
        content = {
            "site": name,
            "state_dir": "state",
            "allow_models": [work.model_class],
            "limits": RESEARCH_LIMITS.model_dump(mode="json"),
            "datasets": {DATASET: dataset},
        }
        files[name] = place / "site.yaml"
        files[name].write_text(yaml.safe_dump(content))
    return files


def plain_rounds(work: Workload, site_files: Mapping[str, Path]) -> Iterator[dict[str, Tensor]]:
    """The baseline: the same batches in the same order in a plain PyTorch loop, and a plain mean.

    Yields:
        The global state after each round.
    """
    settings = work.config().training
    data = {name: load_site(path, DATASET).train for name, path in sorted(site_files.items())}
    model = work.model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(1, work.rounds + 1):
        updates = []
        for site, split in data.items():
            model.load_state_dict(state)
            model.train()
            optimiser = torch.optim.SGD(
                model.parameters(),
                lr=settings.learning_rate * settings.learning_rate_decay ** (number - 1),
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )
            for indices in shuffled(len(split), work.batch, generator(SEED, "batches", site, number)):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(split.inputs[indices]), split.labels[indices])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            updates.append({name: value.clone() for name, value in model.state_dict().items()})
        state = {name: torch.stack([update[name] for update in updates]).mean(dim=0) for name in state}
        yield state


def per_round(ends: list[float]) -> float:
    """Mean seconds per round from the times at which the rounds ended; the first round, which warms up, is left out."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)
