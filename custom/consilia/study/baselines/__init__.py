"""What federation is judged against, on one machine only; each gives a record of the same schema as a federated run.

- ``centralised``: one model on all training cases together; ``local-only``: one at every site. Both with the run's
  network and as many passes over the data as a site makes (:mod:`~consilia.study.baselines.trained`).
- ``linear``: a logistic regression, of all training cases and of each site's own
  (:mod:`~consilia.study.baselines.linear`).
- ``majority``, ``filled-box``, ``ellipse``: an answer without a model (:mod:`~consilia.study.baselines.fixed`).
- ``public-only``: what a method learns at the server alone (:mod:`consilia.study.public_only`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from consilia.core.determinism import single_threaded, torch_threads
from consilia.core.errors import CannotTrain, ConfigError
from consilia.core.events import Progress, no_progress
from consilia.core.schema import nearest
from consilia.data.dataset import SiteData
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.model_card import global_card, save_model
from consilia.federation.recorder import Recorder
from consilia.federation.run_data import as_in_the_run, description, load_run_data, warn_of_own_values
from consilia.federation.server_settings import own_server
from consilia.methods.registry import make_method
from consilia.record.schema import Record
from consilia.study.baselines.common import Saved, Setting
from consilia.study.baselines.fixed import ellipse, filled_box, majority
from consilia.study.baselines.linear import linear
from consilia.study.baselines.trained import centralised, local_only
from consilia.study.public_only import public_only

_ON_SITES: dict[str, Callable[[Setting, list[SiteData], Recorder], Saved]] = {
    "centralised": centralised,
    "local-only": local_only,
    "linear": linear,
    "majority": majority,
    "filled-box": filled_box,
    "ellipse": ellipse,
}
PUBLIC_ONLY = "public-only"
BASELINES = (*_ON_SITES, PUBLIC_ONLY)
TASK_OF = {
    "linear": "classification",
    "majority": "classification",
    "filled-box": "segmentation",
    "ellipse": "segmentation",
}
"""Baselines of one task only."""


def require_baseline(name: str, config: RunConfig) -> None:
    """Refuse a baseline that is unknown, not of the run's task, or not for its method; raises :class:`ConfigError`."""
    if name not in BASELINES:
        raise ConfigError(f"no baseline {name!r}; {nearest(name, BASELINES)}")
    if name != PUBLIC_ONLY and make_method(config.method).several_datasets:
        raise CannotTrain(f"baseline {name} is for methods that train one task, {config.method.method} trains several")
    if config.task != TASK_OF.get(name, config.task):
        raise CannotTrain(f"baseline {name} is for {TASK_OF[name]}, the run is a {config.task}")


def run_baseline(
    name: str,
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path | None = None,
    *,
    progress: Progress = no_progress,
    pages: bool = True,
) -> Record:
    """Run a baseline of :data:`BASELINES` with a run's model, training and budget.

    Args:
        name: of the baseline.
        config: of the run.
        site_files: each site's site.yaml.
        folder: where a global model is saved; a site's own model goes to the site's state. None: no model is saved.
        progress: called with an event for every round.
        pages: whether sites write their own reports.

    Raises:
        ConfigError: a baseline that is unknown or not of this task, or a site's configuration is wrong.
        DataError: a site's data do not fit it.
    """
    require_baseline(name, config)
    if config.label == config.method.method:
        config = config.model_copy(update={"label": name})
    with single_threaded(), torch_threads(config.training.threads):
        server = own_server(config, site_files)
        recorder = Recorder(config, "inprocess")
        saved: Saved = {}
        if name == PUBLIC_ONLY:
            public_only(config, server, recorder, progress)
        else:
            settings = {name: load_site_config(path) for name, path in sorted(site_files.items())}
            own = [load_run_data(config, site) for site in settings.values()]
            recorder.class_names = list(own[0].class_names)
            for settled in settings.values():
                warn_of_own_values(config, settled)
            for site in own:
                recorder.add_site(site.site, description(site))
            sites = as_in_the_run(config, list(settings.values()), own)
            setting = Setting(config, server, settings, folder, progress, pages, {})
            saved = _ON_SITES[name](setting, sites, recorder)
            setting.write_predictions(sites)
        record = recorder.record("finished")
    run = record.run.model_copy(update={"method": name.replace("-", "_")})
    record = record.model_copy(update={"run": run})
    if folder is not None:
        for key, state in saved.items():
            card = global_card(config, record, key).model_copy(update={"method": name})
            save_model(folder / f"global-{key}.safetensors", state, card)
    return record
