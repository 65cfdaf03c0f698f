"""The files of a federation on one machine: a site.yaml per site, and one like it for the server's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from consilia.core.errors import ConfigError
from consilia.core.schema import nearest
from consilia.data.allowed import DEFAULT_ALLOWED, FoundationFolder
from consilia.data.site import SERVER, SERVER_DATA, write_site_config
from consilia.data.specs import DatasetSpec

Datasets = dict[str, DatasetSpec]


def write_layout(
    sites: Mapping[str, Datasets],
    server: Datasets,
    out: Path,
    allow_models: Sequence[str] = DEFAULT_ALLOWED,
    foundation_models: Mapping[str, FoundationFolder] | None = None,
) -> dict[str, Path]:
    """Write ``<site>/site.yaml`` for each site with all its datasets, and ``server/data.yaml`` if the server has any.

    Returns:
        The path of each site's file.
    """
    if SERVER in sites and server:
        raise ConfigError(f"{out}: no site can be called {SERVER!r}: the server's own data have this name")
    folders = foundation_models or {}
    written = {site: (out / site / "site.yaml").absolute() for site in sites}
    for site, datasets in sites.items():
        write_site_config(written[site], site, datasets, allow_models, folders)
    # One of another federation, written here before, must not pass for this one's.
    (out / SERVER_DATA).unlink(missing_ok=True)
    if server:
        write_site_config((out / SERVER_DATA).absolute(), SERVER, server, allow_models, folders)
    return written


def without(sites: Mapping[str, Datasets], name: str | None, where: object) -> dict[str, Datasets]:
    """The sites with one of them as a test-only site, in all its datasets, under its own name."""
    if name is None:
        return dict(sites)
    trainers = [site for site, datasets in sites.items() if not all(spec.test_only for spec in datasets.values())]
    if name not in trainers or len(trainers) < 2:
        found = f"; {nearest(name, trainers)}" if name not in trainers else ""
        raise ConfigError(
            f"{where}: leave_out: expected one of several sites that train, {trainers}, got {name!r}{found}"
        )
    tested = {dataset: spec.model_copy(update={"test_only": True}) for dataset, spec in sites[name].items()}
    return {**sites, name: tested}


def fewer(sites: Mapping[str, Datasets], train_cases: int | float | None) -> dict[str, Datasets]:
    """The sites with so many training cases of each dataset; a test-only site has none anyway."""
    if train_cases is None:
        return dict(sites)
    change = {"train_cases": train_cases}

    def few(spec: DatasetSpec) -> DatasetSpec:
        return spec if spec.test_only else spec.model_copy(update=change)

    return {site: {dataset: few(spec) for dataset, spec in datasets.items()} for site, datasets in sites.items()}
