"""The card of a saved model: what it says, of whom, and that cards of older versions still load."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
from safetensors import safe_open

from consilia.core.errors import CheckpointError
from consilia.data.loading import load_site
from consilia.federation.inprocess import run_inprocess
from consilia.federation.model_card import read_card, run_card
from consilia.federation.server_settings import own_server
from consilia.record.files import load_record
from tests.cli.clinic import CNN, SIZE, write_clinic
from tests.federation.support import small

OLD = {
    "model": {"class": "consilia.models.mlp.MLP", "args": {"in_features": 30, "num_classes": 2}},
    "task": "classification",
    "dataset": "diagnosis",
    "class_names": ["benign", "malignant"],
    "method": "fedavg",
    "kind": "global-last",
    "run_id": "fedavg-0",
}


def card_of(path: Path):
    with safe_open(str(path), framework="pt") as file:
        return read_card(file.metadata(), path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from consilia.simulation.federation import load_federation

    folder = tmp_path_factory.mktemp("run")
    files = load_federation("wisconsin", folder / "sites")
    config = small("fedavg", licence="CC BY 4.0", test_only_sites=[])
    run_inprocess(config, files, folder / "run", server=own_server(config, files))
    return folder


def test_a_global_card_says_what_the_record_does(finished: Path) -> None:
    record = load_record(finished / "run" / "result.json")
    card = card_of(finished / "run" / "global-best.safetensors")
    assert (card.licence, card.seed, card.kind, card.method) == ("CC BY 4.0", 0, "global-best", "fedavg")
    assert card.rounds == record.final["best"].version
    assert {name: (site.cases, site.fingerprint) for name, site in card.training_sites.items()} == {
        name: (site.train, site.fingerprint) for name, site in record.sites.items()
    }
    accuracies = {name: found["accuracy"] for name, found in card.metrics["test"].items()}
    assert accuracies == {name: own.test.accuracy for name, own in record.final["best"].global_.items()}
    assert card.lacking() == []


def test_a_global_card_has_the_common_layout_and_no_fitted_values(finished: Path) -> None:
    found = card_of(finished / "run" / "global-last.safetensors").preprocessing
    assert (found.rule, found.fitted, found.layout["inputs"]) == ("each site's own", None, "[30]")
    assert found.layout["missing_indicators"] == "false"
    # The names of thirty columns take several lines of a message.
    columns = json.loads(found.layout["numeric"])
    assert (len(columns), columns[0], columns[-1]) == (30, "mean radius", "worst fractal dimension")
    assert "missing" not in found.layout


def test_a_personal_card_has_the_sites_own_values(finished: Path) -> None:
    home = finished / "sites" / "hospital-2"
    data = load_site(home / "site.yaml", "diagnosis")
    (path,) = (home / "state" / "runs").glob("*/personal-last.safetensors")
    card = card_of(path)
    assert card.preprocessing.rule == "the site's own"
    assert list(card.training_sites) == list(card.metrics["test"]) == ["hospital-2"]
    (table,) = home.glob("*.csv")
    with table.open() as file:
        radius = {row["case"]: float(row["mean radius"]) for row in csv.DictReader(file)}
    values = [radius[case] for case in data.train.case_ids]
    assert card.preprocessing.fitted["mean"][0] == pytest.approx(statistics.fmean(values))
    assert card.preprocessing.fitted["scale"][0] == pytest.approx(statistics.pstdev(values))
    assert path.with_suffix(".md").stat().st_mode & 0o077 == 0


def test_the_page_names_sites_classes_licence_and_commands(finished: Path) -> None:
    text = (finished / "run" / "global-best.md").read_text()
    for words in ("benign, malignant", "CC BY 4.0", "| hospital-3 |", "not a medical device", "site prepare"):
        assert words in text
    assert "consilia evaluate global-best.safetensors" in text


def test_every_decision_on_the_page_is_at_the_threshold(finished: Path) -> None:
    text = (finished / "run" / "global-best.md").read_text()
    heading, _, *lines = [line for line in text.split("## Metrics")[1].splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    for line in lines:
        row = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        found = (float(row["sensitivity"]) + float(row["specificity"])) / 2
        assert float(row["balanced accuracy"]) == pytest.approx(found, abs=2e-3)
    assert len(lines) == 4
    assert "positives are malignant" in text


def test_the_shape_of_an_input_is_no_key_of_site_yaml(finished: Path) -> None:
    text = (finished / "run" / "global-best.md").read_text()
    assert "An input then has the shape `" in text
    assert "| inputs |" not in text


def test_names_cannot_break_the_page() -> None:
    from consilia.federation.card_page import card_page

    card = run_card(small("fedavg"), ("a|b", "<script>"), "global-best", licence="![x](http://example.org/`y`)")
    text = card_page(card.model_dump(by_alias=True))
    assert "a\\|b, &lt;script>" in text
    assert "!\\[x\\](http://example.org/\\`y\\`)" in text


def test_a_card_of_an_older_version_loads_and_says_what_it_lacks(tmp_path: Path) -> None:
    card = read_card({"consilia": json.dumps(OLD)}, tmp_path / "old.safetensors")
    assert card.class_names == ("benign", "malignant")
    assert card.lacking() == [
        "preprocessing", "threshold", "training_sites", "metrics", "licence", "seed", "version"
    ]  # fmt: skip
    later = read_card({"consilia": json.dumps({**OLD, "colour": "blue"})}, tmp_path / "later.safetensors")
    assert later.dataset == "diagnosis"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "model"),
        ({"class_names": "benign"}, "class_names"),
        ({"threshold": "high"}, "threshold"),
        ({"threshold": 7}, "threshold"),
    ],
)
def test_a_wrong_card_is_named(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"m.safetensors: its model card cannot be read: .*{words}"):
        read_card({"consilia": json.dumps({**OLD, **change})}, tmp_path / "m.safetensors")


def test_a_test_only_site_gets_its_report_and_predictions(tmp_path: Path) -> None:
    files = {name: write_clinic(tmp_path / name, 24) for name in ("east", "north")}
    files["west"] = write_clinic(tmp_path / "west", 16, test_only=True)
    args = {"num_classes": 2, "in_channels": 1, "image_size": SIZE}
    config = small("fedavg", dataset="mass", model={"class": CNN, "args": args}, rounds=1, test_only_sites=["west"])
    run_inprocess(config, files, tmp_path / "run", server=own_server(config, files))
    (folder,) = (tmp_path / "west" / "state" / "runs").iterdir()
    assert "west" in (folder / "report-last.html").read_text()
    with (folder / "report-last_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["case_id"] for row in rows) == sorted(f"us-{i}" for i in range(16))
    assert not list(folder.glob("personal-*"))
    card = card_of(tmp_path / "run" / "global-last.safetensors")
    assert sorted(card.training_sites) == ["east", "north"]
    assert sorted(card.metrics["test"]) == ["east", "north", "west"]


@pytest.mark.parametrize("threshold", [2.0, -1.0, 1e308])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(CheckpointError, match="its model card cannot be read: threshold"):
        read_card({"consilia": json.dumps({**OLD, "threshold": threshold})}, Path("m.safetensors"))
