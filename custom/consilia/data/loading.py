"""Load a site's data: read, split, fit the preprocessing on the training cases, apply it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from consilia.core.errors import ConfigError, DataError
from consilia.data.cases import Cases
from consilia.data.dataset import SPLITS, DatasetSplits, SiteData, Split, empty_split
from consilia.data.moments import require_values
from consilia.data.preprocessing import PREPROCESSING, Preprocessing, read_preprocessing
from consilia.data.problems import Problems
from consilia.data.public_pool import refuse_pooled
from consilia.data.readers import reader_for
from consilia.data.readers.base import Fitted, Reader, Source
from consilia.data.site import SiteConfig, load_site_config
from consilia.data.specs import CommonSpec
from consilia.data.splits import UNUSED, limit_training, site_splits, splits_file


@dataclass(frozen=True)
class NewCases:
    """New, unlabelled cases: ids, preprocessed inputs (N, ...) float32, and for image files where each came from.

    ``failed``: why cases that are not among ``ids`` could not be read, by id. ``order``: the ids of all of them.
    ``folders``: of each of these, if any lies in a folder below the one that was searched.
    """

    ids: tuple[str, ...]
    inputs: Tensor
    sources: tuple[Source, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def load_site(path: Path, dataset: str) -> SiteData:
    """One dataset of a site; ``path`` is its site.yaml. See :func:`load_dataset`."""
    config = load_site_config(path)
    return SiteData(config.site, {dataset: load_dataset(config, dataset)})


def load_several(config: SiteConfig, classes: Mapping[str, int]) -> SiteData:
    """The datasets that a run trains together, as far as the site has them.

    Args:
        config: the site's.
        classes: the run's datasets, and the number of classes each must have.

    Raises:
        ConfigError: the site has none of them, or one has other classes or is a segmentation.
        DataError: the data do not fit their specification.
    """
    there, where = [name for name in sorted(classes) if name in config.datasets], f"site {config.site}"
    if not there:
        raise ConfigError(f"{where}: expected a dataset for some of {sorted(classes)}, got {sorted(config.datasets)}")
    for name in there:
        spec = config.datasets[name]
        if spec.task != "classification":
            raise ConfigError(
                f"{where}: datasets.{name}.task: tasks trained together are classifications, got {spec.task}"
            )
        if len(spec.classes) != classes[name]:
            raise ConfigError(
                f"{where}: datasets.{name}.classes: the task has {classes[name]} answers, "
                f"got classes {list(spec.classes)}"
            )
    return SiteData(config.site, {name: load_dataset(config, name) for name in there}, tuple(sorted(classes)))


def load_dataset(
    config: SiteConfig, dataset: str, preprocessing: Preprocessing | None = None, *, with_moments: bool = False
) -> DatasetSplits[Split]:
    """All cases of one dataset, preprocessed and split.

    The splits and the fitted preprocessing are written under the site's ``state_dir``, for its owner alone to read. A
    test-only site has no training cases, so its preprocessing is fitted on its own inputs; its labels play no part.

    Args:
        config: the site's.
        dataset: its name.
        preprocessing: what the inputs are made with; None: it is fitted on the training cases, and written.
        with_moments: also add up the training cases' raw values, for a run that pools them.

    Raises:
        ConfigError: the site has no such dataset, or what it fits cannot be pooled.
        DataError: the data do not fit it; the message holds the first problems.
    """
    spec = config.dataset(dataset)
    reader, problems = reader_for(spec), Problems()
    where = f"site {config.site}, dataset {dataset}"
    cases, splits = index_and_split(reader, spec, config.dataset_dir(dataset), problems, where)
    raw, truth = reader.read(cases, problems), reader.truth(cases, problems)
    problems.raise_if_any(where)
    refuse_pooled(spec.public_pool, cases.ids, reader.digests(raw) if spec.public_pool else ())
    require_cases(splits, spec, config.dataset_dir(dataset), where)
    if spec.task == "survival":
        require_events(truth[splits == "train"], spec, where)
    fitted = dict(preprocessing.fitted) if preprocessing else fitted_values(reader, raw, splits, spec)
    inputs = _inputs(reader, fitted, raw, where)
    fewest = config.limits.min_cases_per_metric or 0
    sums = reader.moments(raw[splits == "train"], fewest) if with_moments and not spec.test_only else None
    made = Preprocessing(reader.layout(), fitted, tuple(inputs.shape[1:]), sums)
    if preprocessing is None:
        made.write(preprocessing_file(config, dataset))
    spacing = reader.spacing(cases)
    parts = {name: _split(inputs, truth, spacing, cases, splits == name) for name in SPLITS}
    return DatasetSplits(class_names=spec.classes, task=spec.task, preprocessing=made, **parts)


def pooled_preprocessing(
    config: SiteConfig, dataset: str, values: Mapping[str, list[float]], columns: int | None = None
) -> Preprocessing:
    """A dataset's preprocessing with the ``mean`` and ``std`` of raw values that several sites have together.

    Args:
        config: the site's.
        dataset: its name.
        values: as :func:`consilia.data.moments.pooled_values` gives them.
        columns: how many there must be; None: any number.

    Raises:
        DataError: the values are no such mean and deviation.
    """
    require_values(values, columns)
    reader = reader_for(config.dataset(dataset))
    return Preprocessing(reader.layout(), reader.pooled(values))


def fitted_values(reader: Reader[Any], raw: np.ndarray, splits: np.ndarray, spec: CommonSpec) -> Fitted:
    """What preprocessing is fitted to: raw values (N, ...) of the training cases; of a test-only site all it has."""
    return reader.fit(raw if spec.test_only else raw[splits == "train"])


class Indexed(Protocol):
    """What lists a dataset's cases: a reader of any format."""

    def index(self, problems: Problems) -> Cases:
        """The cases, without reading what is large."""

    def content(self, cases: Cases) -> Sequence[str]:
        """A digest of each case where ids are only positions in a file."""


