"""A federation for one machine: write a folder with a site.yaml per site, taken from pooled data or listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from consilia.core.errors import ConfigError
from consilia.core.schema import Strict, nearest
from consilia.core.task import Task
from consilia.data.allowed import DEFAULT_ALLOWED, FoundationFolder
from consilia.data.site import SERVER, load_site_config, server_data
from consilia.data.specs import DatasetSpec
from consilia.data.yaml_file import read_yaml, validate
from consilia.simulation.datasets import DatasetsConfig, dataset_specs
from consilia.simulation.digits import digits_sites
from consilia.simulation.layout import Datasets, fewer, without, write_layout
from consilia.simulation.pooled import DirichletPartition, Partition, partition_pooled
from consilia.simulation.synthetic import phantom_sites
from consilia.simulation.synthetic.clinic import clinic_server, clinic_sites
from consilia.simulation.synthetic.survival import survival_sites
from consilia.simulation.wisconsin import wisconsin_sites

TEST_ONLY_SITE = "evaluator"


@dataclass(frozen=True)
class Embedded:
    """A federation that needs no files: what writes its data and describes them by site and dataset.

    ``server`` does so for the server's own data, by dataset.
    """

    sites: Callable[[Path], dict[str, Datasets]]
    server: Callable[[Path], Datasets] | None = None


def _one_dataset(dataset: str, specs: Callable[[Path], dict[str, DatasetSpec]]) -> Embedded:
    return Embedded(lambda out: {site: {dataset: spec} for site, spec in specs(out).items()})


def _phantoms(kind: str, task: Task) -> Embedded:
    def sites(out: Path) -> dict[str, DatasetSpec]:
        # A folder of their own: phantoms that are there already are not drawn again, and must not be of another kind.
        return phantom_sites(kind, task, out / "phantoms" / kind)

    return _one_dataset("structure" if task == "segmentation" else "diagnosis", sites)


EMBEDDED_DATA = {
    "wisconsin": _one_dataset("diagnosis", wisconsin_sites),
    "digits": _one_dataset("digit", digits_sites),
    "phantom-fundus": _phantoms("fundus", "classification"),
    "phantom-skin": _phantoms("skin", "classification"),
    "phantom-ultrasound": _phantoms("ultrasound", "classification"),
    "phantom-skin-masks": _phantoms("skin", "segmentation"),
    "phantom-polyp": _phantoms("polyp", "segmentation"),
    "phantom-prostate": _phantoms("prostate", "segmentation"),
    "phantom-ultrasound-masks": _phantoms("ultrasound", "segmentation"),
    "synthetic-survival": _one_dataset("survival", survival_sites),
    "phantom-clinic": Embedded(clinic_sites, clinic_server),
}


class FederationConfig(Strict):
    """Either ``sites`` one by one, or one ``pooled`` dataset and a ``partition``; ``test_only`` is one site more.

    ``leave_out`` names a site that trains nothing and is a test site with all its cases: the unseen hospital.
    """

    dataset: str
    allow_models: tuple[str, ...] = DEFAULT_ALLOWED
    foundation_models: dict[str, FoundationFolder] = Field(default_factory=dict)
    sites: dict[str, DatasetSpec] | None = None
    pooled: DatasetSpec | None = None
    partition: Partition | None = None
    test_only: DatasetSpec | None = None
    leave_out: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> FederationConfig:
        if (self.sites is None) == (self.pooled is None) or (self.pooled is None) != (self.partition is None):
            raise ValueError("give sites, or pooled and partition")
        if self.pooled is not None and (self.pooled.select or self.pooled.test_only or self.pooled.splits.file):
            raise ValueError("pooled takes no select, test_only or splits.file: the partition decides")
        if (
            isinstance(self.partition, DirichletPartition)
            and self.pooled is not None
            and self.pooled.task == "segmentation"
        ):
            raise ValueError(
                "a Dirichlet partition goes by label, which a segmentation does not have: partition by a column"
            )
        if self.sites is not None and not self.sites:
            raise ValueError("sites must name at least one site")
        if TEST_ONLY_SITE in (self.sites or {}) and self.test_only is not None:
            raise ValueError(f"no site can be called {TEST_ONLY_SITE!r}: the external test site has this name")
        return self


def load_federation(
    path_or_name: str,
    out: Path,
    *,
    leave_out: str | None = None,
    train_cases: int | float | None = None,
    partition: int | None = None,
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
        partition: seed of the partition of a pooled dataset into sites with skewed labels, and of the sites' splits;
            before the file's own.

    Raises:
        ConfigError: there is no such federation, a file is wrong, or the sites' classes disagree.
        DataError: the pooled data cannot be read or partitioned as asked.
    """
    path = Path(path_or_name)
    if partition is not None and (path_or_name in EMBEDDED_DATA or not path.is_file()):
        raise ConfigError(f"{path}: expected a federation file that partitions a pooled dataset by dirichlet")
    if path_or_name in EMBEDDED_DATA:
        embedded = EMBEDDED_DATA[path_or_name]
        sites = without(embedded.sites(out.absolute()), leave_out, path_or_name)
        server = embedded.server(out.absolute()) if embedded.server else {}
        written = write_layout(fewer(sites, train_cases), server, out)
    elif path.is_dir():
        if leave_out is not None or train_cases is not None:
            raise ConfigError(
                f"{path}: leave_out and train_cases: a folder of sites is taken as it is: set test_only or train_cases "
                "in its site.yaml files"
            )
        written = _site_folder(path)
    elif path.is_file():
        config = _read_config(path)
        if partition is not None:
            config = _partitioned(config, path, partition)
        sites, server = _materialise(config, path, out, leave_out)
        written = write_layout(fewer(sites, train_cases), server, out, config.allow_models, config.foundation_models)
    else:
        raise ConfigError(
            f"{path_or_name}: expected a folder with */site.yaml, a federation YAML file, or a name of embedded data; "
            f"{nearest(Path(path_or_name).name, EMBEDDED_DATA)}"
        )
    own = server_data(written)
    _require_agreement(written | ({SERVER: own} if own else {}))
    return written


