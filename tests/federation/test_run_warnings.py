"""What a run warns of: for every warning a case that must have it and one that must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from consilia.core.events import Prepared, Warned
from consilia.federation.run_warnings import one_answer, overfitting, same_data, unlike_layouts
from consilia.record.schema import Evaluation, FinalModels, Metrics, Record, RoundRecord, SiteInfo, SiteMetrics
from consilia.report.html import write_report
from tests.federation.support import Federation, small
from tests.report.factory import make_record

CLASSES = ["benign", "malignant"]


def metrics(loss: float | None = 0.5, *, balanced: float = 0.7, auroc: float | None = 0.8, **more: Any) -> Metrics:
    values = {"count": 40, "correct": 28, "accuracy": 0.7, "balanced_accuracy": balanced, "auroc": auroc, "loss": loss}
    return Metrics.model_validate({**values, **more})


def info(fingerprint: str) -> SiteInfo:
    return SiteInfo(train=10, validation=2, test=3, test_only=False, fingerprint=fingerprint)


def of_rounds(validation: list[float], training: list[float]) -> Record:
    """A record whose round r left a model of that validation loss, with that training loss."""
    evaluations, rounds = [], []
    for number, (judged, trained) in enumerate(zip(validation, training, strict=True), start=1):
        part = {"hospital-1": SiteMetrics(validation=metrics(judged), test=None)}
        evaluations.append(Evaluation(version=number, model="global", sites=part))
        sent = {"weight": 1.0, "samples": 10, "fields": {"train_loss": trained}, "clipped": None}
        contributions = {"hospital-1": sent}
        rounds.append(RoundRecord.model_validate({**EMPTY_ROUND, "round": number, "contributions": contributions}))
    return make_record().model_copy(update={"evaluations": evaluations, "rounds": rounds})


EMPTY_ROUND: dict[str, Any] = {
    "participants": ["hospital-1"],
    "refused": {},
    "missing": [],
    "bytes_down": {},
    "bytes_up": {},
    "seconds": {},
    "sha256": "",
}


def test_overfitting_says_from_where_to_where() -> None:
    (found,) = overfitting(of_rounds([0.8, 0.6, 0.65, 0.7, 0.9], [0.7, 0.5, 0.4, 0.3, 0.2]))
    assert "after round 2 the validation loss rose from 0.600 to 0.900 (round 5)" in found
    assert "training loss fell from 0.500 to 0.200" in found


@pytest.mark.parametrize(
    ("validation", "training"),
    [
        ([0.8, 0.6, 0.5, 0.45, 0.44], [0.7, 0.5, 0.4, 0.3, 0.2]),  # still falling
        ([0.8, 0.6, 0.62, 0.63, 0.61], [0.7, 0.5, 0.4, 0.3, 0.2]),  # a rise of 2 to 5 %
        ([0.8, 0.6, 0.61, 0.61, 0.9], [0.7, 0.5, 0.4, 0.3, 0.2]),  # one bad round
        ([0.8, 0.6, 0.65, 0.7, 0.9], [0.7, 0.5, 0.6, 0.7, 0.8]),  # diverges in training, too
        ([0.010, 0.001, 0.008, 0.009, 0.009], [0.7, 0.5, 0.4, 0.3, 0.2]),  # nothing in nats
        ([0.6, 0.9], [0.7, 0.5]),  # too few rounds to say
    ],
)
def test_no_overfitting(validation: list[float], training: list[float]) -> None:
    assert overfitting(of_rounds(validation, training)) == []


def final(personal: Mapping[str, Metrics], version: int = 3) -> FinalModels:
    by_site = {site: SiteMetrics(validation=None, test=test) for site, test in personal.items()}
    values = {"version": version, "sha256": "", "global": {}, "personal": by_site, "variants": {}}
    return FinalModels.model_validate(values)


def decided(sensitivity: float | None, specificity: float | None, positives: int = 20) -> Metrics:
    at = {"threshold": 0.5, "sensitivity": sensitivity, "specificity": specificity}
    return metrics(balanced=0.5, positives=positives, operating=at)


def test_a_class_that_is_never_found() -> None:
    last = final({"a": decided(0.0, 1.0), "b": decided(0.0, 0.9), "c": decided(0.6, 0.8), "d": decided(1.0, 0.0)})
    assert one_answer({"last": last}, CLASSES) == [
        "the personal model of round 3 finds no case of malignant at a and b",
        "the personal model of round 3 finds no case of benign at d",
    ]
    # The best model is named beside the last one only where it is another.
    assert len(one_answer({"last": last, "best": last}, CLASSES)) == 2
    assert len(one_answer({"last": last, "best": final({"a": decided(0.0, 1.0)}, version=1)}, CLASSES)) == 3


def test_no_warning_of_classes() -> None:
    few = decided(0.0, 1.0, positives=4)  # may be chance
    absent = decided(None, 1.0, positives=0)
    assert one_answer({"last": final({"a": few, "b": absent, "c": decided(0.05, 1.0)})}, CLASSES) == []
    # The baseline that always gives the commonest class is meant to.
    assert one_answer({"last": final({"a": decided(0.0, 1.0)}, version=0)}, CLASSES) == []


def test_one_answer_by_the_balanced_accuracy_alone() -> None:
    of_three = ["a", "b", "c"]
    (found,) = one_answer({"last": final({"x": metrics(balanced=1 / 3), "y": metrics(balanced=0.34)})}, of_three)
    assert found == "the personal model of round 3 seems to answer one class only (balanced accuracy of chance) at x"
    assert one_answer({"last": final({"x": metrics(balanced=1 / 3, auroc=None)})}, of_three) == []


def test_two_sites_with_the_same_data() -> None:
    assert same_data({"a": info("1"), "b": info("2"), "c": info("3")}) == []
    (found,) = same_data({"a": info("1"), "b": info("2"), "c": info("1")})
    assert found.startswith("a and c have the same data")


def laid_out(*lines: str, test_only: bool = False) -> SiteInfo:
    return info("1").model_copy(update={"layout": lines, "test_only": test_only})


def test_training_sites_that_prepare_their_inputs_unlike() -> None:
    alike = {name: laid_out("image_size: 64", 'normalise: "train"') for name in ("a", "b")}
    assert unlike_layouts({**alike, "t": laid_out("image_size: 32", test_only=True)}) == []
    (found,) = unlike_layouts({**alike, "c": laid_out("image_size: 32", 'normalise: "train"')})
    assert found.startswith("training sites prepare their inputs unlike in image_size: c 32; the others 64.")
    (lacking,) = unlike_layouts({**alike, "c": laid_out("image_size: 64")})
    assert "unlike in normalise: c nothing" in lacking


def test_a_test_only_sites_own_values_are_warned_of_once_a_run(wisconsin, tmp_path, caplog) -> None:
    path = wisconsin["hospital-1"]
    content = yaml.safe_load(path.read_text())
    content["datasets"]["diagnosis"] |= {"test_only": True, "splits": {}}
    path.write_text(yaml.safe_dump(content))
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    federation.rounds()
    said = [entry.getMessage() for entry in caplog.records if "its own test inputs" in entry.getMessage()]
    assert said == [
        f"run {federation.config.run_id}: site hospital-1 is test-only: the preprocessing of diagnosis is fitted on "
        "its own test inputs, without labels"
    ]


@pytest.mark.slow
def test_a_run_says_it_at_once_in_its_record_and_in_its_report(wisconsin, tmp_path) -> None:
    first, second = (wisconsin[name] for name in sorted(wisconsin)[:2])
    content = yaml.safe_load(second.read_text())
    content["datasets"] = yaml.safe_load(first.read_text())["datasets"]
    second.write_text(yaml.safe_dump(content))
    federation = Federation(small(rounds=1), wisconsin, tmp_path / "run")
    record = federation.rounds()
    (warning,) = record.warnings
    assert warning.startswith("hospital-1 and hospital-2 have the same data")
    said = [event for event in federation.events if isinstance(event, Warned | Prepared)]
    assert [type(event) for event in said] == [Warned, Prepared]
    assert str(said[0]) == f"warning: {warning}"
    write_report([record], tmp_path / "report.html")
    assert f"Warning: {warning}." in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_run_without_trouble_warns_of_nothing(wisconsin, tmp_path) -> None:
    federation = Federation(small(), wisconsin, tmp_path / "run")
    assert federation.rounds().warnings == []
    assert not [event for event in federation.events if isinstance(event, Warned)]
