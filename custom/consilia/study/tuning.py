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

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from consilia.study.study import Study, baseline_of, baselines_of, method_of, study_values

TUNING = "tuning"
CHOICES = "choices.json"
RATE = "training.learning_rate"
TRAINED = ("centralised", "local-only")
"""Baselines that have a learning rate."""

Execute = Callable[[Sequence[Planned]], list[Planned]]
Setting = Mapping[str, float]
"""Values by the keys of the configuration."""


class Tried(Strict):
    """One setting: its validation value, higher is better, the mean over the seeds; null: a run of it failed.

    ``personal``: the same of the personal models; ``sd``: over the seeds, null for one.
    """

    setting: dict[str, float]
    value: float | None
    personal: float | None = None
    sd: float | None = None
    reason: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """By which settings are compared."""
        return (
            -math.inf if self.value is None else self.value,
            -math.inf if self.personal is None else self.personal,
        )


class Choice(Strict):
    """What was chosen for one label; ``edges``: the keys whose best value stands at the end of its grid, and why."""

    data: str
    option: str
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
class _Search:
    """The search for one label in one federation."""

    federation: Federation
    label: str
    sites: Mapping[str, Path]
    grid: Grid
    found: dict[str, float] = field(default_factory=dict)
    edges: dict[str, str] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    limits: dict[tuple[str, float], str] = field(default_factory=dict)
    """By key and value that it cannot take, why the best value stands at the grid's end; empty: at the limit itself."""

    def own(self) -> tuple[str, list[float]] | None:
        """The method's own parameter and its values; None where it has none, or the study fixes it."""
        if baseline_of(self.federation.study, self.label) is not None or not self.grid.own:
            return None
        given = study_values(self.federation.study, self.label)["method"]
        for name, values in method_class(method_of(self.federation.study, self.label)).grid.items():
            if name not in given and len(values) > 1:
                return f"method.{name}", sorted(values)
        return None

    def best(self, key: str) -> tuple[float, Tried] | None:
        """The value of a key that is best at what was found before, and what came of it; None: nothing has a result."""
        there = {tried.setting[key]: tried for tried in self._of(key) if tried.value is not None}
        if not there:
            return None
        value = max(there, key=lambda number: there[number].rank)
        return value, there[value]

    def _of(self, key: str) -> list[Tried]:
        fixed = {name: value for name, value in self.found.items() if name != key}
        return [
            tried
            for tried in self.tried
            if tried.setting.keys() == {*fixed, key} and fixed.items() <= tried.setting.items()
        ]

    def beyond(self, key: str) -> float | None:
        """The value by which the grid grows; None where its best one is inside, or no growth would tell anything."""
        values, found = self.values[key], self.best(key)
        if found is None:
            self.edges[key] = "no value has a result"
            return None
        best, tried = found
        place = values.index(best)
        if 0 < place < len(values) - 1:
            self.edges.pop(key, None)
            return None
        other = next(item for item in self._of(key) if item.setting[key] == values[1 if place == 0 else -2])
        if tried.sd is not None and other.value is not None and abs((tried.value or 0.0) - other.value) < tried.sd:
            self.edges.pop(key, None)
            return None
        value = best * best / (values[1] if place == 0 else values[-2])
        # A grid that begins with 0 does not grow there.
        limit = "" if value == best else self.limits.get((key, value))
        if limit == "":
            self.edges.pop(key, None)
            return None
        self.edges[key] = limit or "the best value stands at the end of the grid"
        return value if limit is None else None


def tune(
    study: Study,
    federations: Sequence[Federation],
    labels: Sequence[str] | None,
    folder: Path,
    execute: Execute,
    overrides: Sequence[str] = (),
) -> list[Choice]:
    """Choose the settings of all labels that have some, on every data set and under every option anew.

    A label that cannot do what the study asks, or that is the same as another, has none; one of which every setting
    fails runs with the study's own.

    Args:
        study: with a grid.
        federations: of the study.
        labels: as of the comparison; None: all of the study's.
        folder: of the study.
        execute: carries out a plan.
        overrides: ``key=value`` on every configuration.
    """
    assert study.tune is not None
    grid = study.tune
    runner = _Runner(folder, execute, overrides, grid)
    searches: list[_Search] = []
    several = len({federation.data for federation in federations}) > 1
    for federation in _where(federations, grid):
        try:
            searches += [search for search in _searches(federation, labels, grid) if runner.can_run(search)]
        except DataError:
            # Data that cannot be read: the study's table says so, and the others are none the worse for it.
            if not several:
                raise
    runner.search(searches, {id(search): (RATE, list(grid.learning_rate)) for search in searches})
    runner.search(searches, {id(search): own for search in searches if search.found and (own := search.own())})
    choices = [
        Choice(
            data=search.federation.data,
            option=search.federation.option,
            federation=search.federation.name,
            label=search.label,
            chosen=search.found,
            edges=search.edges,
            tried=search.tried,
        )
        for search in searches
        if search.tried
    ]
    _save(folder, choices)
    return choices


