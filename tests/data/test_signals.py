"""WFDB records: physical units, standardising per lead, and what makes a record unfit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from consilia.core.errors import DataError
from consilia.data.check import check_site
from consilia.data.loading import load_new_cases, load_site

wfdb = pytest.importorskip("wfdb", reason="the signals extra is not installed")

LEADS = ["I", "II"]


def write_record(folder: Path, name: str, signal: np.ndarray, leads: list[str], frequency: int = 100) -> None:
    wfdb.wrsamp(
        name,
        fs=frequency,
        units=["mV"] * len(leads),
        sig_name=leads,
        p_signal=signal,
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),
        baseline=[0] * len(leads),
        write_dir=str(folder),
    )


def signal(index: int) -> np.ndarray:
    return np.random.default_rng(index).normal(size=(50, 2)).round(3) * [1, 2] + [0, 1]


def make_site(folder: Path) -> Path:
    records = folder / "records"
    records.mkdir(exist_ok=True)
    rows = ["ecg,pat,codes"]
    for i in range(10):
        write_record(records, f"r{i}", signal(i), LEADS)
        rows.append(f"r{i},{i // 2}.0,{'NORM' if i % 4 < 2 else 'MI'}")
    (folder / "ecg.csv").write_text("\n".join(rows) + "\n")
    spec = {
        "format": "signals",
        "file": "ecg.csv",
        "folder": "records",
        "record": "ecg",
        "patient": "pat",
        "leads": LEADS,
        "samples": 50,
        "frequency": 100,
        "classes": ["normal", "abnormal"],
        "label": {"column": "codes", "contains": "NORM", "then": "normal", "otherwise": "abnormal"},
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"site": "h", "datasets": {"diagnosis": spec}}))
    return path


def test_values_are_standardised_per_lead(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    data = load_site(path, "diagnosis")
    train = np.stack([signal(int(case[1:])) for case in data.train.case_ids]).transpose(0, 2, 1)
    mean, std = train.mean(axis=(0, 2))[:, None], train.std(axis=(0, 2))[:, None]
    assert data.train.inputs.shape == (len(train), 2, 50)
    assert data.train.inputs.numpy() == pytest.approx((train - mean) / std, abs=1e-3)  # 16 bits: 0.0005 mV
    test = signal(int(data.test.case_ids[0][1:])).T
    assert data.test.inputs[0].numpy() == pytest.approx((test - mean) / std, abs=1e-3)
    new = load_new_cases(path, "diagnosis", tmp_path / "records")
    ids, inputs = list(new.ids), new.inputs
    assert (inputs[ids.index(data.test.case_ids[0])] == data.test.inputs[0]).all()


def test_unfit_records_are_all_named(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    records = tmp_path / "records"
    write_record(records, "r1", signal(1)[:40], LEADS)
    write_record(records, "r2", signal(2), ["II", "I"])
    write_record(records, "r3", signal(3), LEADS, frequency=500)
    hole = signal(4)
    hole[7, 0] = np.nan
    write_record(records, "r4", hole, LEADS)
    (records / "r5.hea").unlink()
    errors = check_site(path)[0].errors
    assert len(errors) == 5
    for name, reason in [
        ("r1", "expected 50 samples, got 40"),
        ("r2", "expected leads ['I', 'II'], got ['II', 'I']"),
        ("r3", "expected 100.0 Hz, got 500"),
        ("r4", "expected finite values, got missing samples"),
        ("r5", "expected a readable WFDB record"),
    ]:
        assert any(f"/{name}: {reason}" in error for error in errors), (name, errors)


def test_a_folder_without_records(tmp_path: Path) -> None:
    path = make_site(tmp_path)
    load_site(path, "diagnosis")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no WFDB header"):
        load_new_cases(path, "diagnosis", tmp_path / "empty")
