"""A site's data for several tasks, loaded from one site.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from consilia.core.errors import ConfigError
from consilia.data.dataset import SPLITS
from consilia.data.loading import load_dataset, load_several
from consilia.data.site import SiteConfig, load_site_config

TASKS = {"b-task": 2, "a-task": 3, "elsewhere": 2}


def site(root: Path, **changed: dict[str, Any]) -> SiteConfig:
    rows = [f"c{i},{i},{'xy'[i % 2]},{'uvw'[i % 3]}" for i in range(12)]
    (root / "rows.csv").write_text("\n".join(["id,n,two,three", *rows]) + "\n")
    common = {"format": "tabular", "file": "rows.csv", "case": "id", "numeric": ["n"]}
    two = {**common, "classes": ["x", "y"], "label": {"column": "two"}}
    three = {**common, "classes": ["u", "v", "w"], "label": {"column": "three"}}
    datasets = {"a-task": three, "b-task": two, "not-asked": two, **changed}
    path = root / "site.yaml"
    path.write_text(
        yaml.safe_dump({"site": "h", "datasets": {name: given for name, given in datasets.items() if given}})
    )
    return load_site_config(path)


def test_the_tasks_that_a_site_has(tmp_path: Path) -> None:
    config = site(tmp_path)
    found = load_several(config, TASKS)
    assert found.site == "h"
    assert list(found.datasets) == ["a-task", "b-task"]
    assert found.class_names == ("a-task", "b-task", "elsewhere")
    alone = {name: load_dataset(config, name) for name in ("a-task", "b-task")}
    assert found.cases("train") == sum(len(dataset.train) for dataset in alone.values())
    assert sum(found.cases(split) for split in SPLITS) == 24
    assert found.dataset("b-task").test.case_ids == alone["b-task"].test.case_ids
    assert not found.is_test_only
    with pytest.raises(ValueError, match="split must be one of"):
        found.cases("dev")
    with pytest.raises(ValueError, match=r"site h has the datasets \['a-task', 'b-task'\]: choose one"):
        found.train  # noqa: B018


def test_the_fingerprint_tells_data_and_tasks(tmp_path: Path) -> None:
    config = site(tmp_path)
    every, again = load_several(config, TASKS).fingerprint(), load_several(config, TASKS).fingerprint()
    assert every == again
    assert load_several(config, {"b-task": 2}).fingerprint() != every
    assert load_several(config, {"not-asked": 2}).fingerprint() != load_several(config, {"b-task": 2}).fingerprint()


def test_a_site_that_is_tested_only(tmp_path: Path) -> None:
    common = {"format": "tabular", "file": "rows.csv", "case": "id", "numeric": ["n"], "test_only": True}
    only = {**common, "classes": ["x", "y"], "label": {"column": "two"}}
    found = load_several(site(tmp_path, **{"a-task": {}, "b-task": only}), TASKS)
    assert found.is_test_only
    assert found.cases("train") == 0
    assert len(found.test) == 12


def test_a_site_with_none_of_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some of \['elsewhere'\], got \['a-task', 'b-task', 'not-asked'\]"):
        load_several(site(tmp_path), {"elsewhere": 2})


def test_a_dataset_with_other_classes(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"datasets\.a-task\.classes: the task has 2 answers, got classes \['u', 'v', 'w'\]"
    ):
        load_several(site(tmp_path), {"a-task": 2})


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
        load_several(site(tmp_path, **{"b-task": masks}), TASKS)
