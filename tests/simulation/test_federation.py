"""Cutting a pooled set into sites, listing sites one by one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from consilia.core.errors import ConfigError, DataError
from consilia.data.check import check_site
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.simulation.federation import EMBEDDED_DATA, load_federation

COMMON = {
    "format": "tabular",
    "case": "id",
    "patient": "pat",
    "classes": ["no", "yes"],
    "label": {"column": "dx"},
    "numeric": ["age"],
}


def write_pool(root: Path, shared: bool = False) -> None:
    rows = ["id,pat,age,dx,ward"]
    rows += [f"c{i},p{i // 2},{i},{'yes' if i % 4 < 2 else 'no'},{'A1' if i < 20 else 'B2'}" for i in range(40)]
    if shared:
        rows += ["c40,p0,9,no,B2"]
    rows += ["c99,p99,9,maybe,closed"]  # not selected by any site, so its label does not matter
    (root / "pool.csv").write_text("\n".join(rows) + "\n")


def write(root: Path, **content: object) -> str:
    path = root / "federation.yaml"
    path.write_text(yaml.safe_dump({"dataset": "diagnosis", "common": COMMON, **content}))
    return str(path)


COLUMN = {"by": "column", "column": "ward", "names": {"A1": "north", "B2": "south"}}


def test_wisconsin(tmp_path: Path) -> None:
    sites = load_federation("wisconsin", tmp_path)
    data = [load_site(path, "diagnosis") for path in sites.values()]
    assert list(sites) == [f"hospital-{i}" for i in range(1, 5)]
    splits = [part for site in data for part in (site.train, site.validation, site.test)]
    assert sum(len(part) for part in splits) == 569
    assert sum(int(part.labels.sum()) for part in splits) == 212  # malignant
    assert all(0 < int(site.test.labels.sum()) < len(site.test) for site in data)
    assert data[0].class_names == ("benign", "malignant")
    again = load_federation("wisconsin", tmp_path)
    assert [load_site(path, "diagnosis").fingerprint() for path in again.values()] == [d.fingerprint() for d in data]


def test_digits_have_few_classes_at_each_site(tmp_path: Path) -> None:
    data = [load_site(path, "digit") for path in load_federation("digits", tmp_path).values()]
    parts = [[site.train, site.validation, site.test] for site in data]
    # scikit-learn's description of the data: 1797 images of 8 x 8.
    assert sum(len(part) for site in parts for part in site) == 1797
    assert {tuple(part.inputs.shape[1:]) for site in parts for part in site} == {(1, 8, 8)}
    assert [site.site for site in data] == [f"site-{i:02d}" for i in range(1, 9)]
    largest = []
    for site in parts:
        counts = sum(part.labels.bincount(minlength=10) for part in site)
        assert int(counts.sum()) >= 60
        largest.append(float(counts.sort(descending=True).values[:3].sum() / counts.sum()))
    assert all(share > 0.6 for share in largest)  # three of ten classes would be 0.3 without a skew
    assert {int(label) for site in data for label in site.test.labels} == set(range(10))


def test_site_files_are_written_anew_and_what_sites_keep_stays(tmp_path: Path) -> None:
    path = load_federation("wisconsin", tmp_path)["hospital-1"]
    written = path.read_text()
    path.write_text(written + "# edited\n")
    (path.parent / "state").mkdir()
    (path.parent / "state" / "kept").write_text("mine")
    load_federation("wisconsin", tmp_path)
    assert path.read_text() == written
    assert (path.parent / "state" / "kept").read_text() == "mine"


def test_a_dataset_called_runs_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path)
    source = write(tmp_path, dataset="runs", pooled={"file": "pool.csv"}, partition=COLUMN)
    with pytest.raises(ConfigError, match="no dataset can be called 'runs'"):
        load_federation(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_partition_by_column(tmp_path: Path) -> None:
    write_pool(tmp_path)
    sites = load_federation(write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN), tmp_path / "out")
    assert list(sites) == ["north", "south"]
    assert sites["north"] == tmp_path / "out" / "north" / "site.yaml"
    north = load_site(sites["north"], "diagnosis")
    ids = {*north.train.case_ids, *north.validation.case_ids, *north.test.case_ids}
    assert ids == {f"c{i}" for i in range(20)}
    assert (tmp_path / "out" / "north" / "state" / "diagnosis" / "splits.csv").is_file()


def test_a_patient_at_two_sites(tmp_path: Path) -> None:
    write_pool(tmp_path, shared=True)
    with pytest.raises(DataError, match=r"1 patient\(s\) have cases at more than one site, e.g. 'p0'"):
        load_federation(write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN), tmp_path / "out")
    partition = {**COLUMN, "shared_patients": "drop"}
    sites = load_federation(write(tmp_path, pooled={"file": "pool.csv"}, partition=partition), tmp_path / "out")
    north, south = (load_site(path, "diagnosis") for path in sites.values())
    assert sum(len(north.split(name)) for name in ("train", "validation", "test")) == 18
    assert sum(len(south.split(name)) for name in ("train", "validation", "test")) == 20


def test_a_value_that_is_not_there(tmp_path: Path) -> None:
    write_pool(tmp_path)
    partition = {**COLUMN, "names": {"A1": "north", "Z9": "west"}}
    with pytest.raises(DataError, match=r"no case has 'ward' equal to \['Z9'\]; expected one of "):
        load_federation(write(tmp_path, pooled={"file": "pool.csv"}, partition=partition), tmp_path / "out")


def test_dirichlet_cut_keeps_patients_whole_and_is_repeatable(tmp_path: Path) -> None:
    write_pool(tmp_path)
    (tmp_path / "pool.csv").write_text("\n".join((tmp_path / "pool.csv").read_text().splitlines()[:-1]) + "\n")
    partition = {"by": "dirichlet", "sites": 3, "alpha": 1.0, "min_cases": 4}
    config = write(tmp_path, pooled={"file": "pool.csv"}, partition=partition, test_only={"file": "pool.csv"})
    sites = load_federation(config, tmp_path / "out")
    assert list(sites) == ["site-01", "site-02", "site-03", "evaluator"]
    listed = {name: (tmp_path / "out" / name / "cases.txt").read_text().split() for name in list(sites)[:3]}
    assert sorted(case for cases in listed.values() for case in cases) == sorted(f"c{i}" for i in range(40))
    owners = {name: {int(case[1:]) // 2 for case in cases} for name, cases in listed.items()}
    assert sum(len(group) for group in owners.values()) == 20
    assert load_site(sites["evaluator"], "diagnosis").is_test_only
    load_federation(config, tmp_path / "again")
    assert (tmp_path / "again" / "site-02" / "cases.txt").read_text().split() == listed["site-02"]


def test_sites_one_by_one_and_a_folder(tmp_path: Path) -> None:
    write_pool(tmp_path)
    listed = {
        name: {"file": "pool.csv", "select": {"column": "ward", "values": [v]}} for v, name in COLUMN["names"].items()
    }
    sites = load_federation(write(tmp_path, sites=listed), tmp_path / "out")
    spec = load_site_config(sites["south"]).dataset("diagnosis")
    assert spec.file == tmp_path / "pool.csv"
    assert load_federation(str(tmp_path / "out"), tmp_path / "unused") == sites
    assert not (tmp_path / "unused").exists()
    (tmp_path / "out" / "copy").mkdir()
    (tmp_path / "out" / "copy" / "site.yaml").write_text(sites["south"].read_text())
    with pytest.raises(ConfigError, match="site 'south' is also the name"):
        load_federation(str(tmp_path / "out"), tmp_path)


def test_leave_one_site_out(tmp_path: Path) -> None:
    write_pool(tmp_path)
    source = write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN, leave_out="south")
    sites = load_federation(source, tmp_path / "out")
    south, north = (load_site(sites[name], "diagnosis") for name in ("south", "north"))
    assert (south.site, south.is_test_only, len(south.test)) == ("south", True, 20)
    assert (north.is_test_only, len(north.train)) == (False, 14)
    other = load_federation(source, tmp_path / "other", leave_out="north")
    assert load_site(other["north"], "diagnosis").is_test_only
    assert not load_site(other["south"], "diagnosis").is_test_only
    wisconsin = load_federation("wisconsin", tmp_path / "w", leave_out="hospital-2")
    assert [load_site_config(path).dataset("diagnosis").test_only for path in wisconsin.values()] == [
        False,
        True,
        False,
        False,
    ]


def test_leave_out_what_cannot_be(tmp_path: Path) -> None:
    write_pool(tmp_path)
    source = write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN, test_only={"file": "pool.csv"})
    for name in ("west", "evaluator"):
        with pytest.raises(ConfigError, match=rf"several sites that train, \['north', 'south'\], got '{name}'"):
            load_federation(source, tmp_path / "out", leave_out=name)
    alone = write(tmp_path, sites={"north": {"file": "pool.csv"}}, leave_out="north")
    with pytest.raises(ConfigError, match=r"several sites that train, \['north'\], got 'north'"):
        load_federation(alone, tmp_path / "out")
    sites = load_federation("wisconsin", tmp_path / "w")
    with pytest.raises(ConfigError, match="a folder of sites is taken as it is"):
        load_federation(str(tmp_path / "w"), tmp_path, leave_out=next(iter(sites)))


def test_low_data_in_common_leaves_validation_and_test(tmp_path: Path) -> None:
    write_pool(tmp_path)
    full = load_federation(write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN), tmp_path / "full")
    few = write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN, common={**COMMON, "train_cases": 0.5})
    for name, path in load_federation(few, tmp_path / "few").items():
        all_cases, some = load_site(full[name], "diagnosis"), load_site(path, "diagnosis")
        assert len(all_cases.train) == 14
        assert len(some.train) == 7
        assert set(some.train.case_ids) < set(all_cases.train.case_ids)
        assert some.test.case_ids == all_cases.test.case_ids
        assert some.validation.case_ids == all_cases.validation.case_ids
        # The preprocessing is fitted on the cases that are used, and no others.
        assert some.train.inputs.mean().item() == pytest.approx(0, abs=1e-6)
    many = write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN, common={**COMMON, "train_cases": 15})
    sites = load_federation(many, tmp_path / "many")
    with pytest.raises(DataError, match=r"at most the 14 case\(s\) of the training split, got 15"):
        load_site(sites["north"], "diagnosis")
    assert any("got 15" in error for error in check_site(sites["north"])[0].errors)


def test_low_data_in_the_check(tmp_path: Path) -> None:
    write_pool(tmp_path)
    few = write(tmp_path, pooled={"file": "pool.csv"}, partition=COLUMN, common={**COMMON, "train_cases": 3})
    (report,) = check_site(load_federation(few, tmp_path / "few")["north"])
    assert report.errors == []
    assert (report.unused, sum(report.counts["train"].values())) == (11, 3)


@pytest.mark.slow
def test_phantom_federations(phantoms, tmp_path: Path) -> None:
    classified = ("phantom-fundus", "phantom-skin", "phantom-ultrasound")
    masks = ("phantom-skin-masks", "phantom-polyp", "phantom-prostate", "phantom-ultrasound-masks")
    assert {name for name in EMBEDDED_DATA if name.startswith("phantom-")} == {*classified, *masks, "phantom-clinic"}
    datasets = dict.fromkeys(classified, "diagnosis") | dict.fromkeys(masks, "structure")
    for name, task in (("phantom-ultrasound", "classification"), ("phantom-polyp", "segmentation")):
        sites = phantoms(name, tmp_path / name)
        assert list(sites) == [f"phantom-hospital-{i}" for i in range(1, 5)]
        data = load_site(sites["phantom-hospital-1"], datasets[name])
        assert data.task == task
        assert data.train.inputs.shape[2:] == (128, 128)
    image = next((tmp_path / "phantom-polyp").rglob("*.png"))
    before = image.stat().st_mtime_ns
    load_federation("phantom-polyp", tmp_path / "phantom-polyp")
    assert image.stat().st_mtime_ns == before
    # In the folder of another kind the images are its own: kinds must not be taken for each other.
    sites = load_federation("phantom-prostate", tmp_path / "phantom-polyp")
    assert load_site_config(sites["phantom-hospital-1"]).dataset("structure").mode == "gray"
    with pytest.raises(DataError, match=r"64 case\(s\) of the data are not in this file"):
        load_site(sites["phantom-hospital-1"], "structure")


def test_classes_must_agree(tmp_path: Path) -> None:
    listed = {"a": {"file": "a.csv"}, "b": {"file": "b.csv", "classes": ["yes", "no"]}}
    with pytest.raises(ConfigError, match=r"classes: expected \['no', 'yes'\] as at site a, got \['yes', 'no'\]"):
        load_federation(write(tmp_path, sites=listed), tmp_path / "out")


MASKS = {
    "format": "images",
    "task": "segmentation",
    "file": "a.csv",
    "folder": ".",
    "image": "{a}.png",
    "mask": {"folder": ".", "name": "{a}.png"},
    "classes": ["background", "polyp"],
    "size": [8, 8],
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "give sites, or pooled and partition"),
        ({"pooled": {"file": "pool.csv"}}, "give sites, or pooled and partition"),
        ({"sites": {}}, "at least one site"),
        ({"sites": {"../up": {"file": "a.csv"}}}, "not '../up'"),
        ({"pooled": {"file": "a.csv", "test_only": True}, "partition": COLUMN}, "the partition decides"),
        (
            {"pooled": {"file": "a.csv"}, "partition": {"by": "dirichlet", "sites": 0, "alpha": 1}},
            "partition.dirichlet.sites",
        ),
        (
            {"common": {}, "pooled": MASKS, "partition": {"by": "dirichlet", "sites": 2, "alpha": 1}},
            "partition by a column",
        ),
    ],
)
def test_wrong_federations(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_federation(write(tmp_path, **content), tmp_path / "out")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wisconsinn: expected a folder with .*; did you mean 'wisconsin'\?"):
        load_federation("wisconsinn", tmp_path)
