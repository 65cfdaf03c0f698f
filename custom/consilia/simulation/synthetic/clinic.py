"""An embedded federation of several tasks: three invented clinics, and a server with public and test data of its own.

Two clinics lack something: the second has no intensive care, the third neither eye clinic nor electrocardiograph. All
data of a clinic are drawn from its own seed, and every patient belongs to one clinic (or the server) alone. The
server's cases are public, validation or test by patient, the same for all tasks that look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import TypeAdapter

from consilia.core.determinism import derive_seed
from consilia.core.files import write_bytes
from consilia.data.specs import DatasetSpec
from consilia.simulation.synthetic import ecg, icu
from consilia.simulation.synthetic.draw import KINDS, draw_phantoms
from consilia.simulation.wisconsin import wisconsin_sites

SEED = 23
SIZE = 64
GRADE = 2
"""The first grade of retinopathy that is referable: moderate."""
LARGE = 0.05
"""Share of the image above which a lesion is large: about half of them are."""
SERVER = "server"
PUBLIC, VALIDATION, TEST = 120, 40, 120
"""Cases of the server's splits, of each kind of data."""


@dataclass(frozen=True)
class _Task:
    """The kind of data a task looks at, the column with its answer, and the classes in that column."""

    kind: str
    column: str
    classes: tuple[str, str]


SEEN = {
    "phantom-lesion": _Task("ultrasound", "diagnosis", ("benign", "malignant")),
    "phantom-retinopathy": _Task("fundus", "diagnosis", ("mild-or-none", "referable")),
    "phantom-abnormal-ecg": _Task("ecg", "diagnosis", ecg.CLASSES),
    "phantom-kidney-injury": _Task("icu", "kidneys", ("no-injury", "injury")),
}
UNSEEN = {
    "phantom-large-lesion": _Task("ultrasound", "size", ("small", "large")),
    "phantom-fast-rhythm": _Task("ecg", "rhythm", ("slow", "fast")),
    "phantom-icu-death": _Task("icu", "outcome", ("survived", "died")),
}


@dataclass(frozen=True)
class _Clinic:
    """Cases of each kind, the share of the second diagnosis among them, and the number of its machines."""

    cases: dict[str, int]
    share: float
    machine: int


CLINICS = {
    "phantom-clinic-1": _Clinic({"ultrasound": 96, "fundus": 96, "ecg": 96, "icu": 96}, 0.5, 1),
    "phantom-clinic-2": _Clinic({"ultrasound": 80, "fundus": 80, "ecg": 96}, 0.4, 2),
    "phantom-clinic-3": _Clinic({"ultrasound": 64, "icu": 80}, 0.6, 3),
}
_SERVER = _Clinic(dict.fromkeys(("ultrasound", "fundus", "ecg", "icu"), PUBLIC + VALIDATION + TEST), 0.5, 4)
_WORDS = {
    "rhythm": ("steady", "irregular"),
    "rate": ("slow", "moderate", "fast"),
    "complex": ("narrow", "broad"),
    "segment": ("level", "raised", "lowered"),
    "wave": ("upright", "inverted", "flat"),
    "recording": ("clean", "noisy"),
}
"""What a report may say of what."""
_SPEC: TypeAdapter[DatasetSpec] = TypeAdapter(DatasetSpec)


def clinic_sites(out: Path) -> dict[str, dict[str, DatasetSpec]]:
    """Write the clinics' data under ``out``/phantoms/clinic; the specification of each dataset at each clinic.

    What is there already is not written again: the list of cases is written last.
    """
    found = {}
    for name, clinic in CLINICS.items():
        folders = _write(out / "phantoms" / "clinic", name, clinic, [])
        found[name] = {
            dataset: _spec(folders[task.kind], task, {}) for dataset, task in SEEN.items() if task.kind in folders
        }
    return found


def clinic_server(out: Path) -> dict[str, DatasetSpec]:
    """Write the server's data under ``out``/phantoms/clinic; the specification of each dataset.

    The training split of each is the public data. Beside the synthetic data it has a real table, of breast cytology
    (see :mod:`consilia.simulation.wisconsin`), and questions about short reports.
    """
    root = out / "phantoms" / "clinic"
    folders = _write(root, SERVER, _SERVER, [PUBLIC, VALIDATION, TEST])
    found = {
        dataset: _spec(folders[task.kind], task, {"splits": {"file": folders[task.kind] / "splits.csv"}})
        for dataset, task in {**SEEN, **UNSEEN}.items()
    }
    found["phantom-cytology"] = _cytology(root / SERVER / "cytology")
    found["phantom-report"] = _reports(root / SERVER / "reports")
    return found


