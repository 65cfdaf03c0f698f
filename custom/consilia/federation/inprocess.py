"""The in-process engine: the server's and the sites' halves in one plain loop, for studies of many runs and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from consilia.core.determinism import single_threaded
from consilia.core.errors import RunFailed
from consilia.core.events import Failed, Notice, Progress, no_progress
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.coordinator import Coordinator
from consilia.federation.failures import errors_of, failures_explained
from consilia.federation.initial import initial_state
from consilia.federation.messages import Broadcast
from consilia.federation.outputs import write_outputs
from consilia.federation.run_folder import PROGRESS, recorded
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site import Site
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
) -> Record:
    """Run a federation in this process and write its outputs to ``folder``; resume where that has a checkpoint.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        folder: for checkpoints and outputs.
        server: what the server may build, and where it keeps foundation models.
        progress: called with every event.
        pages: whether to draw the run's report, every site's own and TensorBoard's curves, half the time of a short
            run. Sites write their tables of cases in any case, and no other output is another one.

    Raises:
        ConsiliaError: a site's configuration or data cannot be read, or the run failed.
    """
    # The events of an earlier process are of a part of the run that is done.
    (folder / PROGRESS).unlink(missing_ok=True)
    progress = recorded(folder, progress)
    with single_threaded(), failures_explained(folder):
        sites, coordinator = open_run(config, site_files, folder, server=server, progress=progress, pages=pages)

        def deliver(broadcasts: Sequence[Broadcast]) -> None:
            for item in broadcasts:
                for name in item.targets:
                    coordinator.receive(name, sites[name].answer(item.request, item.tensors))

        try:
            record = coordinator.run(deliver)
        except RunFailed as error:
            # All sites are on this machine: whoever started the run may know.
            reason = f"{error}{errors_of(sites)}"
            progress(Failed(reason=reason))
            raise RunFailed(reason) from error
        if errors := errors_of(sites):
            progress(Notice(reason=f"the record lacks what failed at a site:{errors}"))
        write_outputs(folder, coordinator, record, pages=pages)
        coordinator.announce_end(record)
    return record


def open_run(
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path,
    *,
    server: ServerSettings,
    progress: Progress = no_progress,
    pages: bool = True,
) -> tuple[dict[str, Site], Coordinator]:
    """The sites and the server of a run in this process, for a loop to join them; arguments as above."""
    sites = {name: Site(config, load_site_config(path), pages=pages) for name, path in sorted(site_files.items())}
    model = config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)
    coordinator = Coordinator(
        config,
        sorted(sites),
        initial_state(config, model),
        folder,
        all_parameters=count_elements(model),
        server=server.model_copy(update={"engine": "inprocess"}),
        progress=progress,
    )
    return sites, coordinator
