"""What the features of consilia-vit are worth: a linear probe of malignancy on BUS-BRA outside the public pool.

    python -m pretraining.probe --data $CONSILIA_DATA [--model FOLDER] [--out probe.json] [--seeds 5]

Frozen cls feature, standardised, logistic regression (its strength chosen inside the training folds, by patient), five
folds by patient and stratified. A patient's score is the mean over her images. The same is done with random weights
of the same network for several seeds, and with the weights that training started from.
AUROC over patients, and a bootstrap interval over patients of the difference to the random weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from consilia.core.determinism import seeded
from consilia.core.files import write_json
from consilia.data.allowed import FoundationFolder
from consilia.models.foundation import EMBEDDED_FOLDER, empty_foundation, foundation_digest, read_foundation
from pretraining.corpus import Images, busbra
from pretraining.start import structured_start
from pretraining.vit import GRID, HEADS, PATCH, WIDTH

FOLDS = 5
STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1]
RESAMPLES = 2000


@torch.no_grad()
def features(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """The cls feature of each gray image (N, H, W): (N, d)."""
    model.eval()
    found = []
    for start in range(0, len(pixels), 64):
        images = torch.from_numpy(pixels[start : start + 64]).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
        found.append(model.forward_features(images)[:, 0])  # type: ignore[operator]
    return torch.cat(found).numpy()


def probe() -> Pipeline:
    """Standardise, then logistic regression with balanced classes."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))


def patient_scores(inputs: np.ndarray, images: Images, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold score and truth of each patient (malignant in any image), in the order of their names."""
    labels = images.labels
    assert labels is not None
    patients = np.asarray(images.patients)
    scores = np.zeros(len(labels))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, labels, patients):
        inner = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
        chosen = GridSearchCV(probe(), {"logisticregression__C": STRENGTHS}, scoring="roc_auc", cv=inner)
        chosen.fit(inputs[train], labels[train], groups=patients[train])
        scores[test] = chosen.decision_function(inputs[test])
    names = np.unique(patients)
    return (
        np.array([scores[patients == name].mean() for name in names]),
        np.array([labels[patients == name].max() for name in names]),
    )


def interval(truth: np.ndarray, ours: np.ndarray, others: np.ndarray, seed: int) -> list[float]:
    """95 % bootstrap interval over patients of AUROC(ours) - mean AUROC(others); ``others`` (seeds, patients)."""
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(RESAMPLES):
        at = rng.integers(len(truth), size=len(truth))
        if 0 < truth[at].sum() < len(at):
            random = np.mean([roc_auc_score(truth[at], other[at]) for other in others])
            differences.append(roc_auc_score(truth[at], ours[at]) - random)
    return [float(value) for value in np.percentile(differences, [2.5, 97.5])]


def run(folder: Path, data: Path, seeds: int) -> dict[str, Any]:
    """The result that is written as JSON."""
    images = busbra(data, pooled=False)
    place = FoundationFolder(folder=folder.absolute(), digest=foundation_digest(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ours, truth = patient_scores(features(read_foundation(place), images.pixels), images, seed=0)
    others = []
    for seed in range(seeds):
        with seeded(seed, "random weights"):
            model = empty_foundation(config)
        others.append(patient_scores(features(model, images.pixels), images, seed=0)[0])
    with seeded(0, "initialisation"):
        started = empty_foundation(config)
        structured_start(started, GRID, WIDTH, PATCH, HEADS)
    untrained = patient_scores(features(started, images.pixels), images, seed=0)[0]
    aurocs = [float(roc_auc_score(truth, other)) for other in others]
    auroc = float(roc_auc_score(truth, ours))
    return {
        "task": "BUS-BRA outside the public pool, malignant against benign, AUROC over patients",
        "images": len(images.ids),
        "patients": len(truth),
        "images_sha256": hashlib.sha256(images.pixels.tobytes()).hexdigest(),
        "model_digest": place.digest,
        "pretrained": auroc,
        "random": aurocs,
        "untrained_start": float(roc_auc_score(truth, untrained)),
        "difference": auroc - float(np.mean(aurocs)),
        "difference_interval_95": interval(truth, ours, np.stack(others), seed=0),
    }


def main() -> None:
    """Print the result and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER / "consilia-vit")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    result = run(options.model, options.data, options.seeds)
    if options.out is not None:
        write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
