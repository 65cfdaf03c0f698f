"""A site's data for several tasks, loaded from one site.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from consilia.core.errors import ConfigError
from consilia.data.loading import load_site
from consilia.data.tasked import load_tasks

TASKS = {"b-task": 2, "a-task": 3, "elsewhere": 2}


def site(root: Path, **roles: dict[str, Any]) -> Path:
    rows = [f"c{i},{i},{'xy'[i % 2]},{'uvw'[i % 3]}" for i in range(12)]
    (root / "rows.csv").write_text("\n".join(["id,n,two,three", *rows]) + "\n")
    common = {"format": "tabular", "file": "rows.csv", "case": "id", "numeric": ["n"]}
    two = {**common, "classes": ["x", "y"], "label": {"column": "two"}}
    three = {**common, "classes": ["u", "v", "w"], "label": {"column": "three"}}
    datasets = {"a-task": three, "b-task": two, "not-asked": two, **roles}
    path = root / "site.yaml"
    path.write_text(
        yaml.safe_dump({"site": "h", "datasets": {name: given for name, given in datasets.items() if given}})
    )
    return path


def test_the_tasks_that_a_site_has(tmp_path: Path) -> None:
    path = site(tmp_path)
    found = load_tasks(path, TASKS)
    assert found.site == "h"
    assert list(found.tasks) == ["a-task", "b-task"]
    assert found.class_names == ("a-task", "b-task", "elsewhere")
    alone = {name: load_site(path, name) for name in ("a-task", "b-task")}
    assert found.training_cases() == {name: len(data.train) for name, data in alone.items()}
    assert len(found.train) == sum(found.training_cases().values())
    assert len(found.train) + len(found.validation) + len(found.test) == 24
    assert found.split("test").parts["b-task"].case_ids == alone["b-task"].test.case_ids
    assert not found.is_test_only
    with pytest.raises(ValueError, match="split must be one of"):
        found.split("dev")


def test_the_fingerprint_tells_data_and_tasks(tmp_path: Path) -> None:
    path = site(tmp_path)
    every, again = load_tasks(path, TASKS).fingerprint(), load_tasks(path, TASKS).fingerprint()
    assert every == again
    assert load_tasks(path, {"b-task": 2}).fingerprint() != every
    assert load_tasks(path, {"not-asked": 2}).fingerprint() != load_tasks(path, {"b-task": 2}).fingerprint()


def test_a_site_that_is_tested_only(tmp_path: Path) -> None:
    common = {"format": "tabular", "file": "rows.csv", "case": "id", "numeric": ["n"], "test_only": True}
    only = {**common, "classes": ["x", "y"], "label": {"column": "two"}}
    found = load_tasks(site(tmp_path, **{"a-task": {}, "b-task": only}), TASKS)
    assert found.is_test_only
    assert found.training_cases() == {"b-task": 0}
    assert len(found.test) == 12


def test_a_site_with_none_of_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some of \['elsewhere'\], got \['a-task', 'b-task', 'not-asked'\]"):
        load_tasks(site(tmp_path), {"elsewhere": 2})


def test_a_role_with_other_classes(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"datasets\.a-task\.classes: the task has 2 answers, got classes \['u', 'v', 'w'\]"
    ):
        load_tasks(site(tmp_path), {"a-task": 2})


def test_a_segmentation_is_no_task(tmp_path: Path) -> None:
    masks = {
        "format": "images",
        "task": "segmentation",
        "file": "rows.csv",
        "folder": ".",
        "image": "{id}.png",
        "mask": {"folder": ".", "name": "{id}.png"},
        "size": [8, 8],
        "classes": ["background", "mass"],
    }
    with pytest.raises(ConfigError, match=r"datasets\.b-task\.task: .* got segmentation"):
        load_tasks(site(tmp_path, **{"b-task": masks}), TASKS)
