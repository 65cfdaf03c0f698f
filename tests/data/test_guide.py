"""The examples of docs/data.md, on made-up files: each passes the site check as it stands in the page."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from consilia.data.check import check_site
from consilia.simulation.federation import load_federation
from tests.conftest import REPOSITORY

GUIDE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
SITES = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)
BLOCKS = re.findall(r"(?m)((?:^    .*\n)+)", GUIDE.partition("## site.yaml")[0])
CASES = 60


def picture(path: Path, seed: int, mask: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (32, 24), dtype=np.uint8)
    Image.fromarray(np.where(values > 128, 255, 0).astype(np.uint8) if mask else values).save(path)


def table_files(root: Path) -> None:
    even = [i % 2 for i in range(CASES)]
    frame = pd.DataFrame({"case_id": [f"c{i}" for i in range(CASES)], "patient_id": [f"p{i}" for i in range(CASES)]})
    frame.assign(num=even, age=range(CASES), trestbps=120, chol=200, sex=even, cp=1).to_csv(root / "heart.csv")


def survival_files(root: Path) -> None:
    frame = pd.DataFrame({"case_id": [f"c{i}" for i in range(CASES)], "days": range(1, CASES + 1)})
    stages = [("1", "2", "3")[i % 3] for i in range(CASES)]
    frame.assign(died=[i % 2 for i in range(CASES)], age=60, marker=range(CASES), stage=stages).to_csv(
        root / "cases.csv"
    )


def image_files(root: Path) -> None:
    names = [f"{i:03d}" for i in range(CASES)]
    for i, name in enumerate(names):
        picture(root / "images" / f"{name}.png", i)
        for mask in (f"{name}.png", f"{name}_mask.png"):
            picture(root / "masks" / mask, i, mask=True)
    kinds = ["benign" if i % 2 else "malignant" for i in range(CASES)]
    patients = [f"p{i}" for i in range(CASES)]
    pd.DataFrame({"image_id": names, "patient_id": patients, "pathology": kinds}).to_csv(root / "metadata.csv")
    asked = [
        {
            "qid": f"q{i}",
            "question": "Is it large?",
            "answer": ("yes", "no", "lung")[i % 3],
            "image_name": f"{name}.png",
        }
        for i, name in enumerate(names)
    ]
    (root / "trainset.json").write_text(json.dumps([{**each, "abstract": "One. Two."} for each in asked[:40]]))
    (root / "testset.json").write_text(json.dumps([{**each, "abstract": ""} for each in asked[40:]]))


def volume_files(root: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    (root / "volumes").mkdir()
    rows = []
    for i in range(10):
        values = np.random.default_rng(i).integers(0, 1200, (16, 16, 3)).astype(np.int16)
        for name, content in ((f"mri-{i}.nii.gz", values), (f"mask-{i}.nii.gz", (values > 600).astype(np.int16))):
            nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), root / "volumes" / name)
        rows += [(f"mri-{i}.nii.gz", f"mask-{i}.nii.gz", number, f"p{i}") for number in range(3)]
    pd.DataFrame(rows, columns=["volume", "mask", "index", "patient"]).to_csv(root / "slices.csv", index=False)


def medmnist_files(root: Path) -> None:
    parts = {}
    for part in ("train", "val", "test"):
        parts[f"{part}_images"] = np.random.default_rng(0).integers(0, 256, (80, 28, 28, 3), dtype=np.uint8)
        parts[f"{part}_labels"] = np.arange(80).reshape(-1, 1) % 8
    np.savez(root / "bloodmnist.npz", **parts)


def signal_files(root: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    leads = ["I", "II", "III", "AVR", "AVL", "AVF", *(f"V{i}" for i in range(1, 7))]
    for i in range(CASES):
        values = np.random.default_rng(i).normal(size=(1000, 12))
        units = {"units": ["mV"] * 12, "fmt": ["16"] * 12}
        wfdb.wrsamp(f"r{i}", fs=100, sig_name=leads, p_signal=values, write_dir=str(root), **units)
    frame = pd.DataFrame({"ecg_id": range(CASES), "patient_id": range(CASES)})
    codes = ["{'NORM': 100.0}" if i % 2 else "{'IMI': 35.0}" for i in range(CASES)]
    noise = ["I-V1" if i % 2 else "" for i in range(CASES)]
    frame = frame.assign(filename_lr=[f"r{i}" for i in range(CASES)], scp_codes=codes)
    frame.assign(baseline_drift=noise, static_noise="").to_csv(root / "ptbxl_database.csv", index=False)


def series_files(root: Path) -> None:
    pytest.importorskip("pyarrow")
    steps = pd.DataFrame([(i, hour) for i in range(CASES) for hour in range(24)], columns=["stay_id", "time"])
    steps.assign(hr=80.0, sbp=120.0, temp=37.0, lact=1.0).to_parquet(root / "dyn.parquet")
    outcomes = pd.DataFrame({"stay_id": range(CASES), "label": [i % 2 == 0 for i in range(CASES)]})
    outcomes.to_parquet(root / "outc.parquet")
    pd.DataFrame({"stay_id": range(CASES), "patient_id": range(CASES)}).to_csv(root / "stays.csv", index=False)


MAKERS = {
    "cleveland/diagnosis": table_files,
    "oncology-north/survival": survival_files,
    "radiology-north/diagnosis": image_files,
    "radiology-north/structure": image_files,
    "urology/structure": volume_files,
    "blood-laboratory/diagnosis": medmnist_files,
    "cardiology/diagnosis": signal_files,
    "intensive-care/diagnosis": series_files,
    "server/vqa": image_files,
    "server/noise": signal_files,
}
BY_NAME = {"/".join(re.findall(r"(?m)^site: (\S+)|^  (\w+):", text)[i][i] for i in (0, 1)): text for text in SITES}


def test_every_example_of_the_page_is_tried() -> None:
    assert set(MAKERS) == set(BY_NAME)
    assert len(SITES) == len(BY_NAME)


@pytest.mark.parametrize("name", MAKERS)
def test_an_example_of_the_page_passes_the_check(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    path = tmp_path / "site.yaml"
    path.write_text(BY_NAME[name])
    (report,) = check_site(path)
    assert report.errors == []
    assert report.cases >= 30


def test_the_federation_files_at_the_top_of_the_page_are_read(tmp_path: Path) -> None:
    hospitals = [("north", "south", "east")[i % 3] for i in range(120)]
    frame = pd.DataFrame({"patient": [f"p{i}" for i in range(120)], "hospital": hospitals})
    frame = frame.assign(age=range(120), sex="m", pain="none", pressure=120, cholesterol=0)
    frame.assign(disease=["yes" if i % 2 else "no" for i in range(120)]).to_csv(tmp_path / "heart.csv", index=False)
    for i in range(120):
        picture(tmp_path / "scans" / f"{i:04d}.png", i)
    found = ["benign" if i % 2 else "malignant" for i in range(120)]
    scans = pd.DataFrame({"image": [f"{i:04d}" for i in range(120)], "patient": frame.patient, "hospital": hospitals})
    scans.assign(finding=found).to_csv(tmp_path / "scans.csv", index=False)
    table, *_ = (textwrap.dedent(block) for block in BLOCKS)
    (lines,) = (block for block in BLOCKS if "format: images" in block)
    begin, end = table.index("  format: tabular"), table.index("partition:")
    for number, text in enumerate((table, table[:begin] + textwrap.indent(textwrap.dedent(lines), "  ") + table[end:])):
        assert len(text.splitlines()) <= 25
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        sites = load_federation(str(path), tmp_path / str(number))
        assert set(sites) == {"north", "south", "east"}
        reports = [check_site(site)[0] for site in sites.values()]
        assert [(report.errors, report.cases) for report in reports] == [([], 40)] * 3
