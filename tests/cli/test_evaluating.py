"""``consilia evaluate``: a saved model on a hospital's labelled cases, against scikit-learn on the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score

from consilia.core.errors import ConfigError
from consilia.data.loading import load_site
from consilia.federation.model_card import TrainingSite, personal_card, save_model
from consilia.federation.model_evaluation import evaluate_model
from consilia.models.exchange import exchanged_state
from tests.cli.clinic import CLASSES, by_hand, config, network, training_values, write_clinic, write_model
from tests.cli.support import consilia


@pytest.fixture
def hospital(tmp_path: Path) -> tuple[Path, Path]:
    """A prepared site that has not trained, and a model of another with a threshold of its own."""
    site = write_clinic(tmp_path / "west", 40)
    model = tmp_path / "global-best.safetensors"
    write_model(model, write_clinic(tmp_path / "east"), threshold=0.47)
    consilia("site", "prepare", site)
    return site, model


def found_by_hand(site: Path, cases: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """True classes and probabilities of class 1 of cases, from the files on."""
    mean, std = training_values(site)
    with (site.parent / "table.csv").open() as file:
        truth = {row["name"]: CLASSES.index(row["finding"]) for row in csv.DictReader(file)}
    images = [site.parent / "images" / f"{case}.png" for case in cases]
    chances = [by_hand(network(), image, mean, std) for image in images]
    return np.array([truth[case] for case in cases]), np.array(chances)


def test_metrics_are_scikit_learns_on_the_files(hospital, tmp_path: Path) -> None:
    site, model = hospital
    text = consilia("evaluate", model, "--site", site, "--split", "all", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    truth, chances = found_by_hand(site, [f"us-{i}" for i in range(40)])
    metrics = found["metrics"]
    assert metrics["auroc"] == pytest.approx(roc_auc_score(truth, chances), abs=1e-6)
    assert metrics["auprc"] == pytest.approx(average_precision_score(truth, chances), abs=1e-6)
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, chances), abs=1e-6)
    said = chances >= 0.47
    assert metrics["operating"]["threshold"] == found["threshold"] == 0.47
    assert metrics["operating"]["sensitivity"] == pytest.approx(said[truth == 1].mean())
    assert metrics["operating"]["specificity"] == pytest.approx((~said[truth == 0]).mean())
    assert metrics["at_half"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, chances >= 0.5))
    assert (metrics["count"], metrics["patients"], metrics["positives"]) == (40, 20, int(truth.sum()))
    low, high = (metrics["intervals"]["auroc"][end] for end in ("low", "high"))
    assert low < metrics["auroc"] < high
    assert f"AUROC {metrics['auroc']:.3f} {low:.3f} to {high:.3f}" in text
    assert "40 cases of 20 patients, 20 malignant" in text
    assert "Threshold 0.470 of the model's card." in text


def test_by_default_the_sites_test_split_is_judged(hospital, tmp_path: Path) -> None:
    site, model = hospital
    text = consilia("evaluate", model, "--site", site, "--out", tmp_path / "out")
    cases = list(load_site(site, "mass").test.case_ids)
    with next((tmp_path / "out").glob("*_predictions.csv")).open() as file:
        assert [row["case_id"] for row in csv.DictReader(file)] == cases
    assert "patient(s) are too few to judge a model by" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Test cases of this site, by its own split." in page
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "out").iterdir()} == {0}


def test_from_python_every_metric_is_a_row(hospital) -> None:
    site, model = hospital
    frame = evaluate_model(model, site, part="all").to_frame().set_index("metric")
    assert {"auroc", "operating.sensitivity", "at_half.ppv"} <= set(frame.index)
    assert frame.loc["auroc", "low"] < frame.loc["auroc", "value"] < frame.loc["auroc", "high"]


def test_a_personal_model_is_judged_with_its_own_values(tmp_path: Path) -> None:
    site = write_clinic(tmp_path / "west", 40)
    own = load_site(site, "mass")
    model = tmp_path / "personal-best.safetensors"
    save_model(model, exchanged_state(network()), personal_card(config(), own, "personal-best"))
    truth, chances = found_by_hand(site, list(own.test.case_ids))
    fitted = tmp_path / "west" / "state" / "mass" / "preprocessing.json"
    fitted.unlink()
    found = evaluate_model(model, site)
    assert found.preprocessing == "preprocessing of the model's card"
    assert found.metrics["brier"] == pytest.approx(brier_score_loss(truth, chances), abs=1e-6)
    with pytest.raises(ConfigError, match="a run that site west has trained in: its test split alone"):
        evaluate_model(model, site, part="all")
    # Another site's personal model goes back to a global one, which this site may have trained, too.
    other = write_clinic(tmp_path / "north", 40)
    assert evaluate_model(model, other, part="all").metrics["count"] == 40
    (tmp_path / "north" / "state" / "runs" / config().run_id).mkdir(parents=True)
    with pytest.raises(ConfigError, match="a run that site north has trained in"):
        evaluate_model(model, other, part="all")


def test_a_test_only_site_has_no_training_cases_to_refuse(tmp_path: Path) -> None:
    site = write_clinic(tmp_path / "west", 40, test_only=True)
    model = tmp_path / "m.safetensors"
    write_model(model, site, training_sites={"west": TrainingSite(cases=3, fingerprint="f")})
    consilia("site", "prepare", site)
    found = evaluate_model(model, site, part="all")
    assert found.metrics["count"] == evaluate_model(model, site).metrics["count"] == 40
    assert "Preprocessing was fitted on these cases' inputs, as the site is a test-only one." in found.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((), "preprocessing.json is not there"),
        (("--split", "train"), "--split is one of test, all, got 'train'"),
        (("--dataset", "other"), "no dataset 'other'; its site.yaml has ['mass']"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_left(tmp_path: Path, change: tuple, words: str) -> None:
    model = tmp_path / "m.safetensors"
    write_model(model, write_clinic(tmp_path / "east"))
    site = write_clinic(tmp_path / "west")
    arguments = ("evaluate", model, "--site", site, "--out", tmp_path / "out")
    assert words in consilia(*arguments, *change, code=1)
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(hospital, tmp_path: Path) -> None:
    site, model = hospital
    site.write_text(site.read_text().replace("- benign\n    - malignant", "- malignant\n    - benign"))
    message = consilia("evaluate", model, "--site", site, "--out", tmp_path / "out", code=1)
    assert "answers ['benign', 'malignant'], dataset 'mass' of" in message
