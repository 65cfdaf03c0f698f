"""``consilia site prepare``: the site's own preprocessing, where no run has fitted it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consilia.cli.console import console
from consilia.core.errors import ConfigError
from consilia.data.loading import load_dataset, preprocessing_file
from consilia.data.site import load_site_config


def prepare_command(site: Path, datasets: Sequence[str]) -> None:
    """Fit and write the preprocessing of the named datasets, by default of all with labelled cases."""
    config = load_site_config(site)
    chosen = datasets or [name for name, spec in config.datasets.items() if spec.reader is not None]
    if not chosen:
        raise ConfigError(f"{site}: expected a dataset with labelled cases, got questions only: nothing is fitted")
    for name in chosen:
        spec = config.dataset(name)
        data = load_dataset(config, name)
        fitted_on = f"its {len(data.train)} training cases"
        if spec.fitted_on_test():
            fitted_on = f"the inputs of all its {len(data.test)} cases, as it is a test-only site; labels play no part"
        if not spec.fits_preprocessing():
            fitted_on = "no case: site.yaml names fixed values"
        console.print(
            f"dataset {name}: fitted on {fitted_on}; written to {preprocessing_file(config, name)}",
            highlight=False,
            soft_wrap=True,
        )