def _write(root: Path, owner: str, clinic: _Clinic, blocks: Sequence[int]) -> dict[str, Path]:
    """The folders of an owner's data by kind; ``blocks``: how many cases its splits have, where they are given."""
    folders = {kind: root / owner / kind for kind in clinic.cases}
    for kind, folder in folders.items():
        if (folder / "cases.csv").exists():
            continue
        seed = derive_seed(SEED, "phantom clinic", owner, kind)
        rows = _WRITERS[kind](folder, kind, clinic, seed)
        rng = np.random.default_rng(derive_seed(seed, "patients"))
        sizes = blocks or [clinic.cases[kind]]
        rows.insert(1, "patient_id", _patients(f"{owner}-{kind}", sizes, rng))
        if blocks:
            splits = np.repeat(["train", "validation", "test"], blocks)
            _write_csv(folder / "splits.csv", pd.DataFrame({"case_id": rows["case_id"], "split": splits}))
        _write_csv(folder / "cases.csv", rows)
    return folders


def _patients(prefix: str, blocks: Sequence[int], rng: np.random.Generator) -> list[str]:
    """A patient for each case: some have two cases in a row, but never in two blocks."""
    starts = {0, *np.cumsum(blocks).tolist()}
    anew = [case in starts or rng.random() < 0.8 for case in range(sum(blocks))]
    return [f"{prefix}-p{number:03d}" for number in np.cumsum(anew)]


def _write_images(folder: Path, kind: str, clinic: _Clinic, seed: int) -> pd.DataFrame:
    task = next(task for task in SEEN.values() if task.kind == kind)
    count, first = len(KINDS[kind].classes), GRADE if kind == "fundus" else 1
    weights = [(1 - clinic.share) / first] * first + [clinic.share / (count - first)] * (count - first)
    drawn = draw_phantoms(kind, clinic.cases[kind], seed=seed, scanner=clinic.machine, class_weights=weights, size=SIZE)
    names = [f"{kind}-{i + 1:03d}" for i in range(len(drawn.labels))]
    for name, pixels in zip(names, drawn.images, strict=True):
        png = BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        write_bytes(folder / "images" / f"{name}.png", png.getvalue(), durable=False)
    rows = {"case_id": names, "diagnosis": [task.classes[int(label >= first)] for label in drawn.labels]}
    if kind == "ultrasound":
        rows["size"] = ["large" if share > LARGE else "small" for share in (drawn.masks > 0).mean(axis=(1, 2))]
    return pd.DataFrame(rows)


def _write_ecgs(folder: Path, kind: str, clinic: _Clinic, seed: int) -> pd.DataFrame:
    drawn = ecg.draw_ecgs(clinic.cases[kind], seed=seed, recorder=clinic.machine, abnormal=clinic.share)
    names = [f"ecg-{i + 1:03d}" for i in range(len(drawn.labels))]
    for name, signal in zip(names, drawn.signals, strict=True):
        ecg.write_record(folder / "records", name, signal)
    diagnoses = [ecg.CLASSES[label] for label in drawn.labels]
    rhythms = np.where(drawn.rates > ecg.FAST, "fast", "slow")
    return pd.DataFrame({"case_id": names, "diagnosis": diagnoses, "rhythm": rhythms})


def _write_stays(folder: Path, kind: str, clinic: _Clinic, seed: int) -> pd.DataFrame:
    drawn = icu.draw_icu_stays(clinic.cases[kind], seed=seed)
    names = [f"stay-{i + 1:03d}" for i in range(len(drawn.injury))]
    values = pd.DataFrame(drawn.values.reshape(-1, len(icu.FEATURES)), columns=list(icu.FEATURES))
    values.insert(0, "case_id", np.repeat(names, icu.HOURS))
    values.insert(1, "hour", np.tile(np.arange(icu.HOURS), len(names)))
    kidneys = np.where(drawn.injury, "injury", "no-injury")
    outcomes = pd.DataFrame(
        {"case_id": names, "kidneys": kidneys, "outcome": np.where(drawn.death, "died", "survived")}
    )
    for name, table in (("values", values), ("outcomes", outcomes)):
        write_bytes(folder / f"{name}.parquet", table.to_parquet(index=False), durable=False)
    return pd.DataFrame({"case_id": names})


