"""The sentences of a site's report, on cases small enough to be counted by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from consilia.federation.model_card import ModelCard
from consilia.federation.saved_model import decided
from consilia.report.site_answers import Answers
from consilia.report.site_words import beside, cautions, findings, rule

TWO = ("benign", "malignant")
MODEL = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 1, "num_classes": 2}}
THREE = ("wart", "mole", "melanoma")


def answers(
    shares: Sequence[float], labels: Sequence[int], threshold: float | None = None, patients: Sequence[str] = ()
) -> Answers:
    """A model of two classes that gives class 1 these probabilities."""
    odds = torch.tensor(shares, dtype=torch.float64).logit()
    logits = torch.stack([torch.zeros_like(odds), odds], dim=1)
    return Answers("global", logits, torch.tensor(labels), tuple(patients), threshold)


def mixed(threshold: float | None = None) -> Answers:
    """40 cases. 20 malignant: 13 at .7, 5 at .45, 2 at .05. 20 benign: 3 at .7, 3 at .45, 14 at .05."""
    shares = [0.7] * 13 + [0.45] * 5 + [0.05] * 2 + [0.7] * 3 + [0.45] * 3 + [0.05] * 14
    return answers(shares, [1] * 20 + [0] * 20, threshold)


def text(model: Answers, names: Sequence[str] = TWO) -> list[str]:
    return [f"{found.head} | {found.detail}".replace("\u00a0", " ") for found in findings(model, names)]


def test_two_classes_in_words() -> None:
    found, alarms, predictive, sure, calibrated, right = text(mixed(threshold=0.4))
    # At .4: 18 of 20 malignant found, 6 of 20 benign taken for malignant; 24 answers malignant, 16 benign.
    assert found.startswith("Of 20 malignant cases it finds 18 | In repeated samples ")
    assert found.endswith(" Sensitivity 90 %.")
    assert alarms.startswith("Of 20 benign cases it takes 6 for malignant | In repeated samples ")
    assert alarms.endswith(" Specificity 70 %.")
    assert predictive.startswith(
        "When it says malignant, it is right in 18 of 24 | 75 %. When it says benign, 2 of 16 are "
    )
    assert "here 50 % of the cases" in predictive
    assert sure.startswith("Sure and wrong in 2 cases | ")
    assert "in truth 2 malignant" in sure
    # .7 lies in the fourth of five bands: 16 cases, 13 of them malignant, 81.25 %.
    assert calibrated.startswith("When it says 60 to 80 % malignant, 81 % are | 13 of 16 cases. ")
    # Mean probability (16 x .7 + 8 x .45 + 16 x .05) / 40 = 15.6 / 40 = .39. Calibration error by bins: at .7 |.8125 -
    # .7| x 16, at .45 |.625 - .45| x 8, at .05 |.125 - .05| x 16; (1.8 + 1.4 + 1.2) / 40 = .11.
    assert "All in all it expects 39 % malignant; 50 % are." in calibrated
    assert "off by 11 points on average" in calibrated
    assert right.startswith("Right in 32 of 40 cases (80 %) | ")
    assert right.endswith("Always answering benign is right in 20 (50 %).")


def test_the_range_is_that_of_the_table() -> None:
    model = mixed(threshold=0.4)
    ends = model.metrics["intervals"]["operating.sensitivity"]
    assert f"In repeated samples {round(20 * ends['low'])} to {round(20 * ends['high'])}." in text(model)[0]
    assert 14 <= round(20 * ends["low"]) <= 16  # .9 - 2 x sqrt(.9 x .1 / 20) = .77, that is 15.3 cases
    ends = model.metrics["intervals"]["operating.specificity"]
    assert f"In repeated samples {round(20 - 20 * ends['high'])} to {round(20 - 20 * ends['low'])}." in text(model)[1]


def test_without_a_threshold_a_half_decides() -> None:
    found, alarms, *_ = text(mixed())
    assert found.startswith("Of 20 malignant cases it finds 13 ")
    assert alarms.startswith("Of 20 benign cases it takes 3 for malignant ")
    assert rule(mixed(), TWO).replace("\u00a0", " ") == "Says malignant above 50 % (the usual one; none was chosen)."
    assert rule(mixed(0.123), TWO).replace("\u00a0", " ") == "Says malignant above 12.3 % (chosen on validation cases)."


def test_at_the_threshold_itself_a_case_is_not_of_class_1() -> None:
    ties = answers([0.5, 0.5, 0.8], [0, 1, 1])
    assert ties.answers.tolist() == [0, 0, 1]
    assert (ties.metrics["operating"]["sensitivity"], ties.metrics["operating"]["specificity"]) == (0.5, 1.0)
    names = dict.fromkeys(("dataset", "method", "kind"), "x")
    card = ModelCard.model_validate({**names, "model": MODEL, "class_names": TWO})
    assert decided(ties.probabilities, card).tolist() == [0, 0, 1]
    assert decided(ties.probabilities, card.model_copy(update={"threshold": 0.8})).tolist() == [0, 0, 0]


def test_all_found_is_no_certainty() -> None:
    # 10 patients with two malignant cases each, all found: 0.025^(1/10) = .692 of 20 cases is 13.8.
    model = answers([0.9] * 20 + [0.1] * 20, [1] * 20 + [0] * 20, patients=[str(i // 2) for i in range(40)])
    assert text(model)[0] == (
        "Of 20 malignant cases it finds 20 | With so many patients 14 to 20 are plausible (exact binomial interval). "
        "Sensitivity 100 %."
    )
    assert "takes 0 for malignant | With so many patients 0 to 6 are plausible" in text(model)[1]
    assert text(model)[3].startswith("Sure and wrong in no case")


def test_a_model_of_one_answer_is_called_that() -> None:
    model = answers([0.3] * 30, [1] * 10 + [0] * 20)
    assert text(model)[0].startswith("Of 10 malignant cases it finds 0 | With so many patients 0 to 3 are plausible")
    assert text(model)[2].startswith("It never says malignant | ")
    constant = "Always answering benign is right in 20 (67 %)."
    assert text(model)[5].endswith(f"{constant} By this count the model does no better.")
    assert text(answers([0.8] * 30, [1] * 10 + [0] * 20))[2].startswith("It never says benign | ")


def test_one_class_and_few_cases() -> None:
    model = answers([0.8, 0.6, 0.2], [0, 0, 0], patients=["a", "a", "b"])
    sentences = text(model)
    assert sentences[0].startswith("No malignant case among these | ")
    assert sentences[1] == "Of 3 benign cases it takes 2 for malignant | Too few cases for a range. Specificity 33 %."
    assert sentences[4] == "Whether its percentages hold cannot be said | Too few cases."
    assert not any(re.search(r"\bnan\b", sentence) for sentence in sentences)
    assert cautions(model.labels, model.patients, TWO) == [
        "Only 2 patients: read every number here as a hint, not as a result.",
        "Only 3 benign cases: how well such cases are recognised cannot be said from this site.",
        "No malignant case: how well such cases are recognised cannot be said from this site.",
    ]
    assert cautions(mixed().labels, (), TWO) == []
    assert cautions(torch.tensor([0] * 9 + [1] * 5), (), TWO)[0].startswith("Only 14 cases: ")


def test_no_number_is_a_wrong_answer() -> None:
    model = answers([float("nan"), 0.9] + [0.1] * 18, [1] * 10 + [0] * 10)
    assert text(model)[0].startswith("Of 10 malignant cases it finds 1 ")
    assert text(model)[5].startswith("Right in 11 of 20 cases (55 %) | ")
    assert not any(re.search(r"\bnan\b", sentence) for sentence in text(model))


def test_more_classes_in_words() -> None:
    # 12 warts, all right; 6 moles, of which 3 are taken for warts and 1 for a melanoma; 2 melanomas, both right.
    said = [0] * 12 + [1, 1, 0, 0, 0, 2] + [2, 2]
    logits = torch.nn.functional.one_hot(torch.tensor(said)).double() * 5
    model = Answers("global", logits, torch.tensor([0] * 12 + [1] * 6 + [2] * 2))
    mean, hardest, sure, calibrated, right = text(model, THREE)
    assert mean.startswith("On average it finds 78 % of a class | In repeated samples ")  # (1 + 1/3 + 1) / 3
    assert hardest.startswith("Hardest class: of 6 mole cases it finds 2 | 33 %; ")
    assert hardest.endswith("Most often taken for wart (3).")
    assert sure.startswith("Sure and wrong in 4 cases | ")  # e^5 / (e^5 + 2) = .987
    assert "in truth 4 mole." in sure
    assert calibrated.startswith("When it is 80 to 100 % sure, it is right in 80 % | 20 cases. ")
    assert "off by 19 points" in calibrated  # .987 - .8
    assert right.startswith("Right in 16 of 20 cases (80 %) | ")
    assert "Always answering wart is right in 12 (60 %)." in right
    assert rule(model, THREE) == "Its answer is the likeliest class."


def test_models_beside_each_other() -> None:
    """The first finds 7 of 20 and raises no false alarm."""
    labels = [1] * 20 + [0] * 20
    first = answers([0.9] * 7 + [0.1] * 33, labels)
    # 7 more of 20: .35 +- 2 sqrt(.35 x .65 / 20) is .14 to .56, that is 3 to 11.
    found = beside(first, answers([0.9] * 14 + [0.1] * 26, labels), TWO)
    assert found.head == "Global model beside the global one"
    assert found.detail == (
        "It finds 7 more malignant cases (in repeated samples 3 more to 11 more). It raises as many false alarms."
    )
    # One more found, and three more false alarms, of which the draws have 0 to 7 or so.
    found = beside(first, answers([0.9] * 8 + [0.1] * 12 + [0.9] * 3 + [0.1] * 17, labels), TWO)
    assert found.detail.startswith(
        "It finds 1 more malignant case (in repeated samples as many to 3 more: may be chance). "
        "It raises 3 more false alarms (in repeated samples as many to "
    )


def test_more_classes_beside_each_other() -> None:
    logits = torch.eye(3).repeat(10, 1)
    labels = torch.tensor([0, 1, 2] * 10)
    worse = logits.clone()
    worse[:15] = worse[:15].roll(1, dims=1)
    found = beside(Answers("global", logits, labels), Answers("personal", worse, labels), THREE)
    assert found.head == "Personal model beside the global one"
    assert found.detail.startswith("It is right in 15 fewer cases (in repeated samples 2")