def index_and_split(
    reader: Indexed, spec: CommonSpec, folder: Path, problems: Problems, where: str
) -> tuple[Cases, np.ndarray]:
    """The cases that are used, and the split of each (N,); the splits are kept in ``folder``."""
    cases = reader.index(problems)
    problems.raise_if_any(where)
    splits = site_splits(cases, spec, folder, problems, save=True, content=reader.content(cases))
    problems.raise_if_any(where)
    splits = limit_training(cases, splits, spec)
    return cases.take(splits != UNUSED), splits[splits != UNUSED]


def require_cases(splits: np.ndarray, spec: CommonSpec, folder: Path, where: str) -> None:
    """Raise :class:`DataError` if a split that should have cases has none."""
    empty = empty_splits(splits, spec)
    if empty:
        raise DataError(f"{where}: no case in {' and '.join(empty)}; see {splits_file(spec, folder)}")


def require_events(followed: np.ndarray, spec: CommonSpec, where: str) -> None:
    """Raise :class:`DataError` if a site trains on follow-ups (N, 2), times and events, none of which has the event."""
    if not spec.test_only and not followed[:, 1].any():
        raise DataError(
            f"{where}: none of the {len(followed)} training case(s) has the event {spec.classes[-1]!r}: they teach a "
            "survival model nothing; set test_only: true, or leave the site out"
        )


def preprocessing_file(config: SiteConfig, dataset: str) -> Path:
    """Where :func:`load_site` keeps the fitted preprocessing of a dataset."""
    return config.dataset_dir(dataset) / PREPROCESSING