_Writer = Callable[[Path, str, _Clinic, int], pd.DataFrame]
_WRITERS: dict[str, _Writer] = {
    "ultrasound": _write_images,
    "fundus": _write_images,
    "ecg": _write_ecgs,
    "icu": _write_stays,
}


def _write_csv(file: Path, table: pd.DataFrame) -> None:
    write_bytes(file, table.to_csv(index=False, lineterminator="\n").encode())


def _spec(folder: Path, task: _Task, more: dict[str, Any]) -> DatasetSpec:
    common = {"classes": task.classes, "label": {"column": task.column}, "patient": "patient_id", **more}
    if task.kind == "ecg":
        return _SPEC.validate_python(
            {
                "format": "signals",
                "file": folder / "cases.csv",
                "folder": folder / "records",
                "record": "case_id",
                "leads": ecg.LEADS,
                "samples": ecg.SAMPLES,
                "frequency": ecg.FREQUENCY,
                **common,
            }
        )
    if task.kind == "icu":
        return _SPEC.validate_python(
            {
                "format": "timeseries",
                "values": folder / "values.parquet",
                "outcomes": folder / "outcomes.parquet",
                "cases": folder / "cases.csv",
                "id": "case_id",
                "time": "hour",
                "features": icu.FEATURES,
                "steps": icu.HOURS,
                **common,
            }
        )
    return _SPEC.validate_python(
        {
            "format": "images",
            "file": folder / "cases.csv",
            "folder": folder / "images",
            "image": "{case_id}.png",
            "case": "case_id",
            "mode": KINDS[task.kind].mode,
            "size": (SIZE, SIZE),
            "normalise": "half",
            **common,
        }
    )


def _cytology(folder: Path) -> DatasetSpec:
    """Wisconsin's four invented hospitals put together again: 569 cases, no patient named twice."""
    first, *others = (spec.model_dump(exclude_defaults=True) for spec in wisconsin_sites(folder).values())
    splits = {"validation": 0.1, "test": 0.4, "seed": SEED}
    return _SPEC.validate_python({**first, "more_files": [other["file"] for other in others], "splits": splits})


def _reports(folder: Path) -> DatasetSpec:
    """Reports of four sentences, a patient each: whether one mentions a word (as often as not), or which word it uses.

    A word is asked for where another of its kind may stand, so that no word alone tells the answer.
    """
    count = PUBLIC + VALIDATION + TEST
    rng = np.random.default_rng(derive_seed(SEED, "phantom reports"))
    rows = []
    for i in range(count):
        topics = [str(topic) for topic in rng.permutation(list(_WORDS))[:4]]
        said = {topic: str(rng.choice(_WORDS[topic])) for topic in topics}
        report = " ".join(f"The {topic} is {word}." for topic, word in said.items())
        topic = str(rng.choice(topics))
        if i % 4 == 3:
            question, answer = f"Which word follows '{topic} is'?", said[topic]
        else:
            answer = str(rng.choice(["no", "yes"]))
            others = [word for word in _WORDS[topic] if word != said[topic]]
            question = f"Does the text mention {said[topic] if answer == 'yes' else rng.choice(others)}?"
        rows.append((f"question-{i + 1:03d}", f"{SERVER}-report-p{i + 1:03d}", report, question, answer))
    columns = ["case_id", "patient_id", "report", "question", "answer"]
    _write_csv(folder / "questions.csv", pd.DataFrame(rows, columns=columns))
    return _SPEC.validate_python(
        {
            "format": "questions",
            "file": folder / "questions.csv",
            "case": "case_id",
            "patient": "patient_id",
            "context": "report",
            "question": "question",
            "answer": "answer",
            "classes": ("no", "yes"),
            "splits": {"validation": VALIDATION / count, "test": TEST / count, "seed": SEED},
        }
    )
