"""Two hospitals with data for every method, in which each private thing bears a mark that can be searched for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from consilia.data.limits import RESEARCH_LIMITS
from consilia.federation.config import RunConfig, run_config
from consilia.study.study import load_study, study_config
from tests.federation.clinics import clinics_config, write_clinics

MARK = "ZQPRIVATE"
"""In every patient's and case's id, file name, folder, and in the sites' environment."""

IMAGES = 16
ROWS = {"hospital-1": (701, 389), "hospital-2": (523, 617)}
"""Rows of the table by class: so many that their numbers do not come about by chance in other bytes."""


def write_private_sites(folder: Path) -> dict[str, Path]:
    """The sites' site.yaml. All datasets of a site are in one; the server's own data lie beside them."""
    clinics = write_clinics(folder)
    sites = {}
    for number, (name, clinic) in enumerate(zip(ROWS, ("north", "south"), strict=True)):
        tasks: dict[str, Any] = yaml.safe_load(clinics[clinic].read_text())["datasets"]
        place = folder / name / f"{MARK}-data"
        for dataset, spec in tasks.items():
            source = folder / clinic / spec["file"]
            # The first column is the case's id.
            marked = [f"{MARK}-{line}" for line in source.read_text().splitlines()[1:]]
            _write(place / spec["file"], [source.read_text().splitlines()[0], *marked])
            tasks[dataset] = {**spec, "file": f"{place.name}/{spec['file']}"}
        datasets = {"diagnosis": _table(place, name, number), **_images(place, number), **tasks}
        sites[name] = folder / name / "site.yaml"
        state = f"{MARK}-state"
        limits = RESEARCH_LIMITS.model_dump(mode="json")
        content = {"site": name, "state_dir": state, "limits": limits, "datasets": datasets}
        sites[name].write_text(yaml.safe_dump(content))
    return sites


def all_methods() -> dict[str, RunConfig]:
    """One small run of every method that sends something of its own, by the job's name."""
    table = {"model": {"class": "consilia.models.mlp.MLP", "args": {"in_features": 5, "num_classes": 2}}}
    short = ["rounds=1", "training.local_epochs=1"]
    common = {"dataset": "diagnosis", "rounds": 1, **table}
    plain = {"training": {"momentum": 0.0, "weight_decay": 0.0}}
    configs = {
        method: run_config({"method": method, "label": method, **common, **(plain if method == "scaffold" else {})})
        for method in ("fedavg", "fedprox", "fedkper", "scaffold", "fedcurv")
    }
    for task, dataset in (("classification", "finding"), ("segmentation", "lesion")):
        study = load_study(f"fedgpl-{task}")
        configs[f"fedgpl-{task}"] = study_config(study, "fedgpl", 0, {}, [*short, f"dataset={dataset}"])
    return {**configs, "fedkim": clinics_config(("method.evaluation.few_shot=[]", *short))}


def break_table(site: Path) -> str:
    """Put a patient's words where a number belongs; returns them."""
    words = f"{MARK}-fever-since-tuesday"
    lines = table_of(site).read_text().splitlines()
    parts = lines[5].split(",")
    lines[5] = ",".join([*parts[:2], words, *parts[3:]])
    _write(table_of(site), lines)
    return words


def table_of(site: Path) -> Path:
    """The dataset diagnosis."""
    return site.parent / f"{MARK}-data" / "table.csv"


def _table(place: Path, name: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(["benign", "malignant"], ROWS[name])
    values = rng.normal(size=(len(labels), 5)) + (labels == "malignant")[:, None]
    rows = [
        f"{MARK}-{name}-{i},{label},{','.join(map(str, row))}"
        for i, (label, row) in enumerate(zip(labels, values.tolist(), strict=True))
    ]
    _write(place / "table.csv", ["case,label,x0,x1,x2,x3,x4", *rows])
    return {
        **{"format": "tabular", "file": f"{place.name}/table.csv", "case": "case"},
        **{"label": {"column": "label"}, "classes": ["benign", "malignant"], "numeric": [f"x{i}" for i in range(5)]},
    }


def _images(place: Path, seed: int) -> dict[str, Any]:
    """The same images for a classification and for a segmentation."""
    rng = np.random.default_rng(100 + seed)
    for kind in ("images", "masks"):
        (place / kind).mkdir(parents=True)
    rows = ["image,patient,finding"]
    for i in range(IMAGES):
        name, mask = f"{MARK}-{i}", np.zeros((64, 64), np.uint8)
        mask[16 : 32 + i, 16:40] = 255
        pixels = rng.integers(0, 200, size=(64, 64, 3), dtype=np.uint8) + mask[..., None] // 10
        Image.fromarray(pixels).save(place / "images" / f"{name}.png")
        Image.fromarray(mask).save(place / "masks" / f"{name}.png")
        rows.append(f"{name},{MARK}-patient-{i},{'malignant' if i % 2 else 'benign'}")
    _write(place / "images.csv", rows)
    common: dict[str, Any] = {
        **{"format": "images", "file": f"{place.name}/images.csv", "folder": f"{place.name}/images"},
        **{"image": "{image}.png", "case": "image", "patient": "patient", "mode": "rgb", "size": [128, 128]},
        **{"normalise": "half", "mask": {"folder": f"{place.name}/masks", "name": "{image}.png"}},
    }
    finding = {**common, "classes": ["benign", "malignant"], "label": {"column": "finding"}}
    return {
        "finding": finding,
        "lesion": {**common, "task": "segmentation", "classes": ["background", "lesion"]},
    }


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
