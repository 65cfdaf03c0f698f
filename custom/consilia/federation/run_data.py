"""A site's data as a run sees them: of one dataset, or of the several that its method trains together."""

from __future__ import annotations

from consilia.data import preprocessing
from consilia.data.dataset import SiteData
from consilia.data.loading import load_dataset, load_several
from consilia.data.site import SiteConfig
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.methods.registry import make_method


def load_run_data(config: RunConfig, site: SiteConfig) -> SiteData:
    """Load them; see :func:`~consilia.data.loading.load_dataset` and :func:`~consilia.data.loading.load_several`."""
    several = make_method(config.method).datasets()
    if several:
        return load_several(site, several)
    return SiteData(site.site, {config.dataset: load_dataset(site, config.dataset)})


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
    )
