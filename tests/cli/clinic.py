"""A site with small images of two classes, and a model for it: drawn, not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from consilia.data.limits import RESEARCH_LIMITS
from consilia.data.loading import load_site
from consilia.federation.config import RunConfig, run_config
from consilia.federation.model_card import CardPreprocessing, run_card, save_model
from consilia.models.exchange import exchanged_state

CNN = "consilia.models.cnn.FourLayerCNN"
SIZE = 16
CLASSES = ("benign", "malignant")


def draw(number: int, bright: bool) -> np.ndarray:
    pixels = np.random.default_rng(number).integers(0, 100, size=(20, 30), dtype=np.uint8)
    pixels[5:15, 8:22] += 120 if bright else 20
    return pixels


def write_clinic(folder: Path, count: int = 24, **changes: Any) -> Path:
    """``site.yaml`` of a site with ``count`` images, every other one malignant, two a patient."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = ["name,patient,finding"]
    for i in range(count):
        Image.fromarray(draw(i, bool(i % 4 > 1))).save(folder / "images" / f"us-{i}.png")
        rows.append(f"us-{i},p{i // 2},{CLASSES[int(i % 4 > 1)]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    dataset = {
        "format": "images",
        "file": "table.csv",
        "folder": "images",
        "image": "{name}.png",
        "label": {"column": "finding"},
        "patient": "patient",
        "classes": list(CLASSES),
        "size": [SIZE, SIZE],
        **changes,
    }
    path = folder / "site.yaml"
    limits = RESEARCH_LIMITS.model_dump(mode="json")
    path.write_text(yaml.safe_dump({"site": folder.name, "limits": limits, "datasets": {"mass": dataset}}))
    return path


def config() -> RunConfig:
    args = {"num_classes": 2, "in_channels": 1, "image_size": SIZE}
    return run_config({"method": "fedavg", "dataset": "mass", "model": {"class": CNN, "args": args}})


def network(seed: int = 0) -> nn.Module:
    return config().model.build(seed=seed, allowed=(CNN,), folders={}).eval()


def write_model(path: Path, trained_at: Path, kind: str = "global-best", **more: Any) -> nn.Module:
    """A global model as a run over the site ``trained_at`` saves it; returns the network."""
    found = load_site(trained_at, "mass").dataset("mass").preprocessing
    layout = CardPreprocessing(rule="each site's own", layout=found.described())
    model = network()
    save_model(path, exchanged_state(model), run_card(config(), CLASSES, kind, preprocessing=layout, **more))
    return model


def by_hand(model: nn.Module, image: Path, mean: float, std: float) -> float:
    """The probability of class 1, from the file on: resize as Pillow does, normalise, softmax."""
    pixels = np.asarray(Image.open(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    inputs = torch.tensor((pixels / 255 - mean) / std, dtype=torch.float32)[None, None]
    with torch.no_grad():
        return float(model(inputs)[0].double().softmax(0)[1])


def training_values(site: Path) -> tuple[float, float]:
    """Mean and standard deviation of the site's training pixels, with NumPy."""
    data = load_site(site, "mass")
    pixels = [
        np.asarray(Image.open(site.parent / "images" / f"{case}.png").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for case in data.train.case_ids
    ]
    stacked = np.stack(pixels) / 255
    return float(stacked.mean()), float(stacked.std())
