"""The embedded federation of several tasks: reproducible files, nobody in two places, datasets that load."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from consilia.data.loading import load_site
from consilia.data.questions import load_questions
from consilia.data.site import load_site_config
from consilia.data.specs import DatasetSpec
from consilia.methods.fedkim.task_definitions import load_task_definitions
from consilia.simulation.synthetic import clinic
from consilia.simulation.synthetic.clinic import LARGE, clinic_server, clinic_sites
from consilia.simulation.synthetic.draw import draw_phantoms

pytest.importorskip("wfdb", reason="the signals extra is not installed")
pytest.importorskip("pyarrow", reason="the timeseries extra is not installed")

pytestmark = pytest.mark.slow
Datasets = dict[str, DatasetSpec]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clinic")


@pytest.fixture(scope="module")
def owners(out: Path) -> dict[str, Datasets]:
    """The datasets of the clinics and of the server."""
    return {**clinic_sites(out), "server": clinic_server(out)}


def written(path: Path, owner: str, datasets: Datasets) -> Path:
    datasets = {dataset: spec.model_dump(mode="json", exclude_defaults=True) for dataset, spec in datasets.items()}
    path.mkdir(parents=True, exist_ok=True)
    (path / "site.yaml").write_text(yaml.safe_dump({"site": owner, "datasets": datasets}))
    return path / "site.yaml"


def digests(folder: Path, pattern: str) -> dict[Path, str]:
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_twice(
    owners: dict[str, Datasets], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = {"phantom-clinic-3": clinic.CLINICS["phantom-clinic-3"]}
    monkeypatch.setattr(clinic, "CLINICS", smaller)
    clinic_sites(tmp_path)
    here = digests(tmp_path / "phantoms" / "clinic", "*")
    assert len(here) == 64 + 1 + 3  # images and their table; the two tables of the stays and their list
    assert here == digests(out / "phantoms" / "clinic", "phantom-clinic-3/**/*")


def test_what_is_there_is_not_drawn_again(owners: dict[str, Datasets], out: Path) -> None:
    image = out / "phantoms" / "clinic" / "server" / "fundus" / "images" / "fundus-001.png"
    before = image.stat().st_mtime_ns
    assert clinic_server(out) == owners["server"]
    assert image.stat().st_mtime_ns == before


def test_the_datasets_are_those_of_the_catalogue(owners: dict[str, Datasets]) -> None:
    task_definitions = load_task_definitions("phantom")
    assert set(owners["server"]) == set(task_definitions.tasks)
    assert len(task_definitions.seen) == 4
    assert len(task_definitions.unseen) == 5
    read = {modality for task in task_definitions.tasks.values() for modality in task.modalities}
    assert read == set(task_definitions.modalities) == {"image", "signal", "vitals", "labs", "fluids", "table", "text"}
    for owner, datasets in owners.items():
        for dataset, spec in datasets.items():
            assert len(spec.classes) == len(task_definitions.tasks[dataset].answers), f"{owner} {dataset}"
            assert owner == "server" or dataset in task_definitions.seen
    # Every seen task has two clinics or more, and two clinics lack some.
    counts = [sum(dataset in owners[name] for name in clinic.CLINICS) for dataset in task_definitions.seen]
    assert min(counts) == 2
    assert sorted(len(owners[name]) for name in clinic.CLINICS) == [2, 3, 4]


def test_nobody_is_in_two_places(owners: dict[str, Datasets], out: Path) -> None:
    root = out / "phantoms" / "clinic"
    patients = {
        owner: set().union(*(set(pd.read_csv(file)["patient_id"]) for file in (root / owner).glob("*/cases.csv")))
        for owner in owners
    }
    # And no case was drawn twice under two names.
    contents = {owner: set(digests(root / owner, "*.png").values()) for owner in owners}
    records = {owner: set(digests(root / owner, "*.dat").values()) for owner in owners}
    for one, other in combinations(owners, 2):
        for kind in (patients, contents, records):
            assert not kind[one] & kind[other]
    assert [len(contents[owner]) for owner in owners] == [192, 160, 64, 560]
    assert [len(records[owner]) for owner in owners] == [96, 96, 0, 280]


def test_public_and_test_are_of_other_patients_and_the_same_for_all_tasks(
    out: Path, owners: dict[str, Datasets]
) -> None:
    for kind in ("ultrasound", "fundus", "ecg", "icu"):
        folder = out / "phantoms" / "clinic" / "server" / kind
        splits, cases = pd.read_csv(folder / "splits.csv"), pd.read_csv(folder / "cases.csv")
        assert splits["split"].value_counts().to_dict() == {"train": 120, "validation": 40, "test": 120}
        table = splits.merge(cases, on="case_id")
        assert table.groupby("patient_id")["split"].nunique().max() == 1
        assert table["patient_id"].nunique() < len(table)  # some patients have two cases
    files = [owners["server"][dataset].splits.file for dataset in ("phantom-lesion", "phantom-large-lesion")]
    assert files[0] == files[1] is not None


def test_every_dataset_loads(owners: dict[str, Datasets], tmp_path: Path) -> None:
    for owner, datasets in owners.items():
        path = written(tmp_path / owner, owner, datasets)
        for dataset in sorted(set(datasets) - {"phantom-report"}):
            data = load_site(path, dataset)
            for split in (data.train, data.test):
                assert set(split.labels.tolist()) == {0, 1}, f"{owner} {dataset}"
    assert load_site(tmp_path / "server" / "site.yaml", "phantom-cytology").train.inputs.shape == (284, 30)
    shapes = {
        dataset: tuple(load_site(tmp_path / "phantom-clinic-1" / "site.yaml", dataset).train.inputs.shape[1:])
        for dataset in owners["phantom-clinic-1"]
    }
    assert shapes == {
        "phantom-lesion": (1, 64, 64),
        "phantom-retinopathy": (3, 64, 64),
        "phantom-abnormal-ecg": (12, 1000),
        "phantom-kidney-injury": (24, 48),
    }


def test_a_large_lesion_is_large(out: Path, owners: dict[str, Datasets]) -> None:
    folder = out / "phantoms" / "clinic" / "phantom-clinic-3" / "ultrasound"
    cases = pd.read_csv(folder / "cases.csv")
    seed = clinic.derive_seed(clinic.SEED, "phantom clinic", "phantom-clinic-3", "ultrasound")
    drawn = draw_phantoms("ultrasound", 64, seed=seed, scanner=3, class_weights=[0.4, 0.6], size=64)
    assert (np.asarray(Image.open(folder / "images" / "ultrasound-001.png")) == drawn.images[0]).all()
    area = [int((mask == 255).sum()) / 64**2 for mask in drawn.masks]
    assert (cases["size"] == np.where(np.array(area) > LARGE, "large", "small")).all()
    assert 0.3 < (cases["size"] == "large").mean() < 0.7


def test_a_report_answers_its_question_and_no_word_gives_it_away(owners: dict[str, Datasets], tmp_path: Path) -> None:
    path = written(tmp_path, "server", {"phantom-report": owners["server"]["phantom-report"]})
    data = load_questions(load_site_config(path), "phantom-report")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [120, 40, 120]
    asked = []
    for name in ("train", "validation", "test"):
        split = data.split(name)
        for text, answer in zip(split.questions, split.answers, strict=True):
            report, question = text.split("\n")
            words = report.replace(".", "").split()
            if question.startswith("Which"):
                first, second = question.split("'")[1].split()
                assert words[words.index(first) + 2] == answer
                assert second == "is"
            else:
                asked.append((question.rstrip("?").split()[-1], answer))
                assert (asked[-1][0] in words) == (answer == "yes")
    table = pd.DataFrame(asked, columns=["word", "answer"])
    assert len(table) == 210
    assert abs((table["answer"] == "yes").mean() - 0.5) < 0.11  # three standard errors
    assert table.groupby("word")["answer"].nunique().min() == 2