def _searches(federation: Federation, labels: Sequence[str] | None, grid: Grid) -> list[_Search]:
    """For every label that has a learning rate."""
    sites = federation.sites()
    wanted = dict.fromkeys(labels or [*federation.study.methods, *baselines_of(federation.study, sites)])
    return [_Search(federation, label, sites, grid) for label in wanted if _has_rate(federation.study, label)]


def _where(federations: Sequence[Federation], grid: Grid) -> list[Federation]:
    """The federations in which settings are chosen: each, or the first of every data set and option."""
    if grid.folds == "each":
        return list(federations)
    return list({(federation.data, federation.option): federation for federation in reversed(federations)}.values())[
        ::-1
    ]


def _has_rate(study: Study, label: str) -> bool:
    baseline = baseline_of(study, label)
    return baseline is None or baseline in TRAINED


class _Runner:
    def __init__(self, folder: Path, execute: Execute, overrides: Sequence[str], grid: Grid) -> None:
        self.folder, self.execute, self.overrides, self.grid = folder, execute, overrides, grid
        self._fingerprints: Fingerprints = {}

    def search(self, searches: Sequence[_Search], keys: Mapping[int, tuple[str, list[float]]]) -> None:
        """The best value of one key for each search, at what was found before; grids grow as far as they may."""
        going = [search for search in searches if id(search) in keys]
        for search in going:
            key, values = keys[id(search)]
            search.values[key] = list(values)
        self._try([(search, value) for search in going for value in search.values[keys[id(search)][0]]], keys)
        for _ in range(self.grid.extensions):
            more = [
                (search, value)
                for search in going
                if (value := search.beyond(keys[id(search)][0])) is not None and self._may_be(search, keys, value)
            ]
            if not more:
                break
            self._try(more, keys)
            for search, value in more:
                key = keys[id(search)][0]
                search.values[key] = sorted({*search.values[key], value})
        for search in going:
            key = keys[id(search)][0]
            search.beyond(key)
            if (best := search.best(key)) is not None:
                search.found[key] = best[0]

    def can_run(self, search: _Search) -> bool:
        """Whether the label is one to run at all."""
        return all(run.status in (None, "done", "failed") for run in self._planned(search, {}))

    def _may_be(self, search: _Search, keys: Mapping[int, tuple[str, list[float]]], value: float) -> bool:
        """Whether the configuration takes the value: a parameter has its natural limits."""
        key = keys[id(search)][0]
        if self._takes(search, key, value):
            return True
        best = search.best(key)
        at_limit = best is not None and not self._takes(search, key, math.nextafter(best[0], value))
        search.limits[key, value] = "" if at_limit else "the next value is beyond the parameter's limit"
        return False

    def _takes(self, search: _Search, key: str, value: float) -> bool:
        try:
            self._planned(search, {**search.found, key: value})
        except ConfigError:
            return False
        return True

    def _try(self, wanted: Sequence[tuple[_Search, float]], keys: Mapping[int, tuple[str, list[float]]]) -> None:
        settings = [(search, {**search.found, keys[id(search)][0]: value}) for search, value in wanted]
        plans = [self._planned(search, setting) for search, setting in settings]
        ended = iter(self.execute([planned for plan in plans for planned in plan]))
        for (search, setting), plan in zip(settings, plans, strict=True):
            search.tried.append(_tried(setting, [next(ended) for _ in plan]))

    def _planned(self, search: _Search, setting: Setting) -> list[Planned]:
        federation = search.federation
        words = ",".join(f"{key.rpartition('.')[2]}={value:g}" for key, value in setting.items())
        place = self.folder / TUNING / federation.folder.relative_to(self.folder) / search.label / words
        more = [f"{key}={value!r}" for key, value in setting.items()]
        more += [] if self.grid.rounds is None else [f"rounds={self.grid.rounds}"]
        baseline = baseline_of(federation.study, search.label)
        return [
            looked_up(
                configured(
                    Planned(federation, search.label, seed, search.sites, place / f"seed{seed}", baseline, words=words),
                    [*self.overrides, *more],
                ),
                self._fingerprints,
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
        sd=statistics.stdev(values) if len(values) > 1 else None,
    )


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
            if here and (choice.data, choice.option, choice.label) == (federation.data, federation.option, label):
                values = tuple(f"{key}={value!r}" for key, value in choice.chosen.items())
                return Chosen(values, choice.words, bool(choice.edges))
        return Chosen()

    return chosen
