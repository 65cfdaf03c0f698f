"""Federated against a plain centralised loop: the same network, folds, augmentation and passes, on the same patients.

    python -m benchmarks.folds configs/studies/busbra.yaml --methods fedavg --grid 0.01,0.03,0.1 --out runs/busbra-folds
    python -m benchmarks.paired runs/busbra-folds

Each site's patients are divided into disjoint folds, stratified by label; every patient is tested once. A fold's other
patients are training and validation cases. The learning rate of each side is the one of lowest pooled validation loss
on the first fold, over the same grid and rounds. Predictions stay in --out: they are of patients.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor, nn

from benchmarks.tune import best_validation
from consilia.core.determinism import derive_seed, single_threaded
from consilia.core.tensor_files import read_tensors
from consilia.data.augmentation import Augmentation
from consilia.data.dataset import SPLITS, SiteData, Split
from consilia.data.loading import load_site
from consilia.data.splits import patient_labels
from consilia.federation.config import RunConfig
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import own_server
from consilia.models.exchange import load_exchanged
from consilia.study.folder import finished
from consilia.study.study import Study, load_study, study_config, study_sites

VALIDATION = 0.15  # of a fold's other patients
CENTRALISED = "plain centralised loop"
COLUMNS = ("method", "fold", "seed", "model", "site", "patient", "label", "probability")
Row = tuple[str, int, int, str, str, str, int, float]


# ---- folds -------------------------------------------------------------------------------------------------------


def write_folds(study: Study, dataset: str, folds: int, out: Path) -> list[dict[str, Path]]:
    """A folder of sites per fold, which differ in their file of splits alone."""
    sites = study_sites(study, out / "sites")
    places: list[dict[str, Path]] = [{} for _ in range(folds)]
    for site, source in sites.items():
        data = load_site(source, dataset)
        parts = [data.split(part) for part in SPLITS]
        cases = [case for part in parts for case in part.case_ids]
        patients = [patient for part in parts for patient in part.patients]
        names, labels, member = patient_labels(patients, np.concatenate([part.labels.numpy() for part in parts]))
        for fold, by_patient in enumerate(fold_splits(labels, folds, derive_seed(0, "folds", site) % 2**32)):
            place = out / f"fold{fold}" / site
            place.mkdir(parents=True, exist_ok=True)
            table = {"case_id": cases, "patient": names[member], "split": by_patient[member]}
            pd.DataFrame(table).to_csv(place / "splits.csv", index=False)
            content = yaml.safe_load(source.read_text())
            content["datasets"][dataset]["splits"] = {"file": "splits.csv"}
            (place / "site.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            places[fold][site] = place / "site.yaml"
    return places


def fold_splits(labels: np.ndarray, folds: int, seed: int) -> Iterator[np.ndarray]:
    """For each fold the split (P,) of every patient; the test parts are disjoint and cover all patients."""
    for rest, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        split = np.full(len(labels), "train", dtype="<U10")
        split[test] = "test"
        size = max(1, round(VALIDATION * len(rest)))
        # Of fewer validation patients than classes no stratified sample can be taken.
        stratify = labels[rest] if size >= len(np.unique(labels)) else None
        split[train_test_split(rest, test_size=size, random_state=seed, stratify=stratify)[1]] = "validation"
        yield split


# ---- the plain loop ----------------------------------------------------------------------------------------------


def centralised(config: RunConfig, sites: Sequence[SiteData]) -> tuple[dict[str, nn.Module], list[float]]:
    """SGD on the union of the sites' training cases, with nothing of Consilia's training; passes as in ``config``.

    Returns:
        The model of the last pass and the one of lowest validation loss, and the validation loss after every pass.
    """
    training = config.training
    inputs, labels = (torch.cat([getattr(site.train, key) for site in sites]) for key in ("inputs", "labels"))
    cases = [f"{site.site}/{case}" for site in sites for case in site.train.case_ids]
    model = config.model.build(seed=config.seed, allowed=[config.model.class_], folders={})
    counts = labels.bincount().float()
    weight = counts.sum() / (len(counts) * counts) if training.class_weights == "balanced" else None
    augment = training.augmentation and Augmentation(training.augmentation, config.seed, "pooled")
    order = torch.Generator().manual_seed(config.seed)
    best: dict[str, Tensor] = {}
    losses = [float("inf")]
    for number in range(config.rounds):
        rate = training.learning_rate * training.learning_rate_decay**number
        optimiser = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
        model.train()
        for epoch in range(training.local_epochs):
            for batch in torch.randperm(len(labels), generator=order).split(training.batch_size):
                images, truth = inputs[batch], labels[batch]
                if augment:
                    transform = augment.transform(number + 1, epoch)
                    images, truth = transform(images, truth, [cases[i] for i in batch.tolist()])
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images), truth, weight).backward()
                optimiser.step()
        loss = validation_loss(model, sites)
        if loss < min(losses):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        losses.append(loss)
        if config.patience and len(losses) - 1 - int(np.argmin(losses)) >= config.patience:
            break
    chosen = config.model.build(seed=config.seed, allowed=[config.model.class_], folders={})
    chosen.load_state_dict(best)
    return {"last": model, "best": chosen}, losses[1:]


def validation_loss(model: nn.Module, sites: Sequence[SiteData]) -> float:
    """Mean cross-entropy over the validation cases of all sites."""
    logits = torch.cat([logits_of(model, site.validation) for site in sites])
    labels = torch.cat([site.validation.labels for site in sites])
    return float(nn.functional.cross_entropy(logits.double(), labels))


@torch.no_grad()
def logits_of(model: nn.Module, split: Split) -> Tensor:
    """Logits (N, C) in evaluation mode."""
    model.eval()
    return torch.cat([model(piece) for piece in split.inputs.split(256)])


# ---- both sides --------------------------------------------------------------------------------------------------


def run_one(label: str, config: RunConfig, site_files: Mapping[str, Path], place: Path) -> dict[str, nn.Module]:
    """Train one side, or take the models of an earlier call; the lowest validation loss is in ``validation.json``."""
    sites = [load_site(path, config.dataset) for _, path in sorted(site_files.items())]
    if label == CENTRALISED:
        place.mkdir(parents=True, exist_ok=True)
        models, losses = centralised(config, sites)
        (place / "validation.json").write_text(json.dumps({"best": min(losses), "losses": losses}))
        return models
    record = finished(place, config, site_files) or run_inprocess(
        config, site_files, place, server=own_server(config, site_files)
    )
    (place / "validation.json").write_text(json.dumps({"best": best_validation(record, "loss")}))
    models = {}
    for kept in ("last", "best"):
        models[kept] = config.model.build(seed=config.seed, allowed=[config.model.class_], folders={})
        load_exchanged(models[kept], read_tensors(place / f"global-{kept}.safetensors")[0])
    return models


def predictions(
    label: str, fold: int, seed: int, models: Mapping[str, nn.Module], sites: Sequence[SiteData]
) -> Iterator[Row]:
    """One row per test case and model; a patient is a number of its site."""
    for kept, model in models.items():
        for site in sites:
            numbers = {name: str(number) for number, name in enumerate(sorted(set(all_patients(site))))}
            probability = logits_of(model, site.test).double().softmax(1)[:, 1].tolist()
            for patient, truth, p in zip(site.test.patients, site.test.labels.tolist(), probability, strict=True):
                yield label, fold, seed, kept, site.site, numbers[patient], truth, p


def all_patients(site: SiteData) -> list[str]:
    """Patients of all splits of a site, so that their numbers are the same in every fold."""
    return [patient for part in SPLITS for patient in site.split(part).patients]


def choose_rate(label: str, study: Study, sites: Mapping[str, Path], options: argparse.Namespace) -> str:
    """The learning rate of lowest pooled validation loss on the first fold and seed."""
    row: dict[str, float] = {}
    for rate in options.grid.split(","):
        config = configured(label, study, sites, options.seeds[0], rate, [f"rounds={options.grid_rounds}"])
        place = options.out / "grid" / f"{label}-{rate}"
        if not (place / "validation.json").is_file():
            run_one(label, config, sites, place)
        row[rate] = json.loads((place / "validation.json").read_text())["best"]
    best = min(row, key=lambda rate: row[rate])
    print(f"{label}: lowest validation loss by learning rate {row}, chosen {best}", flush=True)
    return best


def configured(
    label: str, study: Study, sites: Mapping[str, Path], seed: int, rate: str, overrides: Sequence[str] = ()
) -> RunConfig:
    """The run's configuration; the plain loop takes the network and the training settings from FedAvg's."""
    method = "fedavg" if label == CENTRALISED else label
    return study_config(study, method, seed, sites, [f"training.learning_rate={rate}", *overrides])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--methods", nargs="*", default=["fedavg"], help="of the study")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--grid", default="0.01,0.03,0.1", help="learning rates")
    parser.add_argument("--grid-rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study = load_study(options.study)
    dataset = study.run["dataset"]
    places = write_folds(study, dataset, options.folds, options.out)
    with single_threaded():
        for label in (CENTRALISED, *options.methods):
            rate = choose_rate(label, study, places[0], options)
            for seed in options.seeds:
                for fold, sites in enumerate(places):
                    compare_one(label, study, sites, fold, seed, rate, options.out)


def compare_one(
    label: str, study: Study, sites: Mapping[str, Path], fold: int, seed: int, rate: str, out: Path
) -> None:
    """Train one side on one fold and write its predictions, unless they are there."""
    place = out / f"{label}-fold{fold}-seed{seed}".replace(" ", "-")
    file = place / "predictions.csv"
    if file.is_file():
        return
    config = configured(label, study, sites, seed, rate)
    models = run_one(label, config, sites, place)
    loaded = [load_site(path, config.dataset) for _, path in sorted(sites.items())]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *predictions(label, fold, seed, models, loaded)])
    print(place.name, flush=True)


if __name__ == "__main__":
    main()
