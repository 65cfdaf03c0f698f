"""Several datasets at once: who has a patient, in all alike; what the server and each site get; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError, DataError
from consilia.data.dataset import SPLITS
from consilia.data.loading import load_dataset, load_site
from consilia.data.public_pool import image_digest, load_pool
from consilia.data.questions import load_questions
from consilia.data.site import load_site_config, server_data
from consilia.simulation.federation import load_federation

REPOSITORY = Path(__file__).parents[2]
SHARES = {"public": 0.3, "test": 0.3, "validation": 0.3, "seed": 0}
WARDS = {"by": "column", "column": "ward", "names": {"A": "north", "B": "south"}}
HURT = {"by": "dirichlet", "sites": 2, "alpha": 100, "min_cases": 5, "names": ["north", "west"]}


def table(label: str, **more: object) -> dict[str, Any]:
    return {
        "format": "tabular",
        "file": "pool.csv",
        "case": "id",
        "patient": "pat",
        "classes": ["no", "yes"],
        "label": {"column": label},
        "numeric": ["age"],
        **more,
    }


def write(root: Path, datasets: dict[str, Any], **more: object) -> str:
    rng = np.random.default_rng(0)
    rows = ["id,pat,age,sick,hurt,ward"]
    for i in range(240):
        sick, hurt = rng.choice(["no", "yes"], size=2)
        rows.append(f"c{i},p{i // 2},{i},{sick},{hurt},{'AB'[i // 120]}")
    (root / "pool.csv").write_text("\n".join(rows) + "\n")
    path = root / "federation.yaml"
    path.write_text(yaml.safe_dump({"server": SHARES, "datasets": datasets, **more}))
    return str(path)


def two_datasets() -> dict[str, Any]:
    return {"sick": {"pooled": table("sick"), "partition": WARDS}, "hurt": {"pooled": table("hurt")}}


def patients(path: Path, dataset: str) -> dict[str, set[str]]:
    data = load_site(path, dataset)
    return {name: set(data.split(name).patients) for name in SPLITS}


def test_a_patient_is_on_one_side_in_every_dataset(tmp_path: Path) -> None:
    sites = load_federation(write(tmp_path, two_datasets()), tmp_path / "out")
    assert list(sites) == ["north", "south"]
    server = server_data(sites)
    assert server == tmp_path / "out" / "server" / "data.yaml"
    assert load_site_config(server).site == "server"
    unit = {f"p{i}": derive_seed(0, "server", f"p{i}") / 2**63 for i in range(120)}
    test = {name for name, u in unit.items() if u >= 0.7}
    public = {name for name, u in unit.items() if u < 0.3}
    held = {name for name in public if derive_seed(0, "validation", name) / 2**63 < 0.3}
    expected = {"train": public - held, "validation": held, "test": test}
    assert patients(server, "sick") == patients(server, "hurt") == expected
    assert all(10 < len(part) < 60 for part in (public, test))
    rest = {name for name in unit if name not in public | test}
    found = [set().union(*patients(path, "sick").values()) for path in sites.values()]
    assert found == [{name for name in rest if int(name[1:]) < 60}, {name for name in rest if int(name[1:]) >= 60}]
    assert all(list(load_site_config(path).datasets) == ["sick"] for path in sites.values())  # hurt is unseen
    north = load_site(sites["north"], "sick")
    assert (north.train.patients[0], len(north.train.patients)) == (
        f"p{int(north.train.case_ids[0][1:]) // 2}",
        len(north.train),
    )


def test_sites_need_not_have_every_dataset(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "id,age,hurt\n" + "".join(f"o{i},{i},{'yes' if i % 2 else 'no'}\n" for i in range(9))
    )
    own = table("hurt", file="own.csv")
    del own["patient"]
    datasets = {
        "sick": {"pooled": table("sick"), "partition": WARDS},
        "hurt": {"pooled": table("hurt"), "partition": HURT, "sites": {"east": own}},
    }
    sites = load_federation(write(tmp_path, datasets), tmp_path / "out", train_cases=0.5)
    there = {name: set(load_site_config(path).datasets) for name, path in sites.items()}
    assert there == {"north": {"sick", "hurt"}, "south": {"sick"}, "west": {"hurt"}, "east": {"hurt"}}
    assert sum(len(load_site(sites["east"], "hurt").split(name)) for name in SPLITS) == 3 + 3  # half of six to train
    north, west = (set().union(*patients(sites[name], "hurt").values()) for name in ("north", "west"))
    assert not north & west
    assert load_site_config(sites["east"]).datasets["hurt"].train_cases == 0.5


def test_a_site_left_out_tests_in_all_its_datasets(tmp_path: Path) -> None:
    datasets = two_datasets() | {"hurt": {"pooled": table("hurt"), "partition": HURT}}
    path = write(tmp_path, datasets, leave_out="south")
    sites = load_federation(path, tmp_path / "out", leave_out="north")
    specs = {name: load_site_config(file).datasets for name, file in sites.items()}
    assert {name for name, found in specs.items() if all(spec.test_only for spec in found.values())} == {"north"}
    assert len(specs["north"]) == 2
    with pytest.raises(ConfigError, match="leave_out: expected one of several sites that train"):
        load_federation(path, tmp_path / "out", leave_out="server")


def test_another_federation_has_no_server_data(tmp_path: Path) -> None:
    assert server_data(load_federation(write(tmp_path, two_datasets()), tmp_path / "out")) is not None
    assert server_data(load_federation("wisconsin", tmp_path / "out")) is None


def test_the_pool_of_questions_is_public_and_all_others_are_test(tmp_path: Path) -> None:
    pooled = sorted(load_pool("pubmedqa").case_ids)[:20]
    ids = [*pooled, *(f"q{i}" for i in range(15))]
    (tmp_path / "q.csv").write_text("id,q,a\n" + "".join(f"{name},Is it?,yes\n" for name in ids))
    spec = {"format": "questions", "file": "q.csv", "case": "id", "question": "q", "answer": "a"}
    spec |= {"classes": ["no", "yes"], "public_pool": "pubmedqa"}
    sites = load_federation(write(tmp_path, two_datasets() | {"asked": {"pooled": spec}}), tmp_path / "out")
    server = server_data(sites)
    assert server is not None
    data = load_questions(load_site_config(server), "asked")
    assert {*data.train.case_ids, *data.validation.case_ids} == set(pooled)
    assert set(data.test.case_ids) == {f"q{i}" for i in range(15)}


def test_equal_images_are_on_one_side_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(60, 28, 28), dtype=np.uint8)
    images[30:] = images[:30]  # every image twice
    labels = np.tile(np.arange(30) % 2, 2).astype(np.uint8)[:, None]
    tests = {"test_images": rng.integers(0, 256, size=(8, 28, 28), dtype=np.uint8), "test_labels": labels[:8]}
    sides = []
    for order in (np.arange(60), rng.permutation(60)):
        np.savez(tmp_path / "x.npz", train_images=images[order], train_labels=labels[order], **tests)
        spec = {"format": "medmnist", "file": "x.npz", "parts": ["train", "test"], "classes": ["no", "yes"]}
        out = tmp_path / f"out-{order[0]}"
        sites = load_federation(write(tmp_path, two_datasets() | {"scan": {"pooled": spec}}), out)
        server = server_data(sites)
        assert server is not None
        data = load_site(server, "scan")
        assert set(data.test.case_ids) == {f"test-{i:05d}" for i in range(8)}  # its own test part, all of it
        public = [int(case.split("-")[1]) for part in (data.train, data.validation) for case in part.case_ids]
        sides.append(sorted(image_digest(images[order][i]) for i in public))
    assert sides[0] == sides[1]
    assert sides[0][::2] == sides[0][1::2]  # both copies


ALL = {"pooled": table("hurt"), "server": {"public": 0.3, "test": 0.7}}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"sick": {"partition": WARDS}}, "give pooled"),
        ({"sick": {"pooled": table("sick", test_only=True)}}, "the shares and the partition decide"),
        (
            {"sick": {"pooled": table("sick"), "partition": WARDS, "sites": {"north": table("sick")}}},
            r"the sites \['north'\]",
        ),
        ({"sick": {"pooled": table("sick"), "server": {"public": 0.6, "test": 0.6}}}, "must be at most 1"),
        ({"sick": {"pooled": table("sick")}}, "so there is no site"),
        ({"sick": {"pooled": table("sick"), "partition": {**HURT, "names": ["a"]}}}, "names must be 2 different"),
        ({**two_datasets(), "hurt": ALL}, r"datasets.sick and datasets.hurt read the same table, and \d+ patient"),
        ({"sick": {"sites": {"server": table("sick")}}, "hurt": {"pooled": table("hurt")}}, "called 'server'"),
        (
            {"sick": {**two_datasets()["sick"], "sites": {"east": table("sick", classes=["yes", "no"])}}},
            r"datasets.sick.classes: expected \['yes', 'no'\] as at site east, got \['no', 'yes'\]",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_federation(write(tmp_path, datasets), tmp_path / "out")


def test_data_that_leave_somebody_without(tmp_path: Path) -> None:
    nobody = {"sick": {**two_datasets()["sick"], "partition": {**WARDS, "names": {"A": "north", "C": "south"}}}}
    with pytest.raises(DataError, match=r"datasets.sick: partition.names: no case has 'ward' equal to \['C'\]"):
        load_federation(write(tmp_path, nobody), tmp_path / "out")
    tiny = {**two_datasets()["sick"], "server": {"public": 1e-6, "test": 0.3}}
    with pytest.raises(DataError, match="no public and no validation case falls to the server, of 240"):
        load_federation(write(tmp_path, {"sick": tiny}), tmp_path / "out")
    absent = {"sick": {**two_datasets()["sick"], "partition": {**WARDS, "column": "wing"}}}
    with pytest.raises(DataError, match="no column 'wing'"):
        load_federation(write(tmp_path, absent), tmp_path / "out")


SEEN = {"pneumonia", "breast-malignancy", "abnormal-ecg", "kidney-injury"}
TOGETHER = (
    ("pneumonia",),
    ("breast-malignancy", "breast-birads"),
    ("abnormal-ecg", "conduction-disturbance", "myocardial-infarction", "ecg-noise"),
    ("kidney-injury", "icu-mortality"),
    ("heart-disease",),
    ("vqa-rad",),
    ("pubmedqa",),
)


@pytest.mark.slow
def test_the_five_hospitals(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wfdb")
    monkeypatch.setenv("CONSILIA_DATA", str(data_root))
    sites = load_federation(str(REPOSITORY / "configs" / "hospitals.yaml"), tmp_path)
    assert list(sites) == [f"hospital-{letter}" for letter in "abcde"]
    server = server_data(sites)
    assert server is not None
    people: dict[str, dict[str, set[str]]] = {}
    for path in (*sites.values(), server):
        config = load_site_config(path)
        for dataset, spec in config.datasets.items():
            data = (load_questions if spec.format == "questions" else load_dataset)(config, dataset)
            for name in SPLITS:
                part = data.split(name)
                side = "sites" if path != server else "test" if name == "test" else "public"
                people.setdefault(dataset, {"sites": set(), "public": set(), "test": set()})[side] |= set(part.patients)
            answers = [data.test.answers.count(text) for text in spec.classes] if hasattr(data.test, "answers") else []
            counts = answers or np.bincount(data.test.labels).tolist()
            assert len(counts) == len(spec.classes)
            assert path != server or min(counts) >= 15, dataset  # enough of each class to judge by
            assert list(spec.classes)[:2] == ["no", "yes"]
    assert sorted(people) == sorted(dataset for group in TOGETHER for dataset in group)
    for group in TOGETHER:
        sides = [set().union(*(people[dataset][side] for dataset in group)) for side in ("sites", "public", "test")]
        assert len(set.union(*sides)) == sum(map(len, sides)), group
    assert all(not people[dataset]["sites"] for dataset in people if dataset not in SEEN)
    assert not load_pool("busbra").patients & set.union(*people["breast-birads"].values())
    assert people["vqa-rad"]["public"] <= load_pool("vqa_rad").patients
    assert people["pubmedqa"]["public"] == load_pool("pubmedqa").patients
