"""What a site's report says of a model in words: short sentences that a clinician can check by counting.

Every number of cases is a count on this site; "in repeated samples" is the 95 % interval over draws of its patients,
turned into cases of the same number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from consilia.evaluation.bootstrap import RESAMPLES, Array, grouped, intervals
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS, FEWEST_PATIENTS
from consilia.evaluation.weighted import ratio
from consilia.report.format import number, plural
from consilia.report.site_answers import SURE, Answers, patients_of

BANDS = 5
"""Of probability, each a fifth wide, in which calibration is said in words."""

FEWEST_IN_BAND = 10

EXPLAINED = {
    "global": "Trained by all sites of the federation together",
    "personal": "The global model, trained further on this site's own patients",
    "local-only": "Trained on this site's own patients alone",
    "centralised": "Trained on the pooled data of all sites",
}
"""Models that are known by name."""


class Finding(NamedTuple):
    """One thing that was found: a sentence to be seen at once, and what belongs to it."""

    head: str
    detail: str = ""


def findings(answers: Answers, names: Sequence[str]) -> list[Finding]:
    """What is said of one model, most important first."""
    if answers.classes == 2:
        found = [_looked_for(answers, names), _false_alarms(answers, names), _predictive(answers, names)]
    else:
        found = [_mean_recall(answers), _hardest(answers, names)]
    return [*found, _sure_and_wrong(answers, names), _calibration(answers, names), _right(answers, names)]


def few_patients(patients: Sequence[str], count: int) -> list[str]:
    """A sentence where the cases are of few patients; of so many cases where patients are not known."""
    units, what = (len(set(patients)), "patient") if patients else (count, "case")
    few = f"Only {plural(units, what)}: read every number here as a hint, not as a result."
    return [few] if units < FEWEST_PATIENTS else []


def cautions(labels: torch.Tensor, patients: Sequence[str], names: Sequence[str]) -> list[str]:
    """Why the numbers of this site may say little; nothing where there are enough cases."""
    found = few_patients(patients, len(labels))
    for index, name in enumerate(names):
        count = int((labels == index).sum())
        if count < FEWEST_OF_A_CLASS:
            few = f"Only {plural(count, f'{name} case')}" if count else f"No {name} case"
            found.append(f"{few}: how well such cases are recognised cannot be said from this site.")
    return found


def beside(first: Answers, other: Answers, names: Sequence[str]) -> Finding:
    """Another model held against the first on the same cases, with the range of the difference over draws of patients.

    Of two classes: cases of class 1 found and false alarms; of more: right answers.
    """
    every = torch.ones_like(first.right)
    parts = {"right": every} if first.classes > 2 else {"found": first.of_class(1), "cleared": first.of_class(0)}
    shares = {}
    for name, part in parts.items():
        gained = torch.where(part, other.right.double() - first.right.double(), torch.nan)
        ends, count = range_of_mean(gained, first.patients), int(part.sum())
        shares[name] = (int(gained.nansum()), None if ends is None else [round(count * end) for end in ends])
    sentences = [_difference(name, *share, names) for name, share in shares.items()]
    return Finding(f"{title(other.name)} beside the {first.name} one", " ".join(sentences))


def range_of_mean(values: torch.Tensor, patients: Sequence[str]) -> list[float] | None:
    """The 95 % interval of the mean of the values (N,) that are no NaN, over draws of the patients; None without."""
    there = values.isfinite().numpy()
    if not there.any():
        return None
    found = values[values.isfinite()].double().numpy()

    def mean(weights: Array) -> dict[str, Array]:
        drawn = weights[:, there]
        return {"mean": ratio(drawn @ found, drawn.sum(axis=1))}

    return intervals(mean, grouped(patients, len(values)), seed=0, resamples=RESAMPLES)["mean"]


def _difference(kind: str, gained: int, ends: list[int] | None, names: Sequence[str]) -> str:
    verb, noun = {
        "found": ("finds", f"{names[1]} case"),
        "cleared": ("raises", "false alarm"),
        "right": ("is right in", "case"),
    }[kind]
    # Of cases cleared, fewer are more false alarms.
    if kind == "cleared":
        gained, ends = -gained, None if ends is None else [-ends[1], -ends[0]]
    span = ""
    if ends is not None and (gained, ends) != (0, [0, 0]):
        chance = ": may be chance" if ends[0] <= 0 <= ends[1] else ""
        span = f" (in repeated samples {_more(ends[0])} to {_more(ends[1])}{chance})"
    return f"It {verb} {_more(gained)} {noun}{'' if abs(gained) == 1 else 's'}{span}."


def _more(count: int) -> str:
    return "as many" if count == 0 else f"{number(abs(count))} {'more' if count > 0 else 'fewer'}"


# ---- two classes -------------------------------------------------------------------------------------------------


def _looked_for(answers: Answers, names: Sequence[str]) -> Finding:
    found, count = int(answers.confusion[1, 1]), int(answers.of_class(1).sum())
    if not count:
        return Finding(f"No {names[1]} case among these", "How many it would find cannot be said.")
    span = _span(answers, "sensitivity", 1, found, count)
    return Finding(
        f"Of {plural(count, f'{names[1]} case')} it finds {number(found)}",
        f"{span} Sensitivity {_percent(found / count)}.",
    )


def _false_alarms(answers: Answers, names: Sequence[str]) -> Finding:
    cleared, count = int(answers.confusion[0, 0]), int(answers.of_class(0).sum())
    if not count:
        return Finding(f"No {names[0]} case among these", "How many false alarms it raises cannot be said.")
    span = _span(answers, "specificity", 0, cleared, count, opposite=True)
    return Finding(
        f"Of {plural(count, f'{names[0]} case')} it takes {number(count - cleared)} for {names[1]}",
        f"{span} Specificity {_percent(cleared / count)}.",
    )


def _span(answers: Answers, metric: str, index: int, right: int, count: int, *, opposite: bool = False) -> str:
    """The interval of a share of ``count`` cases of a class in cases; ``opposite``: of those that are not right."""
    if count < FEWEST_OF_A_CLASS:
        return "Too few cases for a range."
    if right in (0, count):
        return _all_or_none(answers, index, right, count, opposite)
    ends = answers.interval(f"operating.{metric}")
    if ends is None:
        return "Too few cases for a range."
    low, high = round(count * ends["low"]), round(count * ends["high"])
    if opposite:
        low, high = count - high, count - low
    return f"In repeated samples {number(low)} to {number(high)}."


def _all_or_none(answers: Answers, index: int, right: int, count: int, opposite: bool) -> str:
    """Draws of cases that are all right are all right: the exact binomial interval over patients says what may be."""
    from scipy.stats import binomtest

    units = patients_of(answers.patients, answers.of_class(index)) or count
    exact = binomtest(units if right else 0, units).proportion_ci()
    low, high = round(count * float(exact.low)), round(count * float(exact.high))
    if opposite:
        low, high = count - high, count - low
    return f"With so many patients {number(low)} to {number(high)} are plausible (exact binomial interval)."


def _predictive(answers: Answers, names: Sequence[str]) -> Finding:
    (cleared, alarms), (missed, found) = answers.confusion.tolist()
    if not alarms + found:
        return Finding(f"It never says {names[1]}", f"At this threshold every answer is {names[0]}.")
    if not cleared + missed:
        return Finding(f"It never says {names[0]}", f"At this threshold every answer is {names[1]}.")
    common = _percent(int(answers.of_class(1).sum()) / len(answers.labels))
    otherwise = f"When it says {names[0]}, {number(missed)} of {number(cleared + missed)} are {names[1]} all the same."
    return Finding(
        f"When it says {names[1]}, it is right in {number(found)} of {number(alarms + found)}",
        f"{_percent(found / (alarms + found))}. {otherwise} "
        f"This depends on how common {names[1]} is: here {common} of the cases.",
    )


# ---- more classes ------------------------------------------------------------------------------------------------


def recalls(answers: Answers) -> list[tuple[int, int]]:
    """Of each class: cases found, and cases."""
    return [(int(answers.confusion[i, i]), int(answers.of_class(i).sum())) for i in range(answers.classes)]


def _mean_recall(answers: Answers) -> Finding:
    there = [(found, count) for found, count in recalls(answers) if count]
    mean = sum(found / count for found, count in there) / len(there)
    ends = answers.interval("operating.sensitivity")
    span = "" if ends is None else f"In repeated samples {_percent(ends['low'])} to {_percent(ends['high'])}. "
    return Finding(
        f"On average it finds {_percent(mean)} of a class",
        f"{span}Mean over the {len(there)} classes that occur here; every class counts alike.",
    )


def _hardest(answers: Answers, names: Sequence[str]) -> Finding:
    enough = [(found / count, i) for i, (found, count) in enumerate(recalls(answers)) if count >= FEWEST_OF_A_CLASS]
    if not enough:
        return Finding("No class has enough cases to be looked at alone", f"Fewer than {FEWEST_OF_A_CLASS} of each.")
    share, index = min(enough)
    found, count = recalls(answers)[index]
    others = answers.confusion[index].clone()
    others[index] = 0
    taken = (
        f" Most often taken for {names[int(others.argmax())]} ({number(int(others.max()))})." if others.any() else ""
    )
    return Finding(
        f"Hardest class: of {plural(count, f'{names[index]} case')} it finds {number(found)}",
        f"{_percent(share)}; of the classes with at least {FEWEST_OF_A_CLASS} cases the lowest.{taken}",
    )


# ---- both --------------------------------------------------------------------------------------------------------


def _sure_and_wrong(answers: Answers, names: Sequence[str]) -> Finding:
    wrong = answers.sure_and_wrong
    count = int(wrong.sum())
    at_most = _percent(1 - SURE)
    if not count:
        return Finding("Sure and wrong in no case", f"It never gave the true class {at_most} or less.")
    by_class = [(int((wrong & answers.of_class(i)).sum()), name) for i, name in enumerate(names)]
    which = ", ".join(f"{number(found)} {name}" for found, name in by_class if found)
    return Finding(
        f"Sure and wrong in {plural(count, 'case')}",
        f"It gave another class {_percent(SURE)} or more; in truth {which}. The surest wrong answers are shown below.",
    )


def _calibration(answers: Answers, names: Sequence[str]) -> Finding:
    """The highest band of probability with enough cases; of more than two classes that of the likeliest class."""
    given, hit = answers.confidences
    band = np.minimum((given * BANDS).astype(int), BANDS - 1)
    enough = [index for index in range(BANDS) if int((band == index).sum()) >= FEWEST_IN_BAND]
    ece = answers.metrics.get("ece")
    if not enough or ece is None:
        return Finding("Whether its percentages hold cannot be said", "Too few cases.")
    inside = band == enough[-1]
    count, share = int(inside.sum()), float(hit[inside].mean())
    between = f"{100 * enough[-1] // BANDS} to {100 * (enough[-1] + 1) // BANDS}\u00a0%"
    off = f"Its percentages are off by {_percent(ece, 'points')} on average (calibration error)."
    if answers.classes > 2:
        return Finding(
            f"When it is {between} sure, it is right in {_percent(share)}", f"{plural(count, 'case')}. {off}"
        )
    overall = f"All in all it expects {_percent(float(given.mean()))} {names[1]}; {_percent(float(hit.mean()))} are."
    return Finding(
        f"When it says {between} {names[1]}, {_percent(share)} are",
        f"{number(int(hit[inside].sum()))} of {plural(count, 'case')}. {overall} {off}",
    )


def _right(answers: Answers, names: Sequence[str]) -> Finding:
    total, right = len(answers.labels), int(answers.right.sum())
    counts = torch.bincount(answers.labels, minlength=answers.classes)
    most, name = int(counts.max()), names[int(counts.argmax())]
    ends = answers.interval("operating.accuracy")
    span = "" if ends is None else f"In repeated samples {_ends(ends, total)}. "
    constant = f"Always answering {name} is right in {number(most)} ({_percent(most / total)})."
    no_better = f" By this count the model does {'no better' if right == most else 'worse'}." if right <= most else ""
    return Finding(
        f"Right in {number(right)} of {plural(total, 'case')} ({_percent(right / total)})",
        f"{span}{constant}{no_better}",
    )


def rule(answers: Answers, names: Sequence[str]) -> str:
    """Above which probability a model of two classes says class 1, and where that comes from."""
    if answers.classes != 2:
        return "Its answer is the likeliest class."
    chosen = "chosen on validation cases" if answers.threshold is not None else "the usual one; none was chosen"
    return f"Says {names[1]} above {100 * answers.limit:.3g}\u00a0% ({chosen})."


def _ends(ends: Mapping[str, float], count: int) -> str:
    """An interval of a share as an interval of so many cases."""
    return f"{number(round(count * ends['low']))} to {number(round(count * ends['high']))}"


def _percent(share: float, unit: str = "%") -> str:
    value = 100 * share
    # A line does not break between a number and its unit.
    return f"{value:.1f}\u00a0{unit}" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f}\u00a0{unit}"


def title(name: str) -> str:
    """A model's name at the start of a line."""
    return f"{name[:1].upper()}{name[1:]} model"
