"""The in-process engine: the server's and the sites' halves in one plain loop, for studies of many runs and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from consilia.core.determinism import single_threaded
from consilia.core.errors import ConfigError, RunFailed
from consilia.core.events import Failed, Notice, Progress, no_progress
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.coordinator import Coordinator
from consilia.federation.failures import as_lines, failures_explained
from consilia.federation.initial import initial_state
from consilia.federation.messages import Broadcast
from consilia.federation.outputs import write_outputs
from consilia.federation.run_folder import PROGRESS, recorded
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site import Site
from consilia.federation.sites_here import Sites, SitesHere
from consilia.federation.workers import SitesInWorkers
from consilia.models.exchange import count_elements
from consilia.record.schema import Record


def run_inprocess(
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path,
    *,
    server: ServerSettings,
    progress: Progress = no_progress,
    pages: bool = True,
    workers: int = 1,
) -> Record:
    """Run a federation on this machine and write its outputs to ``folder``; resume where that has a checkpoint.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        folder: for checkpoints and outputs.
        server: what the server may build, and where it keeps foundation models.
        progress: called with every event.
        pages: whether to draw the run's report, every site's own and TensorBoard's curves, half the time of a short
            run. Sites write their tables of cases in any case, and no other output is another one.
        workers: 1: the sites are in this process, one after the other. More: so many processes share them, at most one
            per site. The models are the same, to the bit.

    Raises:
        ConsiliaError: a site's configuration or data cannot be read, or the run failed.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1")
    # The events of an earlier process are of a part of the run that is done.
    (folder / PROGRESS).unlink(missing_ok=True)
    progress = recorded(folder, progress)
    with (
        single_threaded(),
        failures_explained(folder),
        _sites(config, site_files, folder, pages=pages, workers=workers) as sites,
    ):
        coordinator = _coordinator(config, sorted(site_files), folder, server=server, progress=progress)

        def deliver(broadcasts: Sequence[Broadcast]) -> None:
            sites.deliver(broadcasts, coordinator.receive)

        try:
            record = coordinator.run(deliver)
        except RunFailed as error:
            # All sites are on this machine: whoever started the run may know.
            reason = f"{error}{as_lines(sites.errors())}"
            progress(Failed(reason=reason))
            raise RunFailed(reason) from error
        if errors := as_lines(sites.errors()):
            progress(Notice(reason=f"the record lacks what failed at a site:{errors}"))
        write_outputs(folder, coordinator, record, pages=pages)
        coordinator.announce_end(record)
    return record


@contextmanager
def _sites(
    config: RunConfig, site_files: Mapping[str, Path], folder: Path, *, pages: bool, workers: int
) -> Iterator[Sites]:
    if min(workers, len(site_files)) <= 1:
        yield SitesHere(config, site_files, pages=pages)
        return
    with SitesInWorkers(config, site_files, folder, workers=workers, pages=pages) as sites:
        yield sites


def open_run(
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path,
    *,
    server: ServerSettings,
    progress: Progress = no_progress,
) -> tuple[dict[str, Site], Coordinator]:
    """The sites and the server of a run in this process, for a loop to join them; arguments as above."""
    sites = {name: Site(config, load_site_config(path)) for name, path in sorted(site_files.items())}
    return sites, _coordinator(config, sorted(sites), folder, server=server, progress=progress)


def _coordinator(
    config: RunConfig, names: Sequence[str], folder: Path, *, server: ServerSettings, progress: Progress
) -> Coordinator:
    model = config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)
    return Coordinator(
        config,
        names,
        initial_state(config, model),
        folder,
        all_parameters=count_elements(model),
        server=server.model_copy(update={"engine": "inprocess"}),
        progress=progress,
    )
