"""Is this site ready? Read everything that a dataset names; report numbers and every problem, not only the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from consilia.core.errors import DataError
from consilia.core.task import Task
from consilia.data.cases import UNKNOWN, Cases
from consilia.data.dataset import SPLITS
from consilia.data.loading import empty_splits
from consilia.data.problems import Problems
from consilia.data.public_pool import refuse_pooled
from consilia.data.questions import QuestionsReader
from consilia.data.readers import reader_for
from consilia.data.readers.base import Reader
from consilia.data.site import SiteConfig, load_site_config
from consilia.data.specs import DatasetSpec, QuestionsSpec
from consilia.data.splits import UNUSED, limit_training, shared_patients, site_splits, splits_file

OPEN = "(other words)"
T = TypeVar("T")


@dataclass
class MaskCounts:
    """Masks of one split: how many, how many without foreground, and the mean share of foreground in the others."""

    cases: int
    empty: int
    foreground: float | None  # None where all are empty


@dataclass
class FollowUp:
    """Follow-ups of one split: how many, how many with the event, and the median and the longest time."""

    cases: int
    events: int
    median: float
    longest: float


@dataclass
class DatasetReport:
    """What :func:`check_site` found for one dataset.

    ``counts`` are cases by split and class of a classification, ``masks`` metrics by split of a segmentation,
    ``follow_ups`` those by split of a survival.
    A dataset of questions counts those with each closed answer, and as OPEN the others.
    """

    site: str
    dataset: str
    format: str
    classes: tuple[str, ...]
    test_only: bool = False
    task: Task = "classification"
    cases: int = 0
    patients: int | None = None  # None where each case is its own patient
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: dict[str, MaskCounts] = field(default_factory=dict)
    follow_ups: dict[str, FollowUp] = field(default_factory=dict)
    inputs: int | None = None  # distinct images or records that questions are about
    unused: int = 0  # training cases that train_cases leaves out
    split_patients: dict[str, int] = field(default_factory=dict)
    shared_patients: int = 0  # patients with cases in more than one split
    splits_from: str = ""
    missing: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    spacing: tuple[float, float] | None = None  # median mm per pixel of an input, rows and columns
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def check_site(path: Path, datasets: list[str] | None = None) -> list[DatasetReport]:
    """Check the given datasets of a site.yaml (default: all). Nothing is written.

    Raises:
        ConfigError: site.yaml itself is wrong, or has no such dataset; problems in the data are in the reports.
    """
    config = load_site_config(path)
    return [_check_dataset(config, dataset, config.dataset(dataset)) for dataset in datasets or list(config.datasets)]


def _check_dataset(config: SiteConfig, dataset: str, spec: DatasetSpec) -> DatasetReport:
    report = DatasetReport(config.site, dataset, spec.format, spec.classes, spec.test_only, spec.task)
    if isinstance(spec, QuestionsSpec):
        return _check_questions(report, config.dataset_dir(dataset), spec)
    reader, problems = reader_for(spec), Problems()
    cases = _attempt(problems, lambda: reader.index(problems))
    if cases is not None and len(cases):
        _describe(report, spec, cases)
        splits = _check_splits(report, config.dataset_dir(dataset), reader, spec, cases, problems)
        raw = _attempt(problems, lambda: reader.read(cases, problems))
        before = len(problems.messages)
        truth = _attempt(problems, lambda: reader.truth(cases, problems))
        if truth is not None and splits is not None and report.task == "segmentation":
            # A mask that cannot be read stands here as an empty one.
            _check_masks(report, splits, truth, sound=len(problems.messages) == before)
        if truth is not None and splits is not None and report.task == "survival" and not problems:
            _check_follow_ups(report, splits, truth, problems)
        if raw is not None:
            _check_raw(report, reader, spec, cases, splits, raw, problems)
    elif cases is not None:
        problems.add("no case is left for this site")
    report.errors = problems.messages
    if not report.errors:
        report.warnings += withheld(report, config.limits.min_cases_per_metric)
    return report


def withheld(report: DatasetReport, fewest: int | None) -> list[str]:
    """A warning for each split whose metrics the site withholds, as consilia.federation.metric_release has it.

    Args:
        report: with the cases of each split.
        fewest: the site's ``limits.min_cases_per_metric``; None: nothing is withheld.
    """
    found = []
    for part in ("validation", "test"):
        masks, counts, followed = report.masks.get(part), report.counts.get(part, {}), report.follow_ups.get(part)
        if followed is not None:
            cases, rarest, of = followed.cases, followed.events, f"with the event {report.classes[-1]!r}"
        elif masks is not None:
            cases, rarest, of = masks.cases, masks.cases - masks.empty, "with a structure"
        else:
            name = min(report.classes, key=lambda name: counts.get(name, 0))
            cases, rarest, of = sum(counts.values()), counts.get(name, 0), f"of class {name!r}"
        if fewest is not None and cases and rarest < fewest:
            remedy = f"limits.min_cases_per_metric: {rarest or 'null'} in site.yaml"
            found.append(
                f"no metrics of the {part} cases leave this site: there are {rarest} {of}, "
                f"limits.min_cases_per_metric is {fewest}. To let them leave: larger splits, or {remedy}, if you agree "
                "(docs/limits.md)"
            )
    return found


def _check_questions(report: DatasetReport, dataset_dir: Path, spec: QuestionsSpec) -> DatasetReport:
    reader, problems = QuestionsReader(spec), Problems()
    report.classes = (*spec.classes, OPEN)
    cases = _attempt(problems, lambda: reader.index(problems))
    if cases is not None and len(cases):
        _describe(report, spec, cases)
        splits = _check_splits(report, dataset_dir, reader, spec, cases, problems)
        there = _attempt(problems, lambda: reader.inputs(cases))
        if there is not None:
            of_inputs, distinct, input_of = there
            report.inputs = len(distinct)
            raw = _attempt(problems, lambda: of_inputs.read(distinct, problems))
            first = None if splits is None else splits[np.unique(input_of, return_index=True)[1]]
            if raw is not None:
                _check_raw(report, of_inputs, spec, distinct, first, raw, problems)
    elif cases is not None:
        problems.add("no question is left for this site")
    report.errors = problems.messages
    return report


def _attempt(problems: Problems, step: Callable[[], T]) -> T | None:
    try:
        return step()
    except DataError as error:
        problems.add(str(error))
        return None


def _describe(report: DatasetReport, spec: DatasetSpec, cases: Cases) -> None:
    report.cases = len(cases)
    report.patients = len(set(cases.patients)) if spec.patient is not None else None
    there = [spec.classes[i] for i in np.unique(cases.labels[cases.labels != UNKNOWN])]
    if report.task != "classification" or report.format == "questions":
        pass  # masks and follow-ups are looked at one by one, and an open question has no class
    elif len(there) == 1:
        report.warnings.append(f"all cases are {there[0]!r}: the site has one class only")
    elif len(there) < len(spec.classes):
        report.warnings.append(f"no case of {[name for name in spec.classes if name not in there]}")
    if spec.fitted_on_test():
        report.warnings.append("a test-only site has no training cases: its preprocessing is fitted on its own inputs")


def _check_splits(
    report: DatasetReport,
    dataset_dir: Path,
    reader: Reader[Any] | QuestionsReader,
    spec: DatasetSpec,
    cases: Cases,
    problems: Problems,
) -> np.ndarray | None:
    """Count cases by split; the splits (N,), or None when they cannot be had."""
    content = reader.content(cases)
    drawn = _attempt(problems, lambda: site_splits(cases, spec, dataset_dir, problems, save=False, content=content))
    if drawn is None:
        return None
    limited = _attempt(problems, lambda: limit_training(cases, drawn, spec))
    splits = drawn if limited is None else limited
    report.unused = int((splits == UNUSED).sum())
    file = splits_file(spec, dataset_dir)
    report.splits_from = str(file) if file.exists() else "to be drawn at the first load"
    if spec.test_only or spec.official_splits:
        report.splits_from = "fixed by site.yaml"
    for name in SPLITS:
        inside = splits == name
        report.split_patients[name] = len({p for p, there in zip(cases.patients, inside, strict=True) if there})
        if report.task != "classification":
            continue
        counts = Counter(cases.labels[inside].tolist())
        places = [*range(len(spec.classes)), *([UNKNOWN] if report.format == "questions" else [])]
        report.counts[name] = {label: counts.get(i, 0) for i, label in zip(places, report.classes, strict=True)}
        present = [label for label, count in report.counts[name].items() if count]
        if len(present) == 1 and len(np.unique(cases.labels)) > 1:
            report.warnings.append(f"the {name} split has one class only ({present[0]!r})")
    report.shared_patients = len(shared_patients(cases, splits))
    for name in empty_splits(splits, spec):
        problems.add(f"the {name} split is empty ({report.splits_from})")
    return splits


def _check_masks(report: DatasetReport, splits: np.ndarray, masks: np.ndarray, sound: bool) -> None:
    share = masks.mean(axis=(1, 2), dtype=np.float64)
    for name in SPLITS:
        own = share[splits == name]
        full = own[own > 0]
        empty = len(own) - len(full)
        report.masks[name] = MaskCounts(len(own), empty, float(full.mean()) if len(full) else None)
        if sound and len(own) and not len(full):
            report.warnings.append(f"all masks of the {name} split are empty")


def _check_follow_ups(report: DatasetReport, splits: np.ndarray, followed: np.ndarray, problems: Problems) -> None:
    """Count events and times of ``followed`` (N, 2) by split."""
    event, times = repr(report.classes[-1]), followed[:, 0]
    for name in SPLITS:
        own = followed[splits == name]
        if not len(own):
            continue
        events = int(own[:, 1].sum())
        report.follow_ups[name] = FollowUp(len(own), events, float(np.median(own[:, 0])), float(own[:, 0].max()))
        if not events and name == "train":
            problems.add(
                f"no case of the train split has the event {event}: a survival model learns nothing from them; set "
                "test_only: true if the site is to test only"
            )
        elif not events:
            report.warnings.append(f"no case of the {name} split has the event {event}: it has no C-index and no loss")
        elif events == 1:
            report.warnings.append(f"one case only of the {name} split has the event {event}")
    if len(times) > 1 and (times == times[0]).all():
        report.warnings.append(
            f"all cases have the same time, {times[0]:g}: nothing tells an earlier event from a later"
        )


def _check_raw(
    report: DatasetReport,
    reader: Reader[Any],
    spec: DatasetSpec,
    cases: Cases,
    splits: np.ndarray | None,
    raw: np.ndarray,
    problems: Problems,
) -> None:
    report.missing = reader.missing(raw)
    report.sizes = reader.describe(cases)
    for column, count in report.missing.items():
        if count == len(cases):
            report.warnings.append(f"column {column!r} has no value at all")
    if spec.public_pool is not None:
        _attempt(problems, lambda: refuse_pooled(spec.public_pool, cases.ids, reader.digests(raw)))
    if splits is None or problems:
        return
    train = raw if spec.test_only else raw[splits == "train"]
    inputs = reader.apply(reader.fit(train), raw)
    report.input_shape = tuple(inputs.shape[1:])
    spacing = reader.spacing(cases)
    if spacing is not None:
        rows, columns = np.median(spacing, axis=0).tolist()
        report.spacing = (rows, columns)
    if not np.isfinite(inputs.numpy()).all():
        problems.add("preprocessed values are not all finite")
    copies = _copies_across(raw, splits)
    if copies:
        report.warnings.append(f"{copies} case(s) outside train have exactly the values of a training case")


def _copies_across(raw: np.ndarray, splits: np.ndarray) -> int:
    """Cases of validation and test that equal a training case byte for byte."""
    keys = [np.ascontiguousarray(case).tobytes() for case in raw]
    train = {key for key, split in zip(keys, splits, strict=True) if split == "train"}
    return sum(key in train for key, split in zip(keys, splits, strict=True) if split not in ("train", UNUSED))
