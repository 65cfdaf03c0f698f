"""The grid of a study: data sets x options x left-out sites x folds or partitions, with the sites of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from consilia.core.errors import ConfigError
from consilia.data.site import load_site_config
from consilia.simulation.federation import load_federation
from consilia.study.folder import SITES
from consilia.study.folds import fold_sites
from consilia.study.study import EACH, Study, merged, one_data_set, study_sites

TRAIN_CASES = "train_cases"
"""The one key of an option that is of the data."""


@dataclass(frozen=True)
class Federation:
    """Where methods and seeds are compared: on these sites, under these settings.

    Attributes:
        study: with one data set, no option, and no more than one site left out.
        folder: of its runs.
        base: folder of the sites that the folds divide.
        data: label of the data set; empty where the study has one.
        option: label; empty without options.
        left_out: the site; None where the study does not leave out several in turn.
        division: what ``fold`` counts; empty without folds and partitions.
        fold: number of the fold, or seed of the partition.
    """

    study: Study
    folder: Path
    base: Path
    data: str = ""
    option: str = ""
    left_out: str | None = None
    division: Literal["", "fold", "partition"] = ""
    fold: int = 0

    @property
    def data_name(self) -> str:
        """What tables call its data: the label, or the name of the one data set that the study has."""
        return self.data or Path(one_data_set(self.study)).stem

    @property
    def axes(self) -> dict[str, object]:
        """Its place along the axes of the study: ``data``, ``option``, ``left_out``, ``fold`` or ``partition``."""
        named = {"data": self.data, "option": self.option, "left_out": self.left_out}
        found: dict[str, object] = {name: value for name, value in named.items() if value}
        if self.division:
            found[self.division] = self.fold
        return found

    @property
    def name(self) -> str:
        """What tells it from the others, in words; empty where there are none."""
        return " ".join(filter(None, (self.data, self.option, self.within)))

    @property
    def unseen(self) -> str | None:
        """The site that its runs leave out, alone or in turn."""
        assert not isinstance(self.study.leave_out, tuple)
        return self.study.leave_out

    @property
    def within(self) -> str:
        """The same of one data set and option: the site that was left out, and the fold or partition."""
        left_out = f"without {self.left_out}" if self.left_out else ""
        fold = f"{self.division} {self.fold}" if self.division else ""
        return " ".join(filter(None, (left_out, fold)))

    @cached_property
    def sites(self) -> dict[str, Path]:
        """The site.yaml of each of its sites, written below its folder when they are first asked for.

        Raises:
            ConfigError, DataError: the data cannot be read, or not be divided as the study says.
        """
        sites = study_sites(self.study, self.base)
        if self.division != "fold":
            return sites
        assert self.study.folds is not None
        return fold_sites(sites, self.folder / SITES, self.fold, self.study.folds)


def federations_of(study: Study, folder: Path) -> list[Federation]:
    """The federations of a study whose folder this is. A level of folders for each axis along which the study goes."""
    return [
        federation
        for data, one in _data_sets(study)
        for option, chosen in _options(one)
        for left_out, tested in _left_out(chosen)
        for federation in _divided(tested, folder.joinpath(*filter(None, (data, option))), data, option, left_out)
    ]


def _data_sets(study: Study) -> Iterator[tuple[str, Study]]:
    if isinstance(study.data, str):
        yield "", study
        return
    for label, data in study.data.items():
        yield label, study.model_copy(update={"data": data})


def _options(study: Study) -> Iterator[tuple[str, Study]]:
    if not study.options:
        yield "", study
    for label, option in study.options.items():
        run = {key: value for key, value in option.items() if key != TRAIN_CASES}
        few = {TRAIN_CASES: option[TRAIN_CASES]} if TRAIN_CASES in option else {}
        try:
            yield label, study.changed(options={}, run=merged(study.run, run), **few)
        except ConfigError as error:
            raise ConfigError(f"study, option {label}: {error}") from error


def _left_out(study: Study) -> Iterator[tuple[str | None, Study]]:
    if not study.in_turn:
        yield None, study
        return
    for site in left_out_in_turn(study):
        yield site, study.changed(leave_out=site)


def _divided(study: Study, folder: Path, data: str, option: str, left_out: str | None) -> Iterator[Federation]:
    place = folder / f"without-{left_out}" if left_out else folder
    if study.partitions is not None:
        for seed in study.partitions:
            own = place / f"partition-{seed}"
            one = study.model_copy(update={"partitions": (seed,)})
            yield Federation(one, own, own / SITES, data, option, left_out, "partition", seed)
    elif study.folds is not None:
        for fold in range(study.folds):
            yield Federation(study, place / f"fold-{fold}", place / SITES, data, option, left_out, "fold", fold)
    else:
        yield Federation(study, place, place / SITES, data, option, left_out)


def left_out_in_turn(study: Study) -> list[str]:
    """The sites that a study leaves out, one after another: those it names, or every one that trains."""
    if study.leave_out != EACH:
        return [study.leave_out] if isinstance(study.leave_out, str) else list(study.leave_out or ())
    with TemporaryDirectory() as scratch:
        files: Mapping[str, Path] = load_federation(one_data_set(study), Path(scratch))
        configs = {name: load_site_config(path) for name, path in files.items()}
    return [name for name, own in configs.items() if not all(spec.test_only for spec in own.datasets.values())]
