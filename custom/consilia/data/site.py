"""site.yaml: the one file a site's data manager writes. It stays at the site; jobs name a dataset only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import Field, field_validator, model_validator

from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes
from consilia.core.schema import Strict
from consilia.data.allowed import DEFAULT_ALLOWED, FoundationFolder
from consilia.data.limits import RESEARCH_LIMITS, SiteLimits
from consilia.data.specs import DatasetSpec
from consilia.data.yaml_file import AbsolutePath, read_yaml, validate

SITE_FILE = "site.yaml"
RUNS = "runs"  # the folder of the personal models in state_dir, beside those of the datasets
LEDGER = "ledger"  # and that of what runs have spent of the limits
SERVER = "server"
SERVER_DATA = Path(SERVER) / "data.yaml"  # beside the folders of the sites, where all are on one machine
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\.\*)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SiteConfig(Strict):
    """A site's name, where it keeps its state, which models jobs may name, and its datasets.

    ``allow_methods`` are methods of other packages than Consilia that jobs may name; ``foundation_models`` the site's
    own copies of large pre-trained models, by the name that jobs use; ``limits`` what a job may ask of the site.
    ``keep_predictions``: whether a final evaluation leaves a table of the predictions on the test cases among what the
    site keeps of the run, for studies on one machine.
    """

    site: str
    state_dir: AbsolutePath = Field(default=Path("state"), validate_default=True)
    allow_models: tuple[str, ...] = DEFAULT_ALLOWED
    allow_methods: tuple[str, ...] = ()
    foundation_models: dict[str, FoundationFolder] = Field(default_factory=dict)
    limits: SiteLimits = SiteLimits()
    keep_predictions: bool = False
    datasets: dict[str, DatasetSpec] = Field(min_length=1)

    @field_validator("allow_models")
    @classmethod
    def _dotted(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not _DOTTED.fullmatch(value):
                raise ValueError(
                    f"expected dotted paths such as package.module.Class or package.module.*, not {value!r}"
                )
        return values

    @model_validator(mode="after")
    def _names(self) -> SiteConfig:
        # Both become folder names.
        for name in (self.site, *self.datasets):
            if not _NAME.fullmatch(name):
                raise ValueError(f"site and dataset names hold letters, digits, '.', '_' and '-' only, not {name!r}")
        # Some file systems do not tell Runs from runs.
        if taken := [dataset for dataset in self.datasets if dataset.casefold() in (RUNS, LEDGER)]:
            raise ValueError(f"no dataset can be called {taken[0]!r}: state_dir has a folder of its own of this name")
        return self

    def dataset(self, name: str) -> DatasetSpec:
        """The specification of one dataset. Raises :class:`ConfigError` listing the datasets there are."""
        if name not in self.datasets:
            raise ConfigError(f"site {self.site}: no dataset {name!r}; its site.yaml has {sorted(self.datasets)}")
        return self.datasets[name]

    def dataset_dir(self, dataset: str) -> Path:
        """Where the splits and the fitted preprocessing of one dataset are kept."""
        return self.state_dir / dataset


def own_site_file(local: Path, name: str) -> Path:
    """The site.yaml of a participant in its local folder; in the simulator ``sites/NAME.yaml``.

    Raises:
        ConfigError: there is neither.
    """
    candidates = (local / SITE_FILE, local / "sites" / f"{name}.yaml")
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ConfigError(f"site {name!r} has no {candidates[0]}: write one that says where its data are")
    return found


def load_site_config(path: Path) -> SiteConfig:
    """Read and validate a site.yaml; relative paths in it count from its folder.

    Raises:
        ConfigError: names the file, each key, what was expected and what came.
    """
    path = Path(path)
    content = read_yaml(path)
    if isinstance(content, dict) and "site" not in content and content.keys() & {"sites", "pooled"}:
        raise ConfigError(
            f"{path} is a federation file, which describes several sites; expected the site.yaml of one. consilia run "
            f"METHOD --data {path} takes it, and writes a file for each site, below --out as sites/NAME/{SITE_FILE}: "
            "name one of these"
        )
    return validate(SiteConfig, content, path)


def write_site_config(
    target: Path,
    site: str,
    datasets: Mapping[str, DatasetSpec],
    allow_models: Sequence[str],
    foundation_models: Mapping[str, FoundationFolder],
) -> None:
    """Write the site.yaml of a study on one machine: no limits to what its runs ask, and predictions are kept.

    Raises:
        ConfigError: it would not be a valid one; nothing is written then.
    """
    content = {
        "site": site,
        "allow_models": list(allow_models),
        "foundation_models": {key: folder.model_dump(mode="json") for key, folder in foundation_models.items()},
        "limits": RESEARCH_LIMITS.model_dump(mode="json"),
        "keep_predictions": True,
        "datasets": {
            dataset: spec.model_dump(mode="json", exclude_defaults=True) for dataset, spec in datasets.items()
        },
    }
    validate(SiteConfig, content, target)  # site names become folder names
    write_bytes(target, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def server_data(site_files: Mapping[str, Path]) -> Path | None:
    """The server's own data beside the sites of a federation, in the form of a site.yaml; None without."""
    found = {path.parent.parent / SERVER_DATA for path in site_files.values()}
    return next((path for path in sorted(found) if path.is_file()), None)
