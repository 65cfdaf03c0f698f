"""Reproduce the lists of set-aside cases: ``python -m consilia.data.public_pool DATA_FOLDER OUTPUT_FOLDER``.

DATA_FOLDER holds ``busbra/metadata.csv``, ``pneumoniamnist/pneumoniamnist_28.npz``, ``pubmedqa/ori_pqal.json`` with
``test_ground_truth.json``, and ``vqa_rad/trainset.json`` with ``testset.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from consilia.core.determinism import derive_seed
from consilia.core.files import write_bytes
from consilia.data.public_pool import image_digest

FRACTION = 0.1
VQA_RAD_FRACTION = 0.6
SEED = 0


def busbra_list(metadata: Path) -> str:
    """One line ``patient_id image_id`` per image of a tenth of the patients of each GE scanner."""
    table = pd.read_csv(metadata, dtype=str)
    lines = ["# Public pool of BUS-BRA: patient_id image_id. A tenth of the patients of each GE scanner."]
    for scanner in sorted(name for name in table["scanner"].unique() if name.startswith("GE ")):
        patients = sorted(table.loc[table["scanner"] == scanner, "patient_id"].unique(), key=int)
        rng = np.random.default_rng(derive_seed(SEED, "public-pool", "busbra", scanner))
        chosen = rng.choice(len(patients), size=round(FRACTION * len(patients)), replace=False)
        for patient in (patients[i] for i in sorted(chosen)):
            lines += [f"{patient} {image}" for image in sorted(table.loc[table["patient_id"] == patient, "image_id"])]
    return "\n".join(lines) + "\n"


def pneumoniamnist_list(npz: Path) -> str:
    """One digest per line: a tenth of the training images, among those that recur in no other part.

    Some validation images recur in the training part; setting those aside would take cases out of the official parts.
    """
    with np.load(npz, allow_pickle=False) as arrays:
        train = [image_digest(image) for image in arrays["train_images"]]
        others = {image_digest(image) for part in ("val", "test") for image in arrays[f"{part}_images"]}
    candidates = sorted(set(train) - others)
    rng = np.random.default_rng(derive_seed(SEED, "public-pool", "pneumoniamnist"))
    chosen = rng.choice(len(candidates), size=round(FRACTION * len(train)), replace=False)
    lines = ["# Public pool of PneumoniaMNIST: SHA-256 of the 28 x 28 uint8 pixels. A tenth of the training images."]
    return "\n".join(lines + sorted(candidates[i] for i in chosen)) + "\n"


def pubmedqa_list(folder: Path) -> str:
    """One PubMed id per line: the expert-labelled questions that are not in the official test set."""
    questions = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))
    tested = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    lines = ["# Public pool of PubMedQA: PubMed ids. The expert-labelled questions outside the official test set."]
    return "\n".join(lines + sorted(set(questions) - set(tested), key=int)) + "\n"


def vqa_rad_list(folder: Path) -> str:
    """One image name per line: three fifths of the images, in the order of a seeded hash of the name.

    The official parts share images, so the pool goes by image and not by part. Images that no official test question
    shows come first: the embedded vision transformer has learnt from them, and so they cannot be test images.
    """
    train, test = (json.loads((folder / f"{part}set.json").read_text(encoding="utf-8")) for part in ("train", "test"))
    tested = {row["image_name"] for row in test}
    names = {row["image_name"] for row in train} | tested
    order = sorted(names, key=lambda name: (name in tested, derive_seed(SEED, "public-pool", "vqa_rad", name)))
    lines = ["# Public pool of VQA-RAD: image names. Three fifths of the images; every question on them is public."]
    return "\n".join(lines + sorted(order[: round(VQA_RAD_FRACTION * len(names))])) + "\n"


def main(data: Path, out: Path) -> None:
    """Write the lists to a folder."""
    write_bytes(out / "busbra.txt", busbra_list(data / "busbra" / "metadata.csv").encode())
    pneumonia = pneumoniamnist_list(data / "pneumoniamnist" / "pneumoniamnist_28.npz")
    write_bytes(out / "pneumoniamnist.txt", pneumonia.encode())
    write_bytes(out / "pubmedqa.txt", pubmedqa_list(data / "pubmedqa").encode())
    write_bytes(out / "vqa_rad.txt", vqa_rad_list(data / "vqa_rad").encode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m consilia.data.public_pool DATA_FOLDER OUTPUT_FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
