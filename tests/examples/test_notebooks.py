"""The notebooks of examples/notebooks run as scripts, from an empty folder, and come to what their text says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from consilia.methods import registry
from tests.conftest import REPOSITORY

NOTEBOOKS = REPOSITORY / "examples" / "notebooks"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no method of a plugin after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(registry.PLUGIN, "")
    monkeypatch.delenv(registry.PLUGIN)
    return tmp_path


def run(name: str) -> dict[str, Any]:
    try:
        return runpy.run_path(str(NOTEBOOKS / f"{name}.py"))
    finally:
        registry._plugins.cache_clear()


def test_every_notebook_is_run_here() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == {"own_csv", "new_method"}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_is_text_that_jupytext_takes_for_one(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ---\n# jupyter:\n")
    assert "format_name: percent" in text
    cells = text.split("\n# %%")[1:]
    for cell in cells:
        heading, _, content = cell.partition("\n")
        assert heading in ("", " [markdown]"), f"{path}: cell {heading}"
        if heading:
            assert all(line.startswith("#") for line in content.splitlines() if line.strip()), content


@pytest.mark.slow
def test_a_study_from_ones_own_csv(folder: Path) -> None:
    names = run("own_csv")
    assert {report.site: report.test_only for report in names["reports"]} == {
        "north": False,
        "south": False,
        "east": False,
        "west": True,
    }
    accuracy = names["last"].query("metric == 'global_accuracy'").set_index("method")["mean"]
    assert set(accuracy.index) == {"fedavg", "fedkper", "centralised", "linear", "majority"}
    # West alone is tested: 71 of its 120 patients are healthy, the commonest answer of the others is ill or healthy.
    ill = (names["everybody"].query("hospital == 'west'")["disease"] == "yes").mean()
    assert accuracy["majority"] in (pytest.approx(ill), pytest.approx(1 - ill))
    assert accuracy["fedavg"] > 0.6 > accuracy["majority"]
    auroc = names["judged"].to_frame().set_index("metric").loc["auroc"]
    west = names["tested"].set_index("site").loc["west"]
    assert (auroc["value"], 120) == (pytest.approx(west["auroc"]), west["count"])
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert list(names["answers"]["case"]) == [f"p{number}" for number in range(300, 305)]
    assert names["answers"][["p_healthy", "p_ill"]].sum(axis=1).to_list() == pytest.approx([1] * 5)


@pytest.mark.slow
def test_a_new_method_in_one_file(folder: Path) -> None:
    names = run("new_method")
    mean = names["frame"].set_index("method")["mean"]
    assert mean["adjusted"] > mean["fedavg"]
    digests = {run.record.run.label: run.record.final["last"].sha256 for run in names["found"].runs}
    assert names["plain"].record.final["last"].sha256 == digests["fedavg"] != digests["adjusted"]
