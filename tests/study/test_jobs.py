"""The shipped job folders: fresh, valid, allowed, and buildable."""

from __future__ import annotations

import filecmp
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from nvflare.apis.utils.job_utils import load_job_def_bytes
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from consilia.core.errors import ConfigError
from consilia.federation.config import run_config
from consilia.flare.recipe import ALLOWED_CLASSES, ConsiliaRecipe
from consilia.study.jobs import write_jobs
from tests.conftest import REPOSITORY

JOBS = REPOSITORY / "jobs"
MODEL = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 4, "num_classes": 2}}


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    write_jobs(folder, REPOSITORY)
    return folder


def test_jobs_are_what_the_recipes_give(fresh: Path) -> None:
    shipped, expected = files(JOBS), files(fresh)
    assert sorted(shipped) == sorted(expected), "run: make jobs"
    stale = [name for name in expected if not filecmp.cmp(shipped[name], expected[name], shallow=False)]
    assert stale == [], "run: make jobs"


def components(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("path"), str):
            yield node
        for value in node.values():
            yield from components(value)
    elif isinstance(node, list):
        for value in node:
            yield from components(value)


@pytest.mark.parametrize("job", sorted(path.name for path in JOBS.iterdir()))
def test_a_job_is_valid_allowed_and_buildable(job: str) -> None:
    valid, error, meta = JobMetaValidator().validate(job, load_job_def_bytes(str(JOBS), job))
    assert valid, error
    assert not meta.get("byoc")
    assert not (JOBS / job / "app" / "custom").exists()
    allowed = {*DEFAULT_CLASS_ALLOW_LIST, *ALLOWED_CLASSES}
    built = []
    for config in (JOBS / job / "app" / "config").glob("*.json"):
        for component in components(json.loads(config.read_text())):
            assert component["path"] in allowed
            built.append(locate(component["path"])(**component["args"]))
    assert {type(item).__name__ for item in built} >= {"ConsiliaController", "ConsiliaExecutor", "SafetensorsPersistor"}


def test_every_argument_is_exported(tmp_path: Path) -> None:
    method = {"method": "fedkper", "max_kd_weight": 3.0, "kd_weight_mode": "sample"}
    recipe = ConsiliaRecipe(method=method, model=MODEL, name="x", rounds=7, seed=5)
    recipe.export(str(tmp_path))
    configs = [json.loads(path.read_text()) for path in (tmp_path / "x" / "app" / "config").glob("*.json")]
    found = {item["path"].rpartition(".")[2]: item for config in configs for item in components(config)}
    for name in ("ConsiliaController", "ConsiliaExecutor", "SafetensorsPersistor"):
        assert found[name]["args"]["config"] == recipe.config.to_json()
    accepted = inspect.signature(locate(found["ConsiliaController"]["path"]).__init__).parameters
    assert set(found["ConsiliaController"]["args"]) <= set(accepted)


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedkper"])
def test_a_recipe_of_a_whole_config_is_that_of_its_keys(method: str) -> None:
    recipe = ConsiliaRecipe(method=method, model=MODEL, rounds=2)
    assert recipe.config == run_config({"method": method, "model": MODEL, "rounds": 2})
    assert ConsiliaRecipe(recipe.config).config == recipe.config
    assert recipe.name == method


def test_a_recipe_refuses_bad_values() -> None:
    with pytest.raises(ConfigError, match=r"ConsiliaRecipe: method.max_kd_weight"):
        ConsiliaRecipe(method={"method": "fedkper", "max_kd_weight": -1}, model=MODEL)
    with pytest.raises(ConfigError, match=r"ConsiliaRecipe: rouns"):
        ConsiliaRecipe(method="fedavg", model=MODEL, rouns=3)
    with pytest.raises(ConfigError, match=r"a whole config and \['rounds'\]"):
        ConsiliaRecipe(run_config({"method": "fedavg", "model": MODEL}), rounds=3)
