"""Run a federation in NVFlare's simulator, follow it, and leave no process behind.

The simulator runs in a child process (``python -m consilia.flare.simulator FOLDER``): it puts itself in a session of
its own and starts a process per site, so stopping it means stopping its whole tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import yaml

from consilia.core.errors import ConfigError, ConsiliaError, RunFailed
from consilia.core.events import Failed, Notice, Progress, RoundDone, no_progress, read_event
from consilia.core.files import write_json
from consilia.data.allowed import FoundationFolder
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig, run_config
from consilia.federation.failures import failures_explained
from consilia.federation.run_folder import PROGRESS, RESULT, remove_outputs
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site_errors import FILE as ERRORS
from consilia.federation.site_errors import last_error
from consilia.flare.recipe import ConsiliaRecipe, execute_in_simulator
from consilia.record.files import load_record
from consilia.record.schema import Record

CONFIG, SIMULATOR, LOG = "run.json", "simulator", "simulator.log"
POLL_SECONDS = 0.1
ENDED_GRACE_SECONDS = 60
"""Once the result is written, the simulator has this long to shut its processes down by itself."""

PORT_TAKEN, STARTS = "Address already in use", 3
"""NVFlare chooses ports seconds before its processes listen there. If another process has come first, a site never
joins, and all the others wait for it: the run is started again, this many times in all."""


def run_simulator(
    config: RunConfig,
    site_files: Mapping[str, Path],
    folder: Path,
    *,
    server: ServerSettings,
    progress: Progress = no_progress,
) -> Record:
    """Run in the simulator, one process per site; resume where ``folder`` holds a checkpoint.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        folder: for checkpoints, outputs and the simulator's workspace.
        server: what the server may build, and where it keeps foundation models.
        progress: called with every event.

    Raises:
        RunFailed: the simulator ended without a result; the message says what the server and the sites logged.
    """
    folder = folder.absolute()
    if re.search(r"\s", str(folder)):
        raise ConfigError(f"NVFlare's simulator cannot work in a folder with spaces in its path: {folder}")
    for start in range(STARTS):
        if start:
            progress(Notice(reason="a port was taken by another program: starting again"))
        _prepare(config, site_files, folder, server)
        _simulate(folder, progress)
        if (folder / RESULT).is_file() or not _port_taken(folder):
            break
    if not (folder / RESULT).is_file():
        raise RunFailed(
            f"the simulated run ended without a result. {_why(folder, site_files)}\nFull logs: {folder / SIMULATOR}"
        )
    if errors := _site_errors(site_files):
        progress(Notice(reason="\n".join(("the record lacks what failed at a site:", *errors))))
    return load_record(folder / RESULT)


def _simulate(folder: Path, progress: Progress) -> None:
    # The simulator leaves temporary files, all the more when it is stopped. Its sockets are among them: a short name.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        with (folder / LOG).open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "consilia.flare.simulator", str(folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MALLOC_ARENA_MAX": "2", "TMPDIR": scratch},
            )
        try:
            _follow(process, folder, progress)
        finally:
            stop_tree(process.pid)
            process.wait()


def _port_taken(folder: Path) -> bool:
    return PORT_TAKEN in (folder / LOG).read_text(errors="replace")


def stop_tree(pid: int, grace: float = 5.0) -> None:
    """End a process and all its descendants, whatever session they moved to."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(tree, timeout=grace)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=grace)


def _prepare(config: RunConfig, site_files: Mapping[str, Path], folder: Path, server: ServerSettings) -> None:
    workspace = folder / SIMULATOR / config.label / "local"
    shutil.rmtree(folder / SIMULATOR, ignore_errors=True)
    (workspace / "sites").mkdir(parents=True)
    remove_outputs(folder)
    for path in site_files.values():
        (load_site_config(path).state_dir / ERRORS).unlink(missing_ok=True)
    for name, path in site_files.items():
        # Written out anew, because relative paths count from the file's own folder.
        content = load_site_config(path).model_dump(mode="json", by_alias=True)
        (workspace / "sites" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    simulated = server.model_copy(update={"state_dir": folder, "engine": "sim"})
    (workspace / "server.yaml").write_text(yaml.safe_dump(simulated.model_dump(mode="json")))
    folders = {name: place.model_dump(mode="json") for name, place in server.foundation_models.items()}
    write_json(folder / CONFIG, {"config": config.to_json(), "sites": sorted(site_files), "foundation_models": folders})


def _follow(process: subprocess.Popen[bytes], folder: Path, progress: Progress) -> None:
    seen = 0
    begun = False
    ended: float | None = None
    while True:
        running = process.poll() is None
        path = folder / PROGRESS
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        for line in lines[seen:]:
            if not line.endswith("\n"):
                break
            event = read_event(json.loads(line))
            begun = begun or isinstance(event, RoundDone)
            if event is not None:
                progress(event)
            seen += 1
        if not begun and _port_taken(folder):
            return
        if (folder / RESULT).is_file() and ended is None:
            ended = time.monotonic()
        if not running or (ended is not None and time.monotonic() - ended > ENDED_GRACE_SECONDS):
            return
        time.sleep(POLL_SECONDS)


def _why(folder: Path, site_files: Mapping[str, Path]) -> str:
    """The reason the run gave, and the last error of each site: all are on this one machine."""
    path = folder / PROGRESS
    lines = path.read_text().splitlines() if path.is_file() else []
    events = [read_event(json.loads(line)) for line in lines]
    reasons = [event.reason for event in events if isinstance(event, Failed)]
    return "\n".join((*reasons, *_site_errors(site_files))) or f"See {folder / LOG}"


def _site_errors(site_files: Mapping[str, Path]) -> list[str]:
    """The last error of each site that had one, and where it is in full."""
    places = {name: load_site_config(path).state_dir for name, path in site_files.items()}
    found = {name: last_error(place) for name, place in places.items()}
    return [f"{name}: {error} (more in {places[name] / ERRORS})" for name, error in found.items() if error]


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        action()


def main() -> None:
    """The child process: execute the run described in the folder given as the only argument."""
    folder = Path(sys.argv[1])
    content = json.loads((folder / CONFIG).read_text())
    folders = {name: FoundationFolder(**place) for name, place in content["foundation_models"].items()}
    try:
        with failures_explained(folder):
            config = run_config(content["config"])
            recipe = ConsiliaRecipe(config, min_clients=len(content["sites"]), foundation_models=folders)
    except ConsiliaError as error:
        # Where the parent looks for the reason.
        (folder / PROGRESS).write_text(json.dumps(Failed(reason=str(error)).to_json()) + "\n")
        sys.exit(1)
    execute_in_simulator(recipe, content["sites"], folder / SIMULATOR)


if __name__ == "__main__":
    main()
