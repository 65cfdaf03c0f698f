"""A site's data as a run sees them: of one dataset, or of the several that its method trains together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from consilia.data import preprocessing
from consilia.data.dataset import SiteData
from consilia.data.loading import load_dataset, load_several, pooled_preprocessing
from consilia.data.moments import pooled_values
from consilia.data.preprocessing import Preprocessing
from consilia.data.site import SiteConfig
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.methods.registry import make_method

log = logging.getLogger(__name__)


def load_run_data(config: RunConfig, site: SiteConfig, pooled: Preprocessing | None = None) -> SiteData:
    """Load them; see :func:`~consilia.data.loading.load_dataset` and :func:`~consilia.data.loading.load_several`.

    ``pooled``: what prepares the inputs, once the sites of the run have added it up; before that it is the site's own.
    """
    several = make_method(config.method).datasets()
    if several:
        return load_several(site, several)
    with_moments = config.preprocessing == "pooled" and pooled is None
    return SiteData(site.site, {config.dataset: load_dataset(site, config.dataset, pooled, with_moments=with_moments)})


def warn_of_own_values(config: RunConfig, site: SiteConfig) -> None:
    """Say in the log, once a run, that a test-only site has no training cases to fit its preprocessing on."""
    names = make_method(config.method).datasets() or (config.dataset,)
    found = [name for name in sorted(names) if name in site.datasets and site.dataset(name).fitted_on_test()]
    if found and config.preprocessing == "site":
        log.warning(
            "run %s: site %s is test-only: the preprocessing of %s is fitted on its own test inputs, without labels",
            config.run_id,
            site.site,
            ", ".join(found),
        )


def as_in_the_run(config: RunConfig, sites: Sequence[SiteConfig], own: Sequence[SiteData]) -> list[SiteData]:
    """The data of all sites of a study on one machine, prepared as in a run: by their own values, or by pooled ones.

    Args:
        config: the run.
        sites: in the order of their names.
        own: of each, as :func:`load_run_data` gives it.
    """
    if config.preprocessing == "site":
        return list(own)
    sums = [found.moments for data in own if (found := data.dataset().preprocessing) and found.moments]
    values = pooled_values(sums)
    return [load_run_data(config, site, pooled_preprocessing(site, config.dataset, values)) for site in sites]


def description(data: SiteData) -> PrepareReply:
    """What a site says of itself when a run begins: counts, classes, a fingerprint, and what its inputs are."""
    several = data.datasets if data.trained_together else {}
    own = None if data.trained_together else data.dataset().preprocessing
    return PrepareReply(
        train=data.cases("train"),
        validation=data.cases("validation"),
        test=data.cases("test"),
        class_names=data.class_names,
        fingerprint=data.fingerprint(),
        datasets={name: len(dataset.train) for name, dataset in several.items()},
        layout=() if own is None else preprocessing.lines(own.described()),
        moments=None if own is None else own.moments,
    )
