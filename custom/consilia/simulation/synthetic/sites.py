"""Embedded federations of phantoms: four invented hospitals, each with its own scanner and mix of diagnoses."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes
from consilia.core.task import Task
from consilia.data.specs import DatasetSpec, ImagesSpec, LabelSpec, MaskSpec
from consilia.simulation.synthetic.draw import KINDS, PhantomKind, Phantoms, draw_phantoms

HOSPITALS = {
    "phantom-hospital-1": 64,
    "phantom-hospital-2": 76,
    "phantom-hospital-3": 88,
    "phantom-hospital-4": 100,
}  # cases of each
SEED = 11
SIZE = 128
SKEW = 0.45  # how far a hospital's mix of diagnoses is from an even one: 0 even, 1 as Dirichlet(1) draws it


def phantom_sites(kind: str, task: Task, out: Path) -> dict[str, DatasetSpec]:
    """Write ``<hospital>/images``, ``masks`` and ``cases.csv`` under ``out``; return each hospital's specification.

    Some patients have two images, so that splits must go by patient. Hospitals that are there already are not written
    again: the table is written last.

    Raises:
        ConfigError: there is no such kind of phantom.
    """
    if kind not in KINDS:
        raise ConfigError(f"phantom kind must be one of {sorted(KINDS)}, got {kind!r}")
    chosen = KINDS[kind]
    specs: dict[str, DatasetSpec] = {}
    for number, (hospital, count) in enumerate(HOSPITALS.items(), start=1):
        folder = out / hospital
        if not (folder / "cases.csv").exists():
            rng = np.random.default_rng(derive_seed(SEED, "phantom mix", kind, hospital))
            even = np.full(len(chosen.classes), 1 / len(chosen.classes))
            mix = (1 - SKEW) * even + SKEW * rng.dirichlet(np.ones(len(chosen.classes)))
            seed = derive_seed(SEED, "phantom hospital", hospital)
            drawn = draw_phantoms(kind, count, seed=seed, scanner=number, class_weights=mix.tolist(), size=SIZE)
            _write(folder, chosen, drawn, rng)
        specs[hospital] = _spec(folder, chosen, task)
    return specs


def _write(folder: Path, kind: PhantomKind, drawn: Phantoms, rng: np.random.Generator) -> None:
    rows = []
    patient = 0
    for i, label in enumerate(drawn.labels):
        patient += int(i == 0 or rng.random() < 0.8)
        name = f"{kind.name}-{i + 1:03d}"
        rows.append({"image_id": name, "patient_id": f"p{patient:03d}", "diagnosis": kind.classes[label]})
        for part, pixels in (("images", drawn.images[i]), ("masks", drawn.masks[i])):
            png = BytesIO()
            Image.fromarray(pixels).save(png, format="PNG")
            write_bytes(folder / part / f"{name}.png", png.getvalue(), durable=False)
    table = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_bytes(folder / "cases.csv", table.encode())


def _spec(folder: Path, kind: PhantomKind, task: Task) -> ImagesSpec:
    keys = {
        "format": "images",
        "file": folder / "cases.csv",
        "folder": folder / "images",
        "image": "{image_id}.png",
        "case": "image_id",
        "patient": "patient_id",
        "mask": MaskSpec(folder=folder / "masks", name="{image_id}.png"),
        "mode": kind.mode,
        "size": (SIZE, SIZE),
        "normalise": "half",
    }
    if task == "segmentation":
        return ImagesSpec.model_validate({**keys, "task": task, "classes": ("background", kind.structure)})
    return ImagesSpec.model_validate({**keys, "classes": kind.classes, "label": LabelSpec(column="diagnosis")})
