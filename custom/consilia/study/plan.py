"""Every run of a study, looked at before the first of them begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from consilia.core.errors import CannotTrain, DataError
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.methods.registry import make_method
from consilia.record.schema import Record
from consilia.record.study_result import Status
from consilia.study.adaptation import FOLDER, adapted
from consilia.study.baselines import require_baseline
from consilia.study.federations import Federation
from consilia.study.folder import Fingerprints, finished
from consilia.study.new_site import NewSite
from consilia.study.outcome import read_failure
from consilia.study.study import baseline_of, baselines_of, study_config, study_values


@dataclass(frozen=True)
class Planned:
    """A run of a study, and what is known of it.

    Attributes:
        federation: where it belongs.
        label: one of the study's methods, a method's name or a baseline.
        seed: of the run.
        sites: each one's site.yaml.
        folder: of the run.
        baseline: its name, where the label stands for one.
        config: None where the method cannot do what is asked for.
        record: what it gave, where it has been run.
        status: what became of it; None where it is still to be run.
        reason: of a status other than done.
        words: what else tells it from others of its label.
        rate: what tuning has chosen, in words; empty where nothing was tuned.
        edge: whether one of the chosen values stands at the end of its grid.
        new_site: what is made at the site that the run left out, where this is no run but stands for that.
    """

    federation: Federation
    label: str
    seed: int
    sites: Mapping[str, Path]
    folder: Path
    baseline: str | None = None
    config: RunConfig | None = None
    record: Record | None = None
    status: Status | None = None
    reason: str = ""
    words: str = ""
    rate: str = ""
    edge: bool = False
    new_site: NewSite | None = None

    @property
    def name(self) -> str:
        """Its label and seed, and what tells its federation from the others."""
        return " ".join(filter(None, (f"{self.label}-seed{self.seed}", self.words, self.federation.name)))

    def ended(self, status: Status, reason: str = "", record: Record | None = None) -> Planned:
        """The same run with what became of it."""
        return replace(self, status=status, reason=reason, record=record)


@dataclass(frozen=True)
class Chosen:
    """What tuning has chosen for a label in a federation: ``key=value``, in words, and whether at a grid's end."""

    overrides: tuple[str, ...] = ()
    words: str = ""
    edge: bool = False


Settings = Callable[[Federation, str], Chosen]
"""What tuning has chosen for a label in a federation."""


def no_settings(federation: Federation, label: str) -> Chosen:
    """Where nothing is tuned."""
    return Chosen()


def plan_of(
    federations: Sequence[Federation],
    labels: Sequence[str] | None,
    overrides: Sequence[str] = (),
    settings: Settings = no_settings,
    *,
    look: bool = True,
) -> list[Planned]:
    """The runs of all federations, by federation, label and seed.

    Args:
        federations: of the study.
        labels: of its methods, methods' names and baselines; None: all of the study's.
        overrides: ``key=value`` on every configuration.
        settings: the same of one label in one federation: what tuning has chosen.
        look: whether to look for records; else the configurations are made, and no more.

    Raises:
        ConfigError: what is asked for does not fit, or a folder holds another run.
        DataError: data cannot be read, where the study has no others.
    """
    found: list[Planned] = []
    fingerprints: Fingerprints = {}
    several = len({federation.data for federation in federations}) > 1
    for federation in federations:
        try:
            found += _plan_in(federation, labels, overrides, settings, fingerprints, look=look)
        except DataError as error:
            if not several:
                raise
            # The other data sets are none the worse for it.
            found += _without_data(federation, labels, str(error))
    return found


def _without_data(federation: Federation, labels: Sequence[str] | None, reason: str) -> list[Planned]:
    """The runs of a federation whose data cannot be read."""
    study = federation.study
    return [
        Planned(federation, label, seed, {}, federation.folder / f"{label}-seed{seed}").ended("cannot", reason)
        for label in dict.fromkeys(labels or [*study.methods, *study.baselines])
        for seed in study.seeds
    ]


def _plan_in(
    federation: Federation,
    labels: Sequence[str] | None,
    overrides: Sequence[str],
    settings: Settings,
    fingerprints: Fingerprints,
    *,
    look: bool,
) -> list[Planned]:
    """The runs of one federation."""
    found: list[Planned] = []
    sites = federation.sites
    for label in dict.fromkeys(labels or [*federation.study.methods, *baselines_of(federation.study, sites)]):
        own, baseline = settings(federation, label), baseline_of(federation.study, label)
        for seed in federation.study.seeds:
            folder = federation.folder / f"{label}-seed{seed}"
            planned = Planned(federation, label, seed, sites, folder, baseline, rate=own.words, edge=own.edge)
            planned = configured(planned, [*own.overrides, *overrides])
            found.append(looked_up(planned, fingerprints) if look else planned)
    return found


def _same_as(planned: Planned, config: RunConfig) -> str | None:
    """Another label of the study that this one equals to the byte on these data, and why; None: it is its own."""
    study, first = planned.federation.study, next(iter(planned.sites.values()), None)
    if first is None or make_method(config.method).several_datasets:
        return None
    found = make_method(config.method).same_as(len(load_site_config(first).dataset(config.dataset).classes))
    if found is None:
        return None
    name, why = found
    own = {**study_values(study, planned.label), "method": {"method": name}}
    for label in study.methods:
        if baseline_of(study, label) is None and study_values(study, label) == own:
            return f"{label}: {why}"
    return None


def configured(planned: Planned, overrides: Sequence[str]) -> Planned:
    """The run with its configuration, or why it has none.

    Raises:
        ConfigError: what is asked for does not fit.
        DataError: the data by which the model is chosen cannot be read.
    """
    try:
        config = study_config(planned.federation.study, planned.label, planned.seed, planned.sites, overrides)
        if planned.baseline is not None:
            require_baseline(planned.baseline, config)
    except CannotTrain as error:
        return planned.ended("cannot", str(error))
    planned = replace(planned, config=config)
    if planned.baseline is None and (same := _same_as(planned, config)) is not None:
        return planned.ended("same as", same)
    return planned


def looked_up(planned: Planned, fingerprints: Fingerprints) -> Planned:
    """The configured run with its record, or why it failed, where it has been made already."""
    config = planned.config
    if config is None or planned.status is not None:
        return planned
    is_baseline = planned.baseline is not None
    record = finished(planned.folder, config, planned.sites, baseline=is_baseline, fingerprints=fingerprints)
    if record is not None:
        return planned.ended("done", record=record)
    failure = read_failure(planned.folder, config.run_id)
    return planned if failure is None else planned.ended(failure.status, failure.reason)


def adaptations_of(planned: Sequence[Planned], new_site: NewSite) -> list[Planned]:
    """What is to be made of every run at the site that it left out; of one without a result nothing."""
    found = []
    for one in planned:
        if (site := one.federation.unseen) is None:
            continue
        own = replace(one, folder=one.folder / FOLDER, record=None, words="at the new site", new_site=new_site)
        if one.record is not None and one.config is not None:
            there = adapted(one.config, one.sites, own.folder, site, new_site) is not None
            own = own.ended("done") if there else replace(own, status=None)
        found.append(own)
    return found
