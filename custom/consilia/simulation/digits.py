"""The handwritten digits that ship with scikit-learn, with skewed labels at eight invented sites.

Ten classes, each site holding few of them: the setting of the FedKPer paper (Dirichlet 0.1 over the labels of small
images), from data that need no download. Digits stand in for the paper's blood cells and organs; they are no medical
data.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from consilia.core.files import write_bytes
from consilia.data.specs import DatasetSpec, MedMnistSpec, SplitSpec
from consilia.simulation.pooled import DirichletPartition, partition_pooled

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTITION = DirichletPartition(by="dirichlet", sites=8, alpha=0.1, seed=0, min_cases=60)
LARGEST = 16  # grey values of the data are 0 to 16


def digits_sites(out: Path) -> dict[str, DatasetSpec]:
    """Write ``digits.npz`` and each site's list of cases under ``out``; return the dataset specification of each site.

    1797 grey images of 8 x 8 pixels. As in the paper's protocol 20 % of a site's cases, about as many of every class
    there, are its test; 10 % are its validation.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / LARGEST)).astype(np.uint8)
    archive = BytesIO()
    np.savez_compressed(archive, train_images=images, train_labels=bunch.target.astype(np.uint8)[:, None])
    file = out.absolute() / "digits.npz"
    write_bytes(file, archive.getvalue())
    pooled = MedMnistSpec(
        format="medmnist",
        file=file,
        classes=CLASSES,
        parts=("train",),
        normalise="half",
        splits=SplitSpec(scheme="class_balanced", test=0.2, validation=0.1),
    )
    return partition_pooled(pooled, PARTITION, "digits", out)
