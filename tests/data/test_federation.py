"""Cutting a pooled set into sites, listing sites one by one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from consilia.core.errors import ConfigError, DataError
from consilia.data.federation import load_federation
from consilia.data.loading import load_site
from consilia.data.site import load_site_config

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
    path.write_text(yaml.safe_dump({"role": "diagnosis", "common": COMMON, **content}))
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


def test_site_files_are_written_anew_and_what_sites_keep_stays(tmp_path: Path) -> None:
    path = load_federation("wisconsin", tmp_path)["hospital-1"]
    written = path.read_text()
    path.write_text(written + "# edited\n")
    (path.parent / "state").mkdir()
    (path.parent / "state" / "kept").write_text("mine")
    load_federation("wisconsin", tmp_path)
    assert path.read_text() == written
    assert (path.parent / "state" / "kept").read_text() == "mine"


def test_a_role_called_runs_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path)
    source = write(tmp_path, role="runs", pooled={"file": "pool.csv"}, cut=COLUMN)
    with pytest.raises(ConfigError, match="no role can be called 'runs'"):
        load_federation(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cut_by_column(tmp_path: Path) -> None:
    write_pool(tmp_path)
    sites = load_federation(write(tmp_path, pooled={"file": "pool.csv"}, cut=COLUMN), tmp_path / "out")
    assert list(sites) == ["north", "south"]
    assert sites["north"] == tmp_path / "out" / "north" / "site.yaml"
    north = load_site(sites["north"], "diagnosis")
    ids = {*north.train.case_ids, *north.validation.case_ids, *north.test.case_ids}
    assert ids == {f"c{i}" for i in range(20)}
    assert (tmp_path / "out" / "north" / "state" / "diagnosis" / "splits.csv").is_file()


def test_a_patient_at_two_sites(tmp_path: Path) -> None:
    write_pool(tmp_path, shared=True)
    with pytest.raises(DataError, match=r"1 patient\(s\) have cases at more than one site, e.g. 'p0'"):
        load_federation(write(tmp_path, pooled={"file": "pool.csv"}, cut=COLUMN), tmp_path / "out")
    cut = {**COLUMN, "shared_patients": "drop"}
    sites = load_federation(write(tmp_path, pooled={"file": "pool.csv"}, cut=cut), tmp_path / "out")
    north, south = (load_site(path, "diagnosis") for path in sites.values())
    assert sum(len(north.split(name)) for name in ("train", "validation", "test")) == 18
    assert sum(len(south.split(name)) for name in ("train", "validation", "test")) == 20


def test_a_value_that_is_not_there(tmp_path: Path) -> None:
    write_pool(tmp_path)
    cut = {**COLUMN, "names": {"A1": "north", "Z9": "west"}}
    with pytest.raises(DataError, match=r"no case has 'ward' equal to \['Z9'\]"):
        load_federation(write(tmp_path, pooled={"file": "pool.csv"}, cut=cut), tmp_path / "out")


def test_dirichlet_cut_keeps_patients_whole_and_is_repeatable(tmp_path: Path) -> None:
    write_pool(tmp_path)
    (tmp_path / "pool.csv").write_text("\n".join((tmp_path / "pool.csv").read_text().splitlines()[:-1]) + "\n")
    cut = {"by": "dirichlet", "sites": 3, "alpha": 1.0, "min_cases": 4}
    config = write(tmp_path, pooled={"file": "pool.csv"}, cut=cut, evaluator={"file": "pool.csv"})
    sites = load_federation(config, tmp_path / "out")
    assert list(sites) == ["site-01", "site-02", "site-03", "evaluator"]
    listed = {name: (tmp_path / "out" / name / "cases.txt").read_text().split() for name in list(sites)[:3]}
    assert sorted(case for cases in listed.values() for case in cases) == sorted(f"c{i}" for i in range(40))
    owners = {name: {int(case[1:]) // 2 for case in cases} for name, cases in listed.items()}
    assert sum(len(group) for group in owners.values()) == 20
    assert load_site(sites["evaluator"], "diagnosis").is_evaluator
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


def test_classes_must_agree(tmp_path: Path) -> None:
    listed = {"a": {"file": "a.csv"}, "b": {"file": "b.csv", "classes": ["yes", "no"]}}
    with pytest.raises(ConfigError, match=r"classes: expected \['no', 'yes'\] as at site a, got \['yes', 'no'\]"):
        load_federation(write(tmp_path, sites=listed), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "give sites, or pooled and cut"),
        ({"pooled": {"file": "pool.csv"}}, "give sites, or pooled and cut"),
        ({"sites": {}}, "at least one site"),
        ({"sites": {"../up": {"file": "a.csv"}}}, "not '../up'"),
        ({"pooled": {"file": "a.csv", "evaluator": True}, "cut": COLUMN}, "the cut decides"),
        ({"pooled": {"file": "a.csv"}, "cut": {"by": "dirichlet", "sites": 0, "alpha": 1}}, "cut.dirichlet.sites"),
    ],
)
def test_wrong_federations(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_federation(write(tmp_path, **content), tmp_path / "out")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wisconsinn: expected one of \\['wisconsin'\\], a folder"):
        load_federation("wisconsinn", tmp_path)
