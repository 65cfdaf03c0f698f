"""The in-process engine: the server's and the sites' halves in one plain loop, for studies of many runs and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from consilia.core.determinism import single_threaded
from consilia.federation.config import RunConfig
from consilia.federation.coordinator import Coordinator
from consilia.federation.messages import Task
from consilia.federation.outputs import write_outputs
from consilia.federation.progress import Progress, no_progress
from consilia.federation.site import Site
from consilia.models.build import build_model
from consilia.report.record import Record


def run_inprocess(
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path,
    *,
    allow_models: Sequence[str],
    progress: Progress = no_progress,
) -> Record:
    """Run a federation in this process and write its outputs to ``folder``; resume where that has a checkpoint.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        folder: for checkpoints and outputs.
        allow_models: model classes that the server may build.
        progress: told about every step.

    Raises:
        ConsiliaError: a site's configuration or data cannot be read, or the run failed.
    """
    with single_threaded():
        sites = {name: Site(config, path) for name, path in sorted(site_files.items())}
        model = build_model(config.model.class_, config.model.args, seed=config.seed, allowed=allow_models)
        initial = {name: value.detach().clone() for name, value in model.state_dict().items()}
        coordinator = Coordinator(config, sorted(sites), initial, folder, engine="inprocess", progress=progress)

        def deliver(tasks: Sequence[Task]) -> None:
            for task in tasks:
                for name in task.targets:
                    coordinator.receive(name, sites[name].answer(task.info, task.tensors))

        record = coordinator.run(deliver)
        write_outputs(folder, coordinator, record)
    return record