def load_new_cases(
    path: Path,
    dataset: str,
    source: Path,
    *,
    preprocessing: Path | Preprocessing | None = None,
    skip_unreadable: bool = False,
) -> NewCases:
    """New, unlabelled cases, preprocessed as the site's training cases were.

    Args:
        path: the site's site.yaml.
        dataset: its name in site.yaml.
        source: a delimited file of the same feature columns (tabular); an image file, a folder of images with those
            below it, or a csv that names them (every slice of a volume is a case); an npz in the MedMNIST layout
            without labels, a folder of WFDB records, or a parquet file of values (timeseries).
        preprocessing: what a model's inputs are made with, or the file of it; default: that of the dataset's last load,
            or the fixed values that site.yaml names.
        skip_unreadable: a case whose own file cannot be read is named in the result; else it is an error.

    Raises:
        DataError: the preprocessing is not there, site.yaml has changed since, or the source does not fit.
    """
    config = load_site_config(path)
    spec = config.dataset(dataset)
    reader, problems = reader_for(spec), Problems()
    where = f"site {config.site}, dataset {dataset}"
    if not isinstance(preprocessing, Preprocessing):
        file = preprocessing or preprocessing_file(config, dataset)
        fixed = preprocessing is None and not spec.fits_preprocessing() and not file.is_file()
        preprocessing = None if fixed else saved_preprocessing(file, reader, where, dataset)
    order, raw = reader.read_new(Path(source), problems)
    if not order:
        problems.add(f"{source}: no case in it")
    if not (skip_unreadable and problems.of_single_cases()):
        problems.raise_if_any(f"{where}, new cases from {source}")
    there = [i for i, case in enumerate(order) if case not in problems.by_case]
    found = reader.sources(Path(source))
    folders = tuple(item.folder for item in found)
    raw = raw[there]
    return NewCases(
        ids=tuple(order[i] for i in there),
        inputs=_inputs(reader, reader.fit(raw) if preprocessing is None else dict(preprocessing.fitted), raw, where),
        sources=tuple(found[i] for i in there) if found else (),
        failed=dict(problems.by_case),
        order=tuple(order),
        folders=folders if any(folders) else (),
    )


def empty_splits(splits: Iterable[str], spec: CommonSpec) -> list[str]:
    """The splits that should have cases and have none."""
    if spec.test_only:
        wanted = ["test"]
    elif spec.official_splits or spec.splits.file is not None:
        wanted = ["train", "test"]
    else:
        wanted = [name for name in SPLITS if spec.splits.fractions()[name] > 0]
        if spec.splits.scheme == "class_balanced":
            # int(fraction * n) is 0 at a small site: the protocol's own rule, and not a mistake.
            wanted = [name for name in wanted if name != "validation"]
    there = set(splits)
    return [name for name in wanted if name not in there]


def _split(inputs: Tensor, truth: np.ndarray, spacing: np.ndarray | None, cases: Cases, keep: np.ndarray) -> Split:
    if not keep.any():
        return empty_split(inputs, torch.from_numpy(truth))
    mm = None if spacing is None else torch.from_numpy(spacing[keep])
    chosen = cases.take(keep)
    return Split(inputs[torch.from_numpy(keep)], torch.from_numpy(truth[keep]), chosen.ids, mm, chosen.patients)


def _inputs(reader: Reader[Any], fitted: Fitted, raw: np.ndarray, where: str) -> Tensor:
    inputs = reader.apply(fitted, raw)
    if not torch.isfinite(inputs).all():
        raise DataError(f"{where}: {int((~torch.isfinite(inputs)).sum())} preprocessed value(s) are not finite")
    return inputs


def how_to_prepare(dataset: str, site: Path | str = "site.yaml") -> str:
    """What a site does that has not trained on a dataset."""
    return (
        "it is written when the site trains on this dataset; at a site that has not, "
        f"consilia site prepare {site} --dataset {dataset} fits and writes it"
    )


def saved_preprocessing(file: Path, reader: Reader[Any], where: str, dataset: str) -> Preprocessing:
    """The preprocessing that a site keeps of a dataset.

    Raises:
        DataError: it is not there, or site.yaml has changed since it was fitted.
    """
    if not file.is_file():
        raise DataError(f"{where}: {file} is not there: {how_to_prepare(dataset)}")
    saved, now = read_preprocessing(file), reader.layout()
    changed = sorted(key for key in {*saved.layout, *now} if saved.layout.get(key) != now.get(key))
    if changed:
        raise DataError(
            f"{where}: {changed} changed in site.yaml since {file} was fitted: put it back, or load the site's data "
            "again and use a model trained since"
        )
    return saved
