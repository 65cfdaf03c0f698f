"""A federation for one machine: write a folder with a site.yaml per site, cut from pooled data or listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from consilia.core.errors import ConfigError, DataError
from consilia.core.files import write_bytes
from consilia.data.cases import Cases, canonical
from consilia.data.dataset import Task
from consilia.data.partition import dirichlet_partition, partition_patients
from consilia.data.phantoms import phantom_sites
from consilia.data.problems import Problems
from consilia.data.readers import reader_for
from consilia.data.site import SiteConfig, load_site_config
from consilia.data.specs import DatasetSpec, SelectSpec
from consilia.data.wisconsin import wisconsin_sites
from consilia.data.yaml_file import Model, Text, read_yaml, validate
from consilia.models.build import DEFAULT_ALLOWED
from consilia.models.foundation import FoundationFolder

EVALUATOR = "evaluator"


@dataclass(frozen=True)
class Embedded:
    """A federation that needs no files: its dataset role, and what writes its data and describes them by site."""

    role: str
    sites: Callable[[Path], dict[str, DatasetSpec]]


def _phantoms(kind: str, task: Task) -> Embedded:
    def sites(out: Path) -> dict[str, DatasetSpec]:
        # A folder of their own: phantoms that are there already are not drawn again, and must not be of another kind.
        return phantom_sites(kind, task, out / "phantoms" / kind)

    return Embedded("structure" if task == "segmentation" else "diagnosis", sites)


EMBEDDED_DATA = {
    "wisconsin": Embedded("diagnosis", wisconsin_sites),
    "phantom-fundus": _phantoms("fundus", "classification"),
    "phantom-skin": _phantoms("skin", "classification"),
    "phantom-ultrasound": _phantoms("ultrasound", "classification"),
    "phantom-skin-masks": _phantoms("skin", "segmentation"),
    "phantom-polyp": _phantoms("polyp", "segmentation"),
    "phantom-prostate": _phantoms("prostate", "segmentation"),
    "phantom-ultrasound-masks": _phantoms("ultrasound", "segmentation"),
}


class ColumnCut(Model):
    """One site per value of a column (values given the same site name go together; rows of other values are left out).

    A patient with cases at two sites would be trained on at one and tested on at the other: ``refuse`` or ``drop``.
    """

    by: Literal["column"]
    column: str
    names: dict[Text, str] = Field(min_length=1)
    shared_patients: Literal["refuse", "drop"] = "refuse"


class DirichletCut(Model):
    """Sites with skewed labels; see :func:`consilia.data.partition.dirichlet_partition`."""

    by: Literal["dirichlet"]
    sites: PositiveInt
    alpha: PositiveFloat
    seed: int = 0
    min_cases: PositiveInt = 10


class FederationConfig(Model):
    """Either ``sites`` one by one, or one ``pooled`` dataset and a ``cut``; ``evaluator`` is an external test site.

    ``leave_out`` names a site that trains nothing and is a test site with all its cases: the unseen hospital.
    """

    role: str
    allow_models: tuple[str, ...] = DEFAULT_ALLOWED
    foundation_models: dict[str, FoundationFolder] = Field(default_factory=dict)
    sites: dict[str, DatasetSpec] | None = None
    pooled: DatasetSpec | None = None
    cut: Annotated[ColumnCut | DirichletCut, Field(discriminator="by")] | None = None
    evaluator: DatasetSpec | None = None
    leave_out: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> FederationConfig:
        if (self.sites is None) == (self.pooled is None) or (self.pooled is None) != (self.cut is None):
            raise ValueError("give sites, or pooled and cut")
        if self.pooled is not None and (self.pooled.select or self.pooled.evaluator or self.pooled.splits.file):
            raise ValueError("pooled takes no select, evaluator or splits.file: the cut decides")
        if isinstance(self.cut, DirichletCut) and getattr(self.pooled, "task", None) == "segmentation":
            raise ValueError("a Dirichlet cut goes by label, which a segmentation does not have: cut by a column")
        if self.sites is not None and not self.sites:
            raise ValueError("sites must name at least one site")
        if EVALUATOR in (self.sites or {}) and self.evaluator is not None:
            raise ValueError(f"no site can be called {EVALUATOR!r}: the external test site has this name")
        return self


def load_federation(
    path_or_name: str, out: Path, *, leave_out: str | None = None, train_cases: int | float | None = None
) -> dict[str, Path]:
    """Site names and the paths of their site.yaml files, written under ``out``.

    They are written anew at every call, so a change belongs into the federation file, not into them; a folder of sites
    is taken as it is. What the sites keep in their ``state_dir`` (splits, personal models) stays.

    Args:
        path_or_name: the name of an embedded federation ("wisconsin", "phantom-skin", ...), a folder with
            ``*/site.yaml``, or a federation YAML file. Relative paths in a YAML file count from its folder.
        out: the folder for ``<site>/site.yaml``; not used for a folder of sites.
        leave_out: a site that trains nothing and is a test site with all its cases; before the YAML file's own.
        train_cases: how many (or what fraction) of each site's training cases are used; before the data's own.

    Raises:
        ConfigError: there is no such federation, a file is wrong, or the sites' classes disagree.
        DataError: the pooled data cannot be read or cut as asked.
    """
    path = Path(path_or_name)
    if path_or_name in EMBEDDED_DATA:
        embedded = EMBEDDED_DATA[path_or_name]
        specs = _without(embedded.sites(out.absolute()), leave_out, path_or_name)
        specs = _fewer(specs, train_cases)
        common = FederationConfig(role=embedded.role, sites=specs)
        written = {name: _write_site(out, name, common, spec) for name, spec in specs.items()}
    elif path.is_dir():
        if leave_out is not None or train_cases is not None:
            raise ConfigError(
                f"{path}: leave_out and train_cases: a folder of sites is taken as it is: set evaluator or train_cases "
                "in its site.yaml files"
            )
        written = _site_folder(path)
    elif path.is_file():
        config = _read_config(path)
        specs = _fewer(_materialise(config, path, out, leave_out), train_cases)
        written = {name: _write_site(out, name, config, spec) for name, spec in specs.items()}
    else:
        raise ConfigError(
            f"{path_or_name}: expected one of {sorted(EMBEDDED_DATA)}, a folder with */site.yaml, or a federation "
            "YAML file"
        )
    _require_agreement(written)
    return written


def _read_config(path: Path) -> FederationConfig:
    """Read a federation YAML; ``common`` holds keys that every dataset specification in the file shares."""
    content = read_yaml(path)
    if isinstance(content, dict):
        content = dict(content)
        common = content.pop("common", {})
        if not isinstance(common, dict):
            raise ConfigError(f"{path}: common: expected a mapping of dataset keys, got {common!r}")

        def merged(spec: Any, **more: Any) -> Any:
            return {**common, **spec, **more} if isinstance(spec, dict) else spec

        if isinstance(content.get("sites"), dict):
            content["sites"] = {str(name): merged(spec) for name, spec in content["sites"].items()}
        if "pooled" in content:
            content["pooled"] = merged(content["pooled"])
        if "evaluator" in content:
            content["evaluator"] = merged(content["evaluator"], evaluator=True)
    return validate(FederationConfig, content, path)


def _materialise(config: FederationConfig, path: Path, out: Path, leave_out: str | None) -> dict[str, DatasetSpec]:
    specs = dict(config.sites) if config.sites is not None else _cut(config, path, out)
    specs = _without(specs, leave_out or config.leave_out, path)
    if config.evaluator is not None:
        specs[EVALUATOR] = config.evaluator
    return specs


def _fewer(specs: dict[str, DatasetSpec], train_cases: int | float | None) -> dict[str, DatasetSpec]:
    """The sites with so many training cases each; an evaluator has none anyway."""
    if train_cases is None:
        return specs
    change = {"train_cases": train_cases}
    return {name: spec if spec.evaluator else spec.model_copy(update=change) for name, spec in specs.items()}


def _without(specs: dict[str, DatasetSpec], name: str | None, where: object) -> dict[str, DatasetSpec]:
    """The sites with one of them as an evaluator under its own name."""
    if name is None:
        return specs
    trainers = [site for site, spec in specs.items() if not spec.evaluator]
    if name not in trainers or len(trainers) < 2:
        raise ConfigError(f"{where}: leave_out: expected one of several sites that train, {trainers}, got {name!r}")
    return {**specs, name: specs[name].model_copy(update={"evaluator": True})}


def _cut(config: FederationConfig, path: Path, out: Path) -> dict[str, DatasetSpec]:
    pooled = config.pooled
    assert pooled is not None  # FederationConfig has checked it
    if isinstance(config.cut, ColumnCut):
        return _cut_by_column(pooled, config.cut, path)
    assert config.cut is not None
    cases = _index(pooled, path)
    cut = config.cut
    if pooled.patient is None:
        parts = dirichlet_partition(cases.labels, cut.sites, cut.alpha, cut.seed, cut.min_cases)
    else:
        parts = partition_patients(cases.patients, cases.labels, cut.sites, cut.alpha, cut.seed, cut.min_cases)
    specs = {}
    width = max(2, len(str(cut.sites)))
    for number, part in enumerate(parts, start=1):
        name = f"site-{number:0{width}d}"
        listed = (out / name / "cases.txt").absolute()
        write_bytes(listed, "".join(f"{cases.ids[i]}\n" for i in part).encode())
        specs[name] = pooled.model_copy(update={"select": SelectSpec(file=listed)})
    return specs


def _cut_by_column(pooled: DatasetSpec, cut: ColumnCut, path: Path) -> dict[str, DatasetSpec]:
    cases = _index(pooled.model_copy(update={"select": SelectSpec(column=cut.column, values=tuple(cut.names))}), path)
    names = {canonical(value): site for value, site in cut.names.items()}
    there = cases.rows[cut.column].map(lambda value: canonical(str(value)))
    absent = sorted(set(names) - set(there))
    if absent:
        raise DataError(f"{path}: cut.names: no case has {cut.column!r} equal to {absent}")
    owner = there.map(names).to_numpy(dtype=str)
    pairs = pd.DataFrame({"patient": cases.patients, "site": owner}).drop_duplicates()
    shared = tuple(sorted(pairs.loc[pairs.duplicated("patient"), "patient"].unique()))
    if shared and cut.shared_patients == "refuse":
        raise DataError(
            f"{path}: {len(shared)} patient(s) have cases at more than one site, e.g. {shared[0]!r}: they would be "
            "trained on at one and tested on at another; set cut.shared_patients: drop to leave them out"
        )
    specs = {}
    for site in dict.fromkeys(cut.names.values()):
        select = SelectSpec(column=cut.column, values=tuple(v for v, name in cut.names.items() if name == site))
        # Only the site's own patients: a site.yaml does not tell who is treated elsewhere.
        here = set(np.asarray(cases.patients)[owner == site])
        left_out = (*pooled.exclude_patients, *(patient for patient in shared if patient in here))
        specs[site] = pooled.model_copy(update={"select": select, "exclude_patients": left_out})
    return specs


def _index(spec: DatasetSpec, path: Path) -> Cases:
    problems = Problems()
    cases = reader_for(spec).index(problems)
    problems.raise_if_any(f"{path}: pooled")
    return cases


def _write_site(out: Path, name: str, config: FederationConfig, spec: DatasetSpec) -> Path:
    content = {
        "site": name,
        "allow_models": list(config.allow_models),
        "foundation_models": {key: folder.model_dump(mode="json") for key, folder in config.foundation_models.items()},
        "datasets": {config.role: spec.model_dump(mode="json", exclude_defaults=True)},
    }
    target = (out / name / "site.yaml").absolute()
    validate(SiteConfig, content, target)  # before writing: site names become folder names
    write_bytes(target, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return target


def _site_folder(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/site.yaml")):
        name = load_site_config(path).site
        if name in found:
            raise ConfigError(f"{path}: site {name!r} is also the name in {found[name]}; names must differ")
        found[name] = path.absolute()
    if not found:
        raise ConfigError(f"{folder}: no */site.yaml in this folder")
    return found


def _require_agreement(sites: dict[str, Path]) -> None:
    """Class names and their order must be the same at every site that has a role."""
    first: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, path in sites.items():
        for role, spec in load_site_config(path).datasets.items():
            other, classes = first.setdefault(role, (name, spec.classes))
            if classes != spec.classes:
                raise ConfigError(
                    f"{path}: datasets.{role}.classes: expected {list(classes)} as at site {other}, "
                    f"got {list(spec.classes)}"
                )
