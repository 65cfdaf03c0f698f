"""Forgetting over the rounds of a study's runs, with intervals over patients and seeds: NFR, BwT, and class by class.

Per run as in :mod:`consilia.evaluation.forgetting` and :mod:`consilia.evaluation.rounds`, with each patient as often as
drawn; then the mean over folds, and over the drawn seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from consilia.evaluation.bootstrap import Array
from consilia.evaluation.weighted import ratio
from consilia.record.study_result import Forgetting, ForgettingName, Kind
from consilia.study.cells import CellData
from consilia.study.histories import History, SiteHistory

Key = tuple[ForgettingName, Kind, str]
"""Metric, model, and class; empty over all classes."""

Sites = Mapping[str, SiteHistory]
Total = Callable[[str, Array], Array]
"""Of a site's values (N, C) the sum over cases (R, C), each as often as its patient was drawn."""


def forgetting_of(cell: CellData, histories: Sequence[History]) -> Iterator[Forgetting]:
    """Of every method that has runs with a history in this cell."""
    places = cell.frame[["site", "patient", "unit"]].drop_duplicates(["site", "patient"])
    units = {(str(site), str(patient)): int(unit) for site, patient, unit in places.itertuples(index=False)}
    own = [one for one in histories if (one.data, one.option) == (cell.cell.data, cell.cell.option)]
    for method in cell.cell.methods:
        runs = [one for one in own if one.method == method]
        by_key: dict[Key, dict[int, list[Array]]] = {}
        for run in runs:
            for key, values in _of_run(run, cell, units).items():
                by_key.setdefault(key, {}).setdefault(run.seed, []).append(values)
        for (name, model, label), by_seed in by_key.items():
            yield Forgetting(
                data=cell.cell.data,
                option=cell.cell.option,
                method=method,
                model=model,
                metric=name,
                label=label,
                **cell.draws.estimate(_over_runs(cell, by_seed)),
                runs=sum(map(len, by_seed.values())),
            )


def _over_runs(cell: CellData, by_seed: Mapping[int, Sequence[Array]]) -> Array:
    """The mean (R,) over folds, then over the drawn seeds."""
    found = np.full((cell.draws.count, len(cell.cell.seeds)), np.nan)
    for seed, values in by_seed.items():
        found[:, cell.cell.seeds.index(seed)] = np.mean(values, axis=0)
    return cell.draws.over_seeds(found)


def _of_run(run: History, cell: CellData, units: Mapping[tuple[str, str], int]) -> dict[Key, Array]:
    """What the history of a run gives (R,); nothing where a site lacks one, or its patients are not the cell's."""

    def whole(names: Sequence[str]) -> Sites:
        there = {name: run.sites[name] for name in names if name in run.sites}
        known = all((name, patient) in units for name, own in there.items() for patient in own.patients)
        return there if known and len(there) == len(names) else {}

    def total(name: str, values: Array) -> Array:
        places = [units[name, patient] for patient in run.sites[name].patients]
        return np.concatenate([block[:, places] @ values for block in cell.draws.blocks(len(places))])

    scored, trained = whole(run.scored), whole(run.trained)
    everything = {name: np.ones(len(own.labels)) for name, own in {**scored, **trained}.items()}
    found: dict[Key, Array | None] = {
        ("nfr", "global", ""): _flip_rate(scored, "global", everything, total),
        ("nfr", "personal", ""): _flip_rate(trained, "personal", everything, total),
        ("bwt", "global", ""): _transfer(trained, run.updated, total),
    }
    for place, label in enumerate(run.classes):
        members = {name: (own.labels == place).astype(np.float64) for name, own in scored.items()}
        # A fold, or a site left out, without a case of the class says nothing of it: the others do.
        if not any(chosen.any() for chosen in members.values()):
            continue
        found["nfr", "global", label] = _flip_rate(scored, "global", members, total)
        found["forgetting", "global", label] = _loss_of_recall(scored, members, total)
    return {key: values for key, values in found.items() if values is not None}


