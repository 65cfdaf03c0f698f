"""The images that the embedded foundation models learn from: phantoms, and the real cases set aside for this.

Real images come only from the public pools of BUS-BRA and PneumoniaMNIST (see consilia.data.public_pool) and from
VQA-RAD images that no question of its test part shows. Everything is 128 x 128, uint8.

    python -m pretraining.corpus --out CACHE      # draws the phantoms once, minutes
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from consilia.data.public_pool import image_digest, load_pool
from consilia.simulation.synthetic import KINDS, draw_phantoms

SIZE = 128
PHANTOMS = {"ultrasound": 9000, "skin": 2000, "polyp": 2000, "fundus": 1500, "prostate": 1500}
SEED = 2026
PER_SCANNER = 50
FIRST_SCANNER = 1000  # the invented hospitals of the embedded federations have 1 to 4


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 (N, H, W) or (N, H, W, 3); ``masks`` uint8 (N, H, W) 0/255 and ``labels`` int64 (N,) or None."""

    pixels: np.ndarray
    masks: np.ndarray | None = None
    labels: np.ndarray | None = None
    ids: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def phantoms(kind: str, cache: Path) -> Images:
    """All pretraining phantoms of one kind, drawn at the first call and then read from the cache folder."""
    files = {part: cache / f"{kind}-{part}.npy" for part in ("pixels", "masks", "labels")}
    if not all(file.exists() for file in files.values()):
        cache.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        drawn = [
            draw_phantoms(kind, PER_SCANNER, seed=SEED + number, scanner=FIRST_SCANNER + number, size=SIZE)
            for number in range(PHANTOMS[kind] // PER_SCANNER)
        ]
        for part, name in (("pixels", "images"), ("masks", "masks"), ("labels", "labels")):
            np.save(files[part], np.concatenate([getattr(batch, name) for batch in drawn]))
        print(f"{kind}: {PHANTOMS[kind]} phantoms in {time.monotonic() - start:.0f} s", flush=True)
    return Images(*(np.load(files[part]) for part in ("pixels", "masks", "labels")))


def _open(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def busbra(data: Path, pooled: bool) -> Images:
    """BUS-BRA images of the pool, or those outside it (which the probe alone may see); label 1 is malignant."""
    pool = load_pool("busbra")
    with (data / "busbra" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["patient_id"] in pool.patients) == pooled]
    if any((row["image_id"] in pool.case_ids) != pooled for row in rows):
        raise ValueError("the pool's lists of patients and images disagree with metadata.csv")
    return Images(
        pixels=np.stack([_open(data / "busbra" / "images" / f"{row['image_id']}.png") for row in rows]),
        masks=np.stack([_open(data / "busbra" / "masks" / f"{row['image_id']}.png") for row in rows]),
        labels=np.array([int(row["pathology"] == "malignant") for row in rows]),
        ids=tuple(row["image_id"] for row in rows),
        patients=tuple(row["patient_id"] for row in rows),
        extra={"birads": np.array([int(row["birads"]) for row in rows])},
    )


def pneumonia(data: Path) -> Images:
    """PneumoniaMNIST images of the pool, enlarged from 28 x 28; ids are the digests; label 1 is pneumonia."""
    digests = load_pool("pneumoniamnist").digests
    with np.load(data / "pneumoniamnist" / "pneumoniamnist_28.npz") as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].reshape(-1)
    chosen = [i for i, image in enumerate(images) if image_digest(image) in digests]
    large = [np.asarray(Image.fromarray(images[i]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for i in chosen]
    return Images(
        pixels=np.stack(large),
        labels=labels[chosen].astype(np.int64),
        ids=tuple(image_digest(images[i]) for i in chosen),
    )


def vqa_rad(data: Path) -> Images:
    """VQA-RAD images without a question in the test part; ids are image names; labels: 0 head, 1 chest, 2 abdomen."""
    train, test = (json.loads((data / "vqa_rad" / f"{part}set.json").read_text()) for part in ("train", "test"))
    shown = {row["image_name"] for row in test}
    organs = {row["image_name"]: row["image_organ"] for row in train if row["image_name"] not in shown}
    names = sorted(organs)
    return Images(
        pixels=np.stack([_open(data / "vqa_rad" / "images" / name) for name in names]),
        labels=np.array([("HEAD", "CHEST", "ABD").index(organs[name]) for name in names]),
        ids=tuple(names),
    )


def main() -> None:
    """Draw the phantoms of all kinds, or of those named, into the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="cache folder for the drawn phantoms")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    for kind in options.kinds:
        phantoms(kind, options.out)


if __name__ == "__main__":
    main()
