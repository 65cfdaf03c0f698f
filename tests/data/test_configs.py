"""The shipped federations load, hold the published counts, and keep the public pool out."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from consilia.core.errors import DataError
from consilia.data.dataset import SPLITS, SiteData
from consilia.data.loading import load_site
from consilia.data.public_pool import image_digest, load_pool, refuse_pooled
from consilia.data.public_pool.__main__ import busbra_list, pneumoniamnist_list
from consilia.simulation.federation import load_federation

REPOSITORY = Path(__file__).parents[2]
POOLS = REPOSITORY / "custom" / "consilia" / "data" / "public_pool"


@pytest.fixture
def root(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSILIA_DATA", str(data_root))
    return data_root


def load(name: str, out: Path, dataset: str = "diagnosis") -> dict[str, SiteData]:
    sites = load_federation(str(REPOSITORY / "configs" / f"{name}.yaml"), out)
    return {site: load_site(path, dataset) for site, path in sites.items()}


def need(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there")


def total(data: SiteData) -> int:
    return sum(len(data.split(name)) for name in SPLITS)


def case_ids(data: SiteData) -> list[str]:
    return [case for name in SPLITS for case in data.split(name).case_ids]


def test_heart_disease(root: Path, tmp_path: Path) -> None:
    need(root / "heart_disease_uci")
    sites = load("heart-disease", tmp_path)
    assert {name: total(data) for name, data in sites.items()} == {
        "cleveland": 303,
        "budapest": 294,
        "switzerland": 123,
        "long-beach-va": 200,
    }
    positive = {name: sum(int(data.split(s).labels.sum()) for s in SPLITS) for name, data in sites.items()}
    assert positive == {"cleveland": 139, "budapest": 106, "switzerland": 115, "long-beach-va": 149}
    # 6 numbers, 6 indicators, 2 + 4 + 2 + 3 + 2 + 3 + 3 levels at every site
    assert {data.train.inputs.shape[1] for data in sites.values()} == {31}
    # Switzerland recorded no cholesterol: 0 after standardising, and the indicator says so.
    assert (sites["switzerland"].train.inputs[:, 2] == 0).all()
    assert (sites["switzerland"].train.inputs[:, 8] == 1).all()


@pytest.mark.slow
def test_busbra(root: Path, tmp_path: Path) -> None:
    need(root / "busbra")
    start = time.process_time()
    sites = load("busbra", tmp_path)
    assert time.process_time() - start < 10
    pool = load_pool("busbra")
    assert len(pool.patients) == 98  # a tenth of 488 and of 490 patients
    assert sum(total(data) for data in sites.values()) == 1875 - len(pool.case_ids)
    assert total(sites["toshiba-aplio"]) == 139
    assert total(sites["u-systems"]) == 25
    assert sites["u-systems"].train.inputs.shape[1:] == (1, 64, 64)
    for data in sites.values():
        assert not pool.case_ids.intersection(case_ids(data))
        people = [{case[:8] for case in data.split(name).case_ids} for name in SPLITS]  # bus_0001-l: patient 1
        assert len(set.union(*people)) == sum(len(group) for group in people)


@pytest.mark.slow
def test_busbra_at_128_for_both_tasks(root: Path, tmp_path: Path) -> None:
    need(root / "busbra")
    classified = load("busbra-128", tmp_path / "a")
    segmented = load("busbra-lesion", tmp_path / "b", "structure")
    pool = load_pool("busbra")
    counts = {name: total(data) for name, data in classified.items()}
    assert counts == {name: total(data) for name, data in segmented.items()}
    assert sum(counts.values()) == 1875 - len(pool.case_ids)
    for data in (*classified.values(), *segmented.values()):
        assert not pool.case_ids.intersection(case_ids(data))
        assert data.train.inputs.shape[1:] == (1, 128, 128)
        people = [{case[:8] for case in data.split(name).case_ids} for name in SPLITS]
        assert len(set.union(*people)) == sum(len(group) for group in people)
    small = segmented["u-systems"]
    assert (small.task, small.class_names) == ("segmentation", ("background", "lesion"))
    case, mask = small.test.case_ids[0], small.test.labels[0].numpy()
    with Image.open(root / "busbra" / "masks" / f"{case}.png") as file:
        drawn = np.asarray(file)
    rows, columns = (((np.arange(128) + 0.5) * size / 128 + 1e-9).astype(int) for size in drawn.shape)
    assert (mask == drawn[np.ix_(rows, columns)]).all()
    with Image.open(root / "busbra" / "images" / f"{case}.png") as file:
        pixels = np.asarray(file.convert("L").resize((128, 128), Image.Resampling.BILINEAR))
    assert small.test.inputs[0, 0].numpy() == pytest.approx(pixels / 127.5 - 1, abs=1e-6)


def test_a_wrong_patient_column_does_not_let_pooled_cases_in() -> None:
    pooled = min(load_pool("busbra").case_ids)
    with pytest.raises(DataError, match=r"1 case\(s\) of the public pool 'busbra'"):
        refuse_pooled("busbra", [pooled, "bus_9999-l"], [])
    refuse_pooled(None, [pooled], [])


def test_pneumoniamnist(root: Path, tmp_path: Path) -> None:
    file = root / "pneumoniamnist" / "pneumoniamnist_28.npz"
    need(file)
    start = time.process_time()
    sites = load("pneumoniamnist", tmp_path)
    assert time.process_time() - start < 8
    assert len(sites) == 21
    assert np.bincount(sites["evaluator"].test.labels).tolist() == [234, 390]  # the official test part, untouched
    digests = load_pool("pneumoniamnist").digests
    with np.load(file) as arrays:
        images = {"train": arrays["train_images"], "test": arrays["test_images"]}
    pooled = sum(image_digest(image) in digests for image in images["train"])
    trained = [data for name, data in sites.items() if name != "evaluator"]
    assert sum(total(data) for data in trained) == 4708 - pooled
    assert min(total(data) for data in trained) >= 10
    seen: set[str] = set()
    for data in sites.values():
        for case in case_ids(data):
            part, number = case.split("-")
            assert image_digest(images[part][int(number)]) not in digests
            assert case not in seen
            seen.add(case)


@pytest.mark.slow
def test_ptbxl(root: Path, tmp_path: Path) -> None:
    need(root / "ptbxl_500")
    pytest.importorskip("wfdb")
    sites = load("ptbxl", tmp_path)
    assert [total(data) for data in sites.values()] == [256, 161, 17, 66]
    normal = sum(int((data.split(name).labels == 0).sum()) for data in sites.values() for name in SPLITS)
    table = (root / "ptbxl_500" / "ptbxl_database.csv").read_text(encoding="utf-8")
    assert normal == sum("'NORM'" in line for line in table.splitlines())
    first = sites["recording-site-0"]
    case = first.test.case_ids[0]
    stored = np.fromfile(root / "ptbxl_500" / "records100" / "00000" / f"{int(case):05d}_lr.dat", "<i2")
    lead = stored.reshape(-1, 12)[:, 4] / 1000
    ours = first.test.inputs[0, 4].numpy()
    assert np.corrcoef(lead, ours)[0, 1] == pytest.approx(1, abs=1e-6)  # the same curve up to the lead's scale


def test_icu(root: Path, tmp_path: Path) -> None:
    need(root / "icu_demo")
    pytest.importorskip("pyarrow")
    sites = load("icu-aki", tmp_path)
    # 667, 546, 472, 135 stays by region, less the two stays of the one patient seen in two regions
    mimic = sites.pop("evaluator")
    assert mimic.is_test_only
    assert (len(mimic.test.labels), int(mimic.test.labels.sum())) == (113, 44)
    assert [total(data) for data in sites.values()] == [666, 545, 472, 135]
    assert sites["midwest"].train.inputs.shape[1:] == (12, 48)
    rates = [sum(int(d.split(s).labels.sum()) for s in SPLITS) / total(d) for d in sites.values()]
    assert rates == pytest.approx([0.276, 0.443, 0.341, 0.444], abs=0.002)


@pytest.mark.parametrize(
    ("name", "sites", "classes", "channels"),
    [("bloodmnist", 20, 8, 3), ("organcmnist", 30, 11, 1), ("organsmnist", 50, 11, 1)],
)
def test_medmnist_protocols_on_noise(
    name: str, sites: int, classes: int, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6000), ("val", 11), ("test", 55)):
        shape = (count, 28, 28) if channels == 1 else (count, 28, 28, 3)
        arrays[f"{part}_images"] = rng.integers(0, 256, size=shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.permutation(np.arange(count) % classes).astype(np.uint8)[:, None]
    np.savez(tmp_path / f"{name}.npz", **arrays)
    monkeypatch.setenv("CONSILIA_DATA", str(tmp_path))
    written = load_federation(str(REPOSITORY / "configs" / f"{name}.yaml"), tmp_path / "out")
    assert len(written) == sites + 1
    first = load_site(written["site-01"], "diagnosis")
    assert first.train.inputs.shape[1:] == (channels, 28, 28)
    assert first.num_classes == classes
    assert len(load_site(written["evaluator"], "diagnosis").test) == 55
    lists = [(tmp_path / "out" / site / "cases.txt").read_text().split() for site in written if site != "evaluator"]
    listed = [case for cases in lists for case in cases]
    assert sorted(listed) == [f"train-{i:05d}" for i in range(6000)]


def test_the_pool_lists_are_reproduced_byte_for_byte(root: Path) -> None:
    need(root / "busbra")
    need(root / "pneumoniamnist")
    assert busbra_list(root / "busbra" / "metadata.csv") == (POOLS / "busbra.txt").read_text()
    npz = root / "pneumoniamnist" / "pneumoniamnist_28.npz"
    assert pneumoniamnist_list(npz) == (POOLS / "pneumoniamnist.txt").read_text()


def test_the_pool_does_not_depend_on_array_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(50, 28, 28), dtype=np.uint8)
    others = {"val_images": images[:1], "test_images": images[1:2]}  # recur in train: never chosen
    np.savez(tmp_path / "a.npz", train_images=images, **others)
    np.savez(tmp_path / "b.npz", train_images=images[::-1], **others)
    listed = pneumoniamnist_list(tmp_path / "a.npz")
    assert listed == pneumoniamnist_list(tmp_path / "b.npz")
    digests = listed.splitlines()[1:]
    assert len(digests) == 5
    assert not {image_digest(images[0]), image_digest(images[1])}.intersection(digests)


def test_flamby_heart(root: Path, tmp_path: Path) -> None:
    need(root / "heart_disease_uci")
    sites = load("flamby-heart", tmp_path)
    assert {name: (len(data.train), len(data.validation), len(data.test)) for name, data in sites.items()} == {
        "cleveland": (199, 0, 104),
        "budapest": (172, 0, 89),
        "switzerland": (30, 0, 16),
        "long-beach-va": (85, 0, 45),
    }
    files = {"cleveland": "cleveland", "budapest": "hungarian", "switzerland": "switzerland", "long-beach-va": "va"}
    for name, file in files.items():
        table = pd.read_csv(root / "heart_disease_uci" / f"processed.{file}.data", header=None, na_values="?")
        table = table.drop(columns=[10, 11, 12]).dropna()
        labels = (table[13] > 0).astype(int).to_numpy()
        numbers = table[[0, 1, 3, 4, 5, 7, 8, 9]].to_numpy()
        levels = [table[column] == level for column, some in ((2, (2, 3, 4)), (6, (1, 2))) for level in some]
        inputs = np.column_stack([numbers, *levels]).astype(float)
        # Switzerland has too few of one class to stratify.
        train, test = train_test_split(
            np.arange(len(labels)),
            train_size=0.66,
            test_size=0.34,
            random_state=43,
            stratify=None if name == "switzerland" else labels,
        )
        mean, deviation = inputs[train].mean(0), inputs[train].std(0, ddof=1) + 1e-9
        for split, chosen in ((sites[name].train, sorted(train)), (sites[name].test, sorted(test))):
            assert split.inputs.numpy() == pytest.approx((inputs[chosen] - mean) / deviation, abs=1e-5)
            assert split.labels.tolist() == labels[chosen].tolist()
