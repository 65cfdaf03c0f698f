"""A federation of several datasets, and the server's own data: public cases to learn from, and test cases.

A patient is the server's or the sites' in every dataset alike, because a hash of the patient's id alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError, DataError
from consilia.core.files import write_bytes
from consilia.core.schema import Strict
from consilia.data.allowed import DEFAULT_ALLOWED, FoundationFolder
from consilia.data.cases import Cases, canonical
from consilia.data.public_pool import load_pool
from consilia.data.site import SERVER
from consilia.data.specs import DatasetSpec, MedMnistSpec, QuestionsSpec, SplitSpec
from consilia.simulation.layout import Datasets
from consilia.simulation.pooled import (
    ColumnPartition,
    DirichletPartition,
    Partition,
    column_sites,
    dirichlet_sites,
    identities,
    index_pooled,
    write_cases,
)

SITES, PUBLIC, VALIDATION, TEST = "sites", "train", "validation", "test"  # but for the first, the server's splits


class Shares(Strict):
    """What fraction of a pooled dataset's patients is public and what fraction tests; the sites have the others."""

    public: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum(self) -> Shares:
        if self.public + self.test > 1:
            raise ValueError(f"public + test must be at most 1, got {self.public} + {self.test}")
        return self


class ServerShares(Shares):
    """The shares of all datasets that name none of their own; ``validation`` is a fraction of the public patients."""

    validation: float = Field(default=0.2, gt=0, lt=1)
    seed: int = 0


class DatasetConfig(Strict):
    """One dataset: ``pooled`` data, with a ``partition`` also the sites'; ``sites`` with data of their own.

    Without ``partition`` the pooled data are the server's alone: a task that no site trains. ``server``: other shares
    than those of the file.
    """

    pooled: DatasetSpec | None = None
    partition: Partition | None = None
    sites: dict[str, DatasetSpec] = Field(default_factory=dict)
    server: Shares | None = None

    @model_validator(mode="after")
    def _parts(self) -> DatasetConfig:
        pooled = self.pooled
        if pooled is None and (not self.sites or self.partition is not None or self.server is not None):
            raise ValueError(
                "give pooled (with or without partition), or sites; partition and server divide pooled data"
            )
        if pooled is not None and (pooled.select or pooled.test_only or pooled.splits.file):
            raise ValueError("pooled takes no select, test_only or splits.file: the shares and the partition decide")
        if isinstance(self.partition, DirichletPartition) and pooled is not None and pooled.task == "segmentation":
            raise ValueError(
                "a Dirichlet partition goes by label, which a segmentation does not have: partition by a column"
            )
        twice = sorted(set(self.sites) & set(self._partition_names()))
        if twice:
            raise ValueError(f"the sites {twice} are in partition and in sites")
        questions = [spec for spec in (pooled if self.partition else None, *self.sites.values()) if _asks(spec)]
        if questions:
            raise ValueError("sites train on classes, not on questions: format questions is the server's alone")
        return self

    def _partition_names(self) -> list[str]:
        if isinstance(self.partition, ColumnPartition):
            return list(self.partition.names.values())
        return self.partition.site_names() if self.partition else []


class DatasetsConfig(Strict):
    """``datasets`` by name, the ``server``'s shares, and what a site.yaml says besides its data.

    ``leave_out`` names a site that trains nothing: all its cases are test cases, in each of its datasets.
    """

    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    server: ServerShares = ServerShares()
    allow_models: tuple[str, ...] = DEFAULT_ALLOWED
    foundation_models: dict[str, FoundationFolder] = Field(default_factory=dict)
    leave_out: str | None = None


@dataclass(frozen=True)
class _Owned:
    """Who has which patients of a dataset's pooled data, and the files it reads."""

    dataset: str
    files: frozenset[Path]
    patients: Mapping[str, frozenset[str]]  # by SITES, PUBLIC (with validation) and TEST


def dataset_specs(config: DatasetsConfig, path: Path, out: Path) -> tuple[dict[str, Datasets], Datasets]:
    """The datasets of each site, and those of the server; the lists of their cases are written under ``out``.

    ``path`` is the federation file, for messages.

    Raises:
        ConfigError: two datasets give a patient to different sides.
        DataError: pooled data cannot be read or partitioned as asked, or leave the server or a site without cases.
    """
    sites: dict[str, Datasets] = {}
    server: Datasets = {}
    owned = []
    for dataset, part in config.datasets.items():
        specs = dict(part.sites)
        if part.pooled is not None:
            where = f"{path}: datasets.{dataset}"
            spec, cases = _indexed(part.pooled, where)
            splits = server_splits(cases, part.pooled, part.server or config.server, config.server)
            server[dataset] = _server_spec(spec, cases, splits, out / SERVER / dataset, where)
            specs |= _site_specs(spec, cases.take(splits == SITES), part.partition, dataset, out, where)
            owned.append(_Owned(dataset, frozenset(spec.files()), _patients(cases, splits, bool(part.partition))))
        for site, spec in specs.items():
            sites.setdefault(site, {})[dataset] = spec
    if not sites:
        raise ConfigError(f"{path}: datasets: no dataset has partition or sites, so there is no site")
    _require_apart(owned, path)
    return sites, server


