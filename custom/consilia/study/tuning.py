"""Settings of all methods, chosen on validation cases by one grid and one budget: the key ``tune`` of a study.

Every method and every trained baseline tries the same learning rates, then the values of one parameter of its own
(:attr:`Method.grid`) at its best rate. What counts is the best validation value over the rounds, as it chooses the best
round: of the global model, or of the personal ones where a method has no global model. Of settings that give the same
global model, as Ditto's lambda does, that with the better personal ones is chosen. Test cases play no part. A grid
whose best value stands at its end grows there by its last ratio, at most ``extensions`` times, unless the change to the
next value is below the standard deviation over the seeds, or the parameter stands at its limit (0, say).

All runs of a grid are in the study's folder, below ``tuning``; :data:`CHOICES` there says what was tried and chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consilia.core.errors import ConfigError, DataError
from consilia.core.files import write_json
from consilia.core.schema import Strict
from consilia.data.yaml_file import read_yaml, validate
from consilia.evaluation.rounds import evaluations
from consilia.federation.selection import oriented_value
from consilia.methods.registry import method_class
from consilia.record.schema import Record
from consilia.study.federations import Federation
from consilia.study.folder import Fingerprints
from consilia.study.grid import Grid
from consilia.study.plan import Chosen, Planned, configured, looked_up
from consilia.study.search import Search, Setting, Tried
from consilia.study.study import Study, baseline_of, baselines_of, method_of, study_values

TUNING = "tuning"
CHOICES = "choices.json"
RATE = "training.learning_rate"
TRAINED = ("centralised", "local-only")
"""Baselines that have a learning rate."""

Execute = Callable[[Sequence[Planned]], list[Planned]]
Values = tuple[str, Sequence[float]]
"""A key of the configuration, and the values that it is to take."""


class Choice(Strict):
    """What was chosen for one label; ``edges``: the keys whose best value stands at the end of its grid, and why."""

    data: str
    option: str
    left_out: str | None = None
    federation: str
    label: str
    chosen: dict[str, float]
    edges: dict[str, str]
    tried: list[Tried]

    @property
    def words(self) -> str:
        """What was chosen, in a few words."""
        return ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in self.chosen.items())


@dataclass
class _Tuned:
    """A label in one federation, and the searches for its settings, one after another.

    ``own``: the method's own parameter and its values; None where there is none to tune.
    """

    federation: Federation
    label: str
    own: Values | None
    searches: list[Search] = field(default_factory=list)

    @property
    def found(self) -> dict[str, float]:
        """The best values by key."""
        return {search.key: search.best for search in self.searches if search.best is not None}

    @property
    def choice(self) -> Choice:
        """What was chosen, and from what."""
        return Choice(
            data=self.federation.data,
            option=self.federation.option,
            left_out=self.federation.left_out,
            federation=self.federation.name,
            label=self.label,
            chosen=self.found,
            edges={search.key: search.edge for search in self.searches if search.edge},
            tried=[tried for search in self.searches for tried in search.tried],
        )


def tune(
    study: Study,
    federations: Sequence[Federation],
    labels: Sequence[str] | None,
    folder: Path,
    execute: Execute,
    overrides: Sequence[str] = (),
) -> list[Choice]:
    """Choose the settings of all labels that have some, anew for every data set, option and site left out.

    A label that cannot do what the study asks, or that is the same as another, has none; one of which every setting
    fails runs with the study's own.

    Args:
        study: with a grid.
        federations: of the study.
        labels: as of the comparison; None: all of the study's.
        folder: of the study.
        execute: carries out a plan.
        overrides: ``key=value`` on every configuration.

    Raises:
        ConfigError: an override sets what is to be chosen.
    """
    assert study.tune is not None
    grid = study.tune
    runner = _Runner(folder, execute, overrides, grid)
    labelled: list[_Tuned] = []
    several = len({federation.data for federation in federations}) > 1
    for federation in _where(federations, grid):
        try:
            labelled += [tuned for tuned in _with_rates(federation, labels, grid) if runner.can_run(tuned)]
        except DataError:
            # Data that cannot be read: the study's table says so, and the others are none the worse for it.
            if not several:
                raise
    _require_free(overrides, {RATE, *(tuned.own[0] for tuned in labelled if tuned.own is not None)})
    runner.search(labelled, lambda tuned: (RATE, grid.learning_rate))
    runner.search(labelled, lambda tuned: tuned.own if tuned.found else None)
    choices = [tuned.choice for tuned in labelled]
    _save(folder, choices)
    return choices


def _require_free(overrides: Sequence[str], keys: Collection[str]) -> None:
    if taken := [text for text in overrides if text.partition("=")[0] in keys]:
        raise ConfigError(f"--set {taken[0]}: the study tunes this key: leave out --set, or the study's key tune")


def _with_rates(federation: Federation, labels: Sequence[str] | None, grid: Grid) -> list[_Tuned]:
    """Every label that has a learning rate."""
    study = federation.study
    wanted = dict.fromkeys(labels or [*study.methods, *baselines_of(study, federation.sites)])
    return [
        _Tuned(federation, label, _own(study, label) if grid.own else None)
        for label in wanted
        if baseline_of(study, label) in (None, *TRAINED)
    ]


def _where(federations: Sequence[Federation], grid: Grid) -> list[Federation]:
    """The federations in which settings are chosen: each, or the first of those that share settings."""
    if grid.folds == "each":
        return list(federations)
    first: dict[tuple[str, str, str | None], Federation] = {}
    for federation in federations:
        # A site that is left out is unseen: its validation cases choose nothing that it is tested with.
        first.setdefault((federation.data, federation.option, federation.left_out), federation)
    return list(first.values())


def _own(study: Study, label: str) -> Values | None:
    """A method's own parameter and its values; None where it has none, or the study fixes it."""
    if baseline_of(study, label) is not None:
        return None
    given = study_values(study, label)["method"]
    for name, values in method_class(method_of(study, label)).grid.items():
        if name not in given and len(values) > 1:
            return f"method.{name}", values
    return None