def _read_config(path: Path) -> FederationConfig | DatasetsConfig:
    """Read a federation YAML; ``common`` holds keys that all sites share in a file of one dataset."""
    content = read_yaml(path)
    if isinstance(content, dict) and "datasets" in content:
        return validate(DatasetsConfig, content, path)
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
        if "test_only" in content:
            content["test_only"] = merged(content["test_only"], test_only=True)
    return validate(FederationConfig, content, path)


def _partitioned(config: FederationConfig | DatasetsConfig, path: Path, seed: int) -> FederationConfig:
    """The same pooled dataset, divided by another seed."""
    own = config.partition if isinstance(config, FederationConfig) else None
    if not isinstance(config, FederationConfig) or not isinstance(own, DirichletPartition) or config.pooled is None:
        raise ConfigError(f"{path}: expected a pooled dataset that is partitioned by dirichlet; folds divide others")
    splits = config.pooled.splits.model_copy(update={"seed": seed})
    pooled = config.pooled.model_copy(update={"splits": splits})
    return config.model_copy(update={"partition": own.model_copy(update={"seed": seed}), "pooled": pooled})


def _materialise(
    config: FederationConfig | DatasetsConfig, path: Path, out: Path, leave_out: str | None
) -> tuple[dict[str, Datasets], Datasets]:
    """The datasets of each site, and of the server."""
    leave_out = leave_out or config.leave_out
    if isinstance(config, DatasetsConfig):
        sites, server = dataset_specs(config, path, out)
        return without(sites, leave_out, path), server
    if config.sites is not None:
        specs = dict(config.sites)
    else:
        assert config.pooled is not None  # FederationConfig has checked both
        assert config.partition is not None
        specs = partition_pooled(config.pooled, config.partition, str(path), out)
    sites = without({site: {config.dataset: spec} for site, spec in specs.items()}, leave_out, path)
    if config.test_only is not None:
        sites[TEST_ONLY_SITE] = {config.dataset: config.test_only}
    return sites, {}


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
    """Class names and their order must be the same at every site that has a dataset."""
    first: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, path in sites.items():
        for dataset, spec in load_site_config(path).datasets.items():
            other, classes = first.setdefault(dataset, (name, spec.classes))
            if classes != spec.classes:
                raise ConfigError(
                    f"{path}: datasets.{dataset}.classes: expected {list(classes)} as at site {other}, "
                    f"got {list(spec.classes)}"
                )