def server_splits(cases: Cases, spec: DatasetSpec, shares: Shares, common: ServerShares) -> np.ndarray:
    """The server's split (N,) of each case of a pooled dataset, or SITES.

    A patient's number u in [0, 1) is a seeded hash of the id alone: below ``public`` public, from 1 - ``test`` on test.
    Where a case has no id but its position, the hash is of its values: equal images fall to one side.

    Where the data know better, they decide: of questions with a public pool, the pool is public and all others test;
    a MedMNIST file has no patients, so its own test part, which is apart by patient, is the test.
    """
    people = identities(spec, cases)
    unit = np.array([_unit(common.seed, "server", person) for person in people])
    public, test = unit < shares.public, unit >= 1 - shares.test
    if isinstance(spec, QuestionsSpec) and spec.public_pool is not None:
        pool = load_pool(spec.public_pool).patients
        public = np.array([patient in pool for patient in cases.patients])
        test = ~public
    elif isinstance(spec, MedMnistSpec) and "test" in spec.parts and len(spec.parts) > 1:
        test = (cases.rows["part"] == "test").to_numpy()
        public &= ~test
    held = np.array([_unit(common.seed, "validation", person) < common.validation for person in people])
    return np.select([test, public & held, public], [TEST, VALIDATION, PUBLIC], SITES)


def _unit(seed: int, purpose: str, person: str) -> float:
    return derive_seed(seed, purpose, person) / 2**63


def _asks(spec: DatasetSpec | None) -> bool:
    return isinstance(spec, QuestionsSpec)


def _indexed(spec: DatasetSpec, where: str) -> tuple[DatasetSpec, Cases]:
    """The specification as the server and the sites get it, and all its cases."""
    if isinstance(spec, QuestionsSpec) and spec.public_pool is not None:
        spec = spec.model_copy(update={"public_pool": None})  # the server keeps the pool, others leave it out
    return spec, index_pooled(spec, where)


def _server_spec(spec: DatasetSpec, cases: Cases, splits: np.ndarray, stem: Path, where: str) -> DatasetSpec:
    lacking = [name for name in (PUBLIC, VALIDATION, TEST) if not (splits == name).any()]
    if lacking:
        names = {PUBLIC: "public", VALIDATION: "validation", TEST: "test"}
        raise DataError(
            f"{where}: no {' and no '.join(names[name] for name in lacking)} case falls to the server, of {len(cases)} "
            "case(s) in all: take larger shares, or another server.seed"
        )
    own = cases.take(splits != SITES)
    rows = zip(own.ids, splits[splits != SITES], strict=True)
    file = stem.with_name(f"{stem.name}.csv").absolute()
    quoted = [f'"{case.replace(chr(34), chr(34) * 2)}",{split}' for case, split in rows]
    write_bytes(file, "\n".join(["case_id,split", *quoted, ""]).encode(), private=True)
    select = write_cases(stem.with_name(f"{stem.name}.txt"), own.ids)
    return spec.model_copy(update={"select": select, "splits": SplitSpec(file=file)})


def _site_specs(
    spec: DatasetSpec,
    cases: Cases,
    partition: ColumnPartition | DirichletPartition | None,
    dataset: str,
    out: Path,
    where: str,
) -> dict[str, DatasetSpec]:
    if partition is None:
        return {}
    if isinstance(partition, ColumnPartition):
        owner, shared = column_sites(cases, partition, where)
        whole = ~np.isin(np.asarray(cases.patients, dtype=str), shared)
        parts = {site: np.flatnonzero((owner == site) & whole) for site in dict.fromkeys(partition.names.values())}
    else:
        parts = dirichlet_sites(cases, spec, partition)
    empty = sorted(site for site, part in parts.items() if not len(part))
    if empty:
        raise DataError(f"{where}: no case is left for {empty}")
    found = {}
    for site, part in parts.items():
        select = write_cases(out / site / f"{dataset}.txt", [cases.ids[i] for i in part])
        found[site] = spec.model_copy(update={"select": select})
    return found


def _patients(cases: Cases, splits: np.ndarray, at_sites: bool) -> dict[str, frozenset[str]]:
    names = np.asarray([canonical(patient) for patient in cases.patients], dtype=str)
    sides = {SITES: splits == SITES if at_sites else np.zeros(len(cases), dtype=bool)}
    sides |= {PUBLIC: np.isin(splits, [PUBLIC, VALIDATION]), TEST: splits == TEST}
    return {side: frozenset(names[there].tolist()) for side, there in sides.items()}


def _require_apart(owned: list[_Owned], path: Path) -> None:
    """Datasets that read the same table must give each patient to the same side: shares of their own can break that."""
    for i, one in enumerate(owned):
        for other in owned[:i]:
            if not one.files & other.files:
                continue
            for side, patients in one.patients.items():
                for opposite, others in other.patients.items():
                    count = len(patients & others) if side != opposite else 0
                    if count:
                        raise ConfigError(
                            f"{path}: datasets.{one.dataset} and datasets.{other.dataset} read the same table, and "
                            f"{count} patient(s) are of {side} in one and of {opposite} in the other: give both the "
                            "same shares (and the table a column for patient or case)"
                        )