def _flip_rate(sites: Sites, kind: Kind, members: Mapping[str, Array], total: Total) -> Array | None:
    """Mean over the versions r >= 1 of the negative flips, divided by the cases, both of the sites judged at r.

    ``members``: 1 for the cases that count (N,), by site. A site's first evaluation has no flips.
    """
    judged: dict[int, list[str]] = {}
    for name, own in sites.items():
        for version in own.correct[kind]:
            if version >= 1:
                judged.setdefault(version, []).append(name)
    together: dict[tuple[str, ...], list[int]] = {}
    for version, names in judged.items():
        together.setdefault(tuple(names), []).append(version)
    rates, count = [], 0
    for group, versions in together.items():
        # Of versions judged at the same sites the denominator is one: their flips may be added before they are weighed.
        above = sum(
            (
                total(name, np.stack([_flips(sites[name], kind, versions) * members[name], members[name]], 1))
                for name in group
            ),
            np.zeros(2),
        )
        rates.append(len(versions) * ratio(above[:, 0] / len(versions), above[:, 1]))
        count += len(versions)
    return np.asarray(np.sum(rates, axis=0) / count) if count else None


def _flips(own: SiteHistory, kind: Kind, versions: Sequence[int]) -> Array:
    """How often each case (N,) was right at the evaluation before one of these versions and is wrong at it."""
    found = np.zeros(len(own.labels))
    ordered = sorted(own.correct[kind])
    for before, now in pairwise(ordered):
        if now in versions:
            found += own.correct[kind][before] & ~own.correct[kind][now]
    return found


def _transfer(sites: Sites, updated: Mapping[int, Sequence[str]], total: Total) -> Array | None:
    """Mean over the versions r >= 1 of BwT(r): by how much every A_k(r) counts in it, and then their sum."""
    counts: dict[tuple[str, int], float] = {}
    known = 0
    for now in sorted({version for own in sites.values() for version in own.correct["global"] if version >= 1}):
        last = {name: number for number in sorted(updated) if number < now for name in updated[number] if name in sites}
        there = {k: r for k, r in last.items() if now in sites[k].correct["global"] and r in sites[k].correct["global"]}
        known += bool(there) or not last
        for name, earlier in there.items():
            counts[name, now] = counts.get((name, now), 0.0) + 1 / len(there)
            counts[name, earlier] = counts.get((name, earlier), 0.0) - 1 / len(there)
    if not known:
        return None
    found: list[Array] = []
    for name, own in sites.items():
        change = np.zeros(len(own.labels))
        for (site, version), count in counts.items():
            if site == name:
                change += count * own.correct["global"][version]
        sums = total(name, np.stack([change, np.ones(len(change))], axis=1))
        found.append(ratio(sums[:, 0], sums[:, 1]))
    return np.asarray(np.sum(found, axis=0) / known)


def _loss_of_recall(sites: Sites, members: Mapping[str, Array], total: Total) -> Array | None:
    """Recall of a class where it was highest, in the versions 1 to T - 1, less that of the last version T."""
    versions = (
        sorted(set[int].intersection(*(set(own.correct["global"]) - {0} for own in sites.values()))) if sites else []
    )
    if len(versions) < 2:
        return None
    *earlier, last = versions
    right = {v: sum(float(members[k] @ own.correct["global"][v]) for k, own in sites.items()) for v in versions}
    # The first of equal ones. The round stays that of all patients in every draw: a new highest one would be too high.
    best = max(earlier, key=lambda version: (right[version], -version))
    above = np.zeros(2)
    for name, own in sites.items():
        change = own.correct["global"][best].astype(np.float64) - own.correct["global"][last]
        above = above + total(name, np.stack([change * members[name], members[name]], axis=1))
    return ratio(above[:, 0], above[:, 1])
