"""The server's cases from its file, by hand: labels and questions, what is open, and datasets that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from consilia.core.errors import ConfigError
from consilia.methods.fedkim.cases import OPEN, load_server_cases
from tests.methods.fedkim.clinic import task_definitions

PARTS = ["train", "train", "train", "validation", "test", "test"]
ANSWERS = ["no", "yes", "Maybe ", "yes", "unclear", "no"]
TABULAR = task_definitions(
    mass={"modalities": ["table"]}, size={"modalities": ["table"]}, kidney={"modalities": ["table"]}
)


def server(root: Path, datasets: dict[str, dict[str, Any]]) -> Path:
    rows = [f"c{i},p{i // 2},{i},{'bad' if i % 2 else 'good'},{i},{i},{i}" for i in range(6)]
    (root / "rows.csv").write_text("\n".join(["id,patient,x,label,u,v,w", *rows]) + "\n")
    asked = [{"id": f"c{i}", "q": f"Question {i}?", "a": answer} for i, answer in enumerate(ANSWERS)]
    (root / "asked.json").write_text(json.dumps(asked))
    (root / "splits.csv").write_text("case_id,split\n" + "".join(f"c{i},{part}\n" for i, part in enumerate(PARTS)))
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump({"site": "server", "datasets": datasets}))
    return path


def tabular(**changed: Any) -> dict[str, Any]:
    common = {"format": "tabular", "file": "rows.csv", "case": "id", "classes": ["good", "bad"], "numeric": ["x", "u"]}
    return {**common, "label": {"column": "label"}, "splits": {"file": "splits.csv"}, **changed}


def questions(**changed: Any) -> dict[str, Any]:
    common = {"format": "questions", "file": "asked.json", "question": "q", "answer": "a", "case": "id"}
    return {**common, "classes": ["no", "yes", "maybe"], "splits": {"file": "splits.csv"}, **changed}


def test_labels_become_answers_in_the_tasks_order(tmp_path: Path) -> None:
    found = load_server_cases(server(tmp_path, {"mass": tabular()}), TABULAR)
    assert set(found) == {"mass"}
    public, test = found["mass"].public, found["mass"].test
    assert (len(public), len(found["mass"].validation), len(test)) == (3, 1, 2)
    assert public.answers == ("no", "yes", "no")
    assert public.truth.tolist() == [0, 1, 0]
    assert public.questions == ("Malignant?",) * 3
    assert public.patients == ("c0", "c1", "c2")  # without a patient column, each case is one
    assert test.answers == ("no", "yes")
    assert public.closed.all()
    given = public.encoder_inputs()
    assert given is not None
    assert given.shape == (3, 2)


def test_patients_come_with_the_cases(tmp_path: Path) -> None:
    splits = {"splits": {}, "patient": "patient"}
    found = load_server_cases(server(tmp_path, {"mass": tabular(**splits)}), TABULAR)["mass"]
    every = [*found.public.patients, *found.validation.patients, *found.test.patients]
    assert sorted(every) == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_questions_with_answers_among_the_candidates_and_others(tmp_path: Path) -> None:
    found = load_server_cases(server(tmp_path, {"mass": tabular(), "paper": questions()}), TABULAR)["paper"]
    assert found.public.truth.tolist() == [0, 1, 2]
    assert found.public.answers == ("no", "yes", "maybe")
    assert found.test.truth.tolist() == [OPEN, 0]
    assert found.test.closed.tolist() == [False, True]
    assert found.test.questions == ("Question 4?", "Question 5?")
    assert found.test.encoder_inputs() is None


def test_taking_some_keeps_each_case_whole(tmp_path: Path) -> None:
    public = load_server_cases(server(tmp_path, {"mass": tabular()}), TABULAR)["mass"].public
    taken = public.take(torch.tensor([2, 0]))
    assert (taken.patients, taken.truth.tolist(), taken.input_of.tolist()) == (("c2", "c0"), [0, 0], [2, 0])
    before, after = public.encoder_inputs(), taken.encoder_inputs()
    assert before is not None
    assert after is not None
    assert torch.equal(after, before[[2, 0]])


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"heart": tabular()}, r"expected a dataset for some of \['kidney', 'mass', 'size'\], got \['heart'\]"),
        (
            {"mass": tabular(classes=["good", "bad", "ugly"])},
            r"datasets\.mass\.classes: the task has answers \['no', 'yes'\]",
        ),
        ({"mass": tabular(), "paper": tabular(classes=["good", "bad", "so"])}, "paper has no question of its own"),
        ({"mass": tabular(test_only=True, splits={})}, r"\['mass'\] have no training cases, and these are the public"),
        ({"mass": tabular(), "ask-image": questions()}, r"ask-image\.input: .*\['image', 'text'\], got none"),
    ],
)
def test_datasets_that_do_not_fit(tmp_path: Path, datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_server_cases(server(tmp_path, datasets), TABULAR)


def test_datasets_that_are_no_task_are_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = load_server_cases(server(tmp_path, {"mass": tabular(), "other": tabular()}), TABULAR)
    assert set(found) == {"mass"}
    assert "['other'] are no tasks" in caplog.text
    assert "no dataset for task kidney" in caplog.text
