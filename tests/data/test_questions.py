"""Questions in words: texts by hand, questions made of columns, inputs read once, splits by patient, errors by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from consilia.core.errors import ConfigError, DataError
from consilia.data.check import check_site
from consilia.data.check_view import render
from consilia.data.loading import load_site
from consilia.data.public_pool import load_pool
from consilia.data.questions import QuestionSplit, load_questions
from consilia.data.site import load_site_config

ROWS = [
    {"id": 1, "pic": "a.png", "asked": "Is it round?", "said": " Yes "},
    {"id": 2, "pic": "a.png", "asked": "What is it?", "said": "A  large Mass"},
    {"id": 3, "pic": "b.png", "asked": "Is it round?", "said": "no"},
    {"id": 4, "pic": "c.png", "asked": "Is it bright?", "said": "yes"},
    {"id": 5, "pic": "a.png", "asked": "Is it dark?", "said": "NO"},
]
SPLITS = "case_id,split\n1,train\n2,train\n5,train\n3,validation\n4,test\n"


def make_site(root: Path, rows: Any = ROWS, **changes: object) -> Path:
    (root / "rows.json").write_text(json.dumps(rows))
    (root / "splits.csv").write_text(SPLITS)
    spec: dict[str, Any] = {
        "format": "questions",
        "file": "rows.json",
        "question": "asked",
        "answer": "said",
        "case": "id",
        "patient": "pic",
        "classes": ["no", "yes"],
        "splits": {"file": "splits.csv"},
        **changes,
    }
    path = root / "site.yaml"
    given = {key: value for key, value in spec.items() if value is not None}
    path.write_text(yaml.safe_dump({"site": "server", "datasets": {"vqa": given}}, sort_keys=False))
    return path


def with_pictures(root: Path) -> dict[str, Any]:
    (root / "pictures").mkdir(exist_ok=True)
    for i, name in enumerate("abc"):
        Image.fromarray(np.full((6, 4), 40 * i, dtype=np.uint8)).save(root / "pictures" / f"{name}.png")
    form = {"format": "images", "folder": "pictures", "image": "{pic}", "size": [4, 4]}
    return {"input": form}


def test_texts_and_pictures_by_hand(tmp_path: Path) -> None:
    found = load_questions(load_site_config(make_site(tmp_path, **with_pictures(tmp_path))), "vqa")
    assert found.class_names == ("no", "yes")
    train, test = found.train, found.split("test")
    assert train.questions == ("Is it round?", "What is it?", "Is it dark?")
    assert train.answers == ("yes", "a large mass", "no")
    assert (train.case_ids, train.patients) == (("1", "2", "5"), ("a.png",) * 3)
    assert train.inputs is not None
    assert test.inputs is not None
    # One picture, although three questions are about it; fitted on it alone: gray 0, deviation 0 taken as 1.
    assert train.inputs.shape == (1, 1, 4, 4)
    assert train.input_of.tolist() == [0, 0, 0]
    assert (test.questions, test.input_of.tolist()) == (("Is it bright?",), [0])
    torch.testing.assert_close(test.inputs, torch.full((1, 1, 4, 4), 80 / 255))
    with pytest.raises(ValueError, match="split must be one of"):
        found.split("dev")


def test_an_object_of_objects_with_context(tmp_path: Path) -> None:
    rows = {
        str(k): {"Q": f"Is it {k}?", "A": "maybe" if k else "yes", "C": ["one two", "three four"]} for k in range(5)
    }
    site = make_site(
        tmp_path,
        rows,
        question="Q",
        answer="A",
        context="C",
        context_words=3,
        case=None,
        patient=None,
        classes=["no", "yes", "maybe"],
        splits={"validation": 0.2, "test": 0.2},
    )
    data = load_questions(load_site_config(site), "vqa")
    assert sorted([*data.train.case_ids, *data.validation.case_ids, *data.test.case_ids]) == list("01234")
    assert data.train.patients == data.train.case_ids
    texts = dict(zip(data.train.case_ids, data.train.questions, strict=True))
    assert all(text == f"one two three\nIs it {k}?" for k, text in texts.items())
    assert data.train.inputs is None
    assert data.train.input_of.tolist() == [0, 0, 0]
    again = load_questions(load_site_config(site), "vqa")  # from the splits kept the first time
    assert again.test.case_ids == data.test.case_ids


def test_several_files_and_positions(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("asked,said\nWhy?,because\nIs it?,yes\n")
    site = make_site(
        tmp_path, more_files=["more.csv"], case=None, patient=None, splits={"validation": 0.2, "test": 0.2}
    )
    data = load_questions(load_site_config(site), "vqa")
    ids = {*data.train.case_ids, *data.validation.case_ids, *data.test.case_ids}
    assert ids == {*(f"row-rows-{i}" for i in range(1, 6)), "row-more-1", "row-more-2"}
    (tmp_path / "more.csv").write_text("asked,said\nIs it?,yes\nWhy?,because\n")
    with pytest.raises(DataError, match=r"2 of 7 case.* hold other values"):  # ids are positions: another order shows
        load_questions(load_site_config(site), "vqa")


ABOUT = {
    "names": {"drift": "baseline drift", "burst": "burst noise"},
    "each": {"text": "Does it show {name}?", "columns": ["drift"], "filled": "yes", "empty": "no"},
    "which": {"text": "Which noise?", "none": "none"},
}


def test_questions_from_columns(tmp_path: Path) -> None:
    lines = ["ecg,pat,drift,burst", "1,p1, I-V1 ,V2", "2,p1,,V2", "3,p2, ,", "4,p3,V1,", "5,p4,,"]
    (tmp_path / "ecg.csv").write_text("\n".join(lines) + "\n")
    splits = {"validation": 0.25, "test": 0.25}
    changes = {"file": "ecg.csv", "case": "ecg", "patient": "pat", "about": ABOUT, "splits": splits}
    data = load_questions(load_site_config(make_site(tmp_path, question=None, answer=None, **changes)), "vqa")
    parts = [data.train, data.validation, data.test]
    found = {k: (q, a) for part in parts for k, q, a in zip(part.case_ids, part.questions, part.answers, strict=True)}
    assert found == {
        "1-drift": ("Does it show baseline drift?", "yes"),
        "1-which": ("Which noise?", "baseline drift, burst noise"),
        "2-drift": ("Does it show baseline drift?", "no"),
        "2-which": ("Which noise?", "burst noise"),
        "3-drift": ("Does it show baseline drift?", "no"),
        "3-which": ("Which noise?", "none"),
        "4-drift": ("Does it show baseline drift?", "yes"),
        "4-which": ("Which noise?", "baseline drift"),
        "5-drift": ("Does it show baseline drift?", "no"),
        "5-which": ("Which noise?", "none"),
    }
    people = [set(part.patients) for part in parts]
    assert sum(map(len, people)) == len(set.union(*people)) == 4


def test_records(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(3, 50, 2)).round(3)
    for name, signal in zip("abc", signals, strict=True):
        form = {"fmt": ["16"] * 2, "adc_gain": [1000.0] * 2, "baseline": [0] * 2, "write_dir": str(tmp_path)}
        wfdb.wrsamp(name, fs=100, units=["mV"] * 2, sig_name=["I", "II"], p_signal=signal, **form)
    rows = [{**row, "pic": str(row["pic"])[0]} for row in ROWS]
    record = {
        "format": "signals",
        "folder": ".",
        "record": "pic",
        "leads": ["I", "II"],
        "samples": 50,
        "frequency": 100,
    }
    data = load_questions(load_site_config(make_site(tmp_path, rows, input=record)), "vqa")
    mean, std = signals[0].mean(axis=0), signals[0].std(axis=0)  # the only training record
    assert data.test.inputs is not None
    expected = torch.from_numpy(((signals[2] - mean) / std).T[None].astype(np.float32))
    torch.testing.assert_close(data.test.inputs, expected, rtol=1e-4, atol=1e-4)


def test_the_public_pool_is_left_out_where_named(tmp_path: Path) -> None:
    pooled = min(load_pool("pubmedqa").case_ids)
    rows = {k: {"asked": "Is it?", "said": "yes"} for k in (pooled, "a", "b", "c")}
    splits = {"validation": 0.3, "test": 0.3}
    site = make_site(tmp_path, rows, case=None, patient=None, public_pool="pubmedqa", splits=splits)
    data = load_questions(load_site_config(site), "vqa")
    assert {*data.train.case_ids, *data.validation.case_ids, *data.test.case_ids} == {"a", "b", "c"}


def test_the_check_counts(tmp_path: Path) -> None:
    site = make_site(tmp_path, **with_pictures(tmp_path))
    (report,) = check_site(site)
    assert report.errors == []
    assert (report.cases, report.patients, report.inputs, report.input_shape) == (5, 3, 3, (1, 4, 4))
    assert report.counts["train"] == {"no": 1, "yes": 1, "(other words)": 1}
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    (report,) = check_site(site)
    assert len(report.errors) == 1
    assert "b.png (row 3): expected a readable image" in report.errors[0]
    assert render(report) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["No", "yes"]}, r"\['No'\] would never be found"),
        ({"answer": None}, "give question and answer, or about"),
        ({"about": ABOUT}, "give question and answer, or about"),
        ({"splits": {"scheme": "class_balanced"}, "patient": None}, "goes by label"),
        ({"question": None, "answer": None, "about": {**ABOUT, "names": {"burst": "b"}}}, r"columns \['drift'\]"),
        ({"question": None, "answer": None, "about": {"names": {"burst": "b"}}}, "needs each or which"),
    ],
)
def test_wrong_specifications(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_questions(load_site_config(make_site(tmp_path, **changes)), "vqa")


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.json: row 2: the answer is empty"):
        load_questions(load_site_config(make_site(tmp_path, [ROWS[0], {**ROWS[1], "said": None}])), "vqa")
    with pytest.raises(DataError, match=r"rows.json: column\(s\) \['why'\] missing"):
        load_questions(load_site_config(make_site(tmp_path, context="why")), "vqa")
    with pytest.raises(DataError, match="expected a JSON list of objects"):
        load_questions(load_site_config(make_site(tmp_path, ["Is it?"])), "vqa")
    (tmp_path / "rows.csv").write_text("id,pic,asked,said\n1,a,Is it?,yes\n1,a,Why?,no\n")
    with pytest.raises(DataError, match=r"row 2: case id '1' is already in row 1"):
        load_questions(load_site_config(make_site(tmp_path, file="rows.csv")), "vqa")


def test_each_loader_has_its_formats(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with pytest.raises(ConfigError, match="got questions: it has answers in words"):
        load_site(site, "vqa")
    (tmp_path / "cases.csv").write_text("age,dx\n1,no\n2,yes\n")
    spec = {"format": "tabular", "file": "cases.csv", "classes": ["no", "yes"], "numeric": ["age"]}
    spec["label"] = {"column": "dx"}
    site.write_text(yaml.safe_dump({"site": "h", "datasets": {"vqa": spec}}))
    with pytest.raises(ConfigError, match=r"datasets.vqa: expected format questions, got tabular"):
        load_questions(load_site_config(site), "vqa")


def test_a_split_checks_itself() -> None:
    with pytest.raises(ValueError, match="as many answers"):
        QuestionSplit(("Why?",), (), None, torch.zeros(1, dtype=torch.int64), ("a",), ("a",))
    with pytest.raises(ValueError, match=r"places in 0..0"):
        QuestionSplit(("Why?",), ("so",), torch.zeros(1, 2), torch.ones(1, dtype=torch.int64), ("a",), ("a",))
