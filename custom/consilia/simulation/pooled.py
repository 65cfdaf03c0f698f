"""Divide pooled data into sites: by the values of a column, or with skewed labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from consilia.core.errors import DataError
from consilia.core.files import write_bytes
from consilia.core.schema import Strict, nearest
from consilia.data.cases import Cases, canonical
from consilia.data.problems import Problems
from consilia.data.questions import QuestionsReader
from consilia.data.readers import reader_for
from consilia.data.readers.base import Reader
from consilia.data.specs import DatasetSpec, QuestionsSpec, SelectSpec
from consilia.data.yaml_file import Text
from consilia.simulation.partition import dirichlet_partition, partition_patients


class ColumnPartition(Strict):
    """One site per value of a column (values given the same site name go together; rows of other values are left out).

    A patient with cases at two sites would be trained on at one and tested on at the other: ``refuse`` or ``drop``.
    """

    by: Literal["column"]
    column: str
    names: dict[Text, str] = Field(min_length=1)
    shared_patients: Literal["refuse", "drop"] = "refuse"


class DirichletPartition(Strict):
    """Sites with skewed labels; see :func:`consilia.simulation.partition.dirichlet_partition`.

    ``names`` of the sites; default: site-01, site-02 and so on.
    """

    by: Literal["dirichlet"]
    sites: PositiveInt
    alpha: PositiveFloat
    seed: int = 0
    min_cases: PositiveInt = 10
    names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _named(self) -> DirichletPartition:
        if self.names is not None and (len(self.names) != self.sites or len(set(self.names)) != self.sites):
            raise ValueError(f"names must be {self.sites} different site names, got {list(self.names)}")
        return self

    def site_names(self) -> list[str]:
        """One name per site, in order."""
        width = max(2, len(str(self.sites)))
        return list(self.names or (f"site-{number:0{width}d}" for number in range(1, self.sites + 1)))


Partition = Annotated[ColumnPartition | DirichletPartition, Field(discriminator="by")]


def index_pooled(spec: DatasetSpec, where: str) -> Cases:
    """All cases (or questions) of a pooled dataset. Raises :class:`DataError` with its problems."""
    return index_cases(spec, f"{where}: pooled")


def index_cases(spec: DatasetSpec, where: str) -> Cases:
    """All cases (or questions) of a dataset. Raises :class:`DataError` with its problems."""
    problems = Problems()
    cases = _reader(spec).index(problems)
    problems.raise_if_any(where)
    return cases


def identities(spec: DatasetSpec, cases: Cases) -> Sequence[str]:
    """Who each case is (N), to be the same in every copy of the data.

    The patient; or, where neither patient nor case has an id but a position in the file, a digest of the values.
    """
    return (_reader(spec).content(cases) if spec.patient is None else ()) or [
        canonical(name) for name in cases.patients
    ]


def _reader(spec: DatasetSpec) -> Reader[Any] | QuestionsReader:
    return QuestionsReader(spec) if isinstance(spec, QuestionsSpec) else reader_for(spec)


def write_cases(file: Path, ids: Sequence[str]) -> SelectSpec:
    """Write a list of case ids; a selection of them."""
    write_bytes(file, "".join(f"{case}\n" for case in ids).encode(), private=True)
    return SelectSpec(file=file.absolute())


def dirichlet_sites(cases: Cases, pooled: DatasetSpec, partition: DirichletPartition) -> dict[str, np.ndarray]:
    """Positions of each site's cases; patients stay whole."""
    if pooled.patient is None:
        parts = dirichlet_partition(cases.labels, partition.sites, partition.alpha, partition.seed, partition.min_cases)
    else:
        parts = partition_patients(
            cases.patients, cases.labels, partition.sites, partition.alpha, partition.seed, partition.min_cases
        )
    return dict(zip(partition.site_names(), parts, strict=True))


def column_sites(cases: Cases, partition: ColumnPartition, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The site (N,) of each case, "" for values that no site has, and the patients with cases at several sites.

    Raises:
        DataError: a value is in no row, or there are such patients and the partition refuses them.
    """
    if partition.column not in cases.rows:
        raise DataError(
            f"{where}: partition.column: no column {partition.column!r}; there are {sorted(map(str, cases.rows))}"
        )
    names = {canonical(value): site for value, site in partition.names.items()}
    there = cases.rows[partition.column].map(lambda value: canonical(str(value)))
    absent = sorted(set(names) - set(there))
    if absent:
        values = set(there)  # many: another column than one of sites
        hint = f"; {nearest(absent[0], values)}" if len(values) <= 30 else f"; the column has {len(values)} values"
        raise DataError(f"{where}: partition.names: no case has {partition.column!r} equal to {absent}{hint}")
    owner = there.map(names).fillna("").to_numpy(dtype=str)
    pairs = pd.DataFrame({"patient": cases.patients, "site": owner}).drop_duplicates()
    pairs = pairs[pairs["site"] != ""]
    shared = tuple(sorted(pairs.loc[pairs.duplicated("patient"), "patient"].unique()))
    if shared and partition.shared_patients == "refuse":
        raise DataError(
            f"{where}: {len(shared)} patient(s) have cases at more than one site, e.g. {shared[0]!r}: they would be "
            "trained on at one and tested on at another; set partition.shared_patients: drop to leave them out"
        )
    return owner, shared


def partition_pooled(
    pooled: DatasetSpec, partition: ColumnPartition | DirichletPartition, where: str, out: Path
) -> dict[str, DatasetSpec]:
    """A specification for each site of a partition. Lists of cases that it needs are written under ``out``."""
    if isinstance(partition, ColumnPartition):
        return _partition_by_column(pooled, partition, where)
    cases = index_pooled(pooled, where)
    specs = {}
    for name, part in dirichlet_sites(cases, pooled, partition).items():
        select = write_cases(out / name / "cases.txt", [cases.ids[i] for i in part])
        specs[name] = pooled.model_copy(update={"select": select})
    return specs


def _partition_by_column(pooled: DatasetSpec, partition: ColumnPartition, where: str) -> dict[str, DatasetSpec]:
    selected = SelectSpec(column=partition.column, values=tuple(partition.names))
    cases = index_pooled(pooled.model_copy(update={"select": selected}), where)
    owner, shared = column_sites(cases, partition, where)
    specs = {}
    for site in dict.fromkeys(partition.names.values()):
        select = SelectSpec(
            column=partition.column, values=tuple(v for v, name in partition.names.items() if name == site)
        )
        # Only the site's own patients: a site.yaml does not tell who is treated elsewhere.
        here = set(np.asarray(cases.patients)[owner == site])
        left_out = (*pooled.exclude_patients, *(patient for patient in shared if patient in here))
        specs[site] = pooled.model_copy(update={"select": select, "exclude_patients": left_out})
    return specs