class _Runner:
    """Runs what searches want, all labels' at once."""

    def __init__(self, folder: Path, execute: Execute, overrides: Sequence[str], grid: Grid) -> None:
        self.folder, self.execute, self.overrides, self.grid = folder, execute, overrides, grid
        self._fingerprints: Fingerprints = {}

    def can_run(self, tuned: _Tuned) -> bool:
        """Whether the label is one to run at all."""
        return all(run.status is None for run in self._planned(tuned, {}))

    def search(self, labelled: Sequence[_Tuned], key_of: Callable[[_Tuned], Values | None]) -> None:
        """Find the best value of one key for each label that has such a key."""
        going = []
        for tuned in labelled:
            if (chosen := key_of(tuned)) is not None:
                takes = partial(self._takes, tuned)
                tuned.searches.append(Search(chosen[0], sorted(chosen[1]), tuned.found, takes, self.grid.extensions))
                going.append(tuned)
        while wanted := [(tuned, setting) for tuned in going for setting in tuned.searches[-1].wanted()]:
            self._try(wanted)

    def _takes(self, tuned: _Tuned, setting: Setting) -> bool:
        try:
            self._planned(tuned, setting)
        except ConfigError:
            return False
        return True

    def _try(self, wanted: Sequence[tuple[_Tuned, Setting]]) -> None:
        plans = [
            [looked_up(run, self._fingerprints) for run in self._planned(tuned, setting)] for tuned, setting in wanted
        ]
        ended = iter(self.execute([run for plan in plans for run in plan]))
        for (tuned, setting), plan in zip(wanted, plans, strict=True):
            tuned.searches[-1].tried.append(_tried(setting, [next(ended) for _ in plan]))

    def _planned(self, tuned: _Tuned, setting: Setting) -> list[Planned]:
        """The configured runs of a setting, one for each seed of the grid."""
        federation, label = tuned.federation, tuned.label
        words = ",".join(f"{key.rpartition('.')[2]}={value:g}" for key, value in setting.items())
        place = self.folder / TUNING / federation.folder.relative_to(self.folder) / label / words
        more = [f"{key}={value!r}" for key, value in setting.items()]
        more += [] if self.grid.rounds is None else [f"rounds={self.grid.rounds}"]
        baseline = baseline_of(federation.study, label)
        return [
            configured(
                Planned(federation, label, seed, federation.sites, place / f"seed{seed}", baseline, words=words),
                [*self.overrides, *more],
            )
            for seed in self.grid.seeds or federation.study.seeds[:1]
        ]


def _tried(setting: Setting, runs: Sequence[Planned]) -> Tried:
    records = [run.record for run in runs if run.record is not None]
    values = _defined(map(validation_of, records))
    if len(values) < len(runs):
        reason = next((run.reason for run in runs if run.record is None), "no site has validation cases")
        return Tried(setting=dict(setting), value=None, reason=reason)
    personal = _defined(map(personal_validation_of, records))
    return Tried(
        setting=dict(setting),
        value=statistics.fmean(values),
        personal=statistics.fmean(personal) if personal else None,
        sd=_sd(values),
        personal_sd=_sd(personal),
    )


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _defined(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def validation_of(record: Record) -> float | None:
    """The best validation value over the rounds, turned so that higher is better; None where there is none.

    Of the global model; of the best personal ones where no global model was evaluated.
    """
    metric = record.run.best_by or "loss"
    values = [
        value
        for version, sites in evaluations(record, "global").items()
        if version > 0 and (value := oriented_value(sites, metric)) is not None
    ]
    return max(values) if values else personal_validation_of(record)


def personal_validation_of(record: Record) -> float | None:
    """The validation value of the personal models that were made of the best global one."""
    return oriented_value(record.final["best"].personal, record.run.best_by or "loss")


def _save(folder: Path, choices: Iterable[Choice]) -> None:
    """Write them down, beside those of other labels of earlier calls."""
    new = {(choice.federation, choice.label): choice for choice in choices}
    known = {(choice.federation, choice.label): choice for choice in read_choices(folder)}
    rows = [choice.model_dump(mode="json") for _, choice in sorted({**known, **new}.items())]
    write_json(folder / TUNING / CHOICES, {"choices": rows})


class _Choices(Strict):
    choices: list[Choice]


def read_choices(folder: Path) -> list[Choice]:
    """What tuning has chosen in a study's folder so far."""
    file = folder / TUNING / CHOICES
    return validate(_Choices, read_yaml(file), file).choices if file.is_file() else []


def settings_of(choices: Sequence[Choice], grid: Grid) -> Callable[[Federation, str], Chosen]:
    """What a plan takes: the settings of a label in a federation."""

    def chosen(federation: Federation, label: str) -> Chosen:
        for choice in choices:
            here = choice.federation == federation.name or grid.folds == "first"
            place = (federation.data, federation.option, federation.left_out, label)
            if here and (choice.data, choice.option, choice.left_out, choice.label) == place:
                values = tuple(f"{key}={value!r}" for key, value in choice.chosen.items())
                return Chosen(values, choice.words, bool(choice.edges))
        return Chosen()

    return chosen
