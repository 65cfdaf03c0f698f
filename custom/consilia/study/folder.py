"""The folder of a run on one machine: whether it holds that run already; a refused run leaves nothing there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from consilia.core.checkpoint import ANEW
from consilia.core.errors import ConfigError, DataError, RunFailed
from consilia.core.lock import locked
from consilia.data.site import load_site_config, server_data
from consilia.federation.checkpoints import CHECKPOINT
from consilia.federation.config import RunConfig
from consilia.federation.outputs import EVENTS, REPORT, SAVED
from consilia.federation.run_data import load_run_data
from consilia.federation.run_folder import PROGRESS, RESULT
from consilia.federation.server_work import FOLDER
from consilia.methods.registry import make_method
from consilia.record.files import load_record
from consilia.record.schema import Record
from consilia.study.outcome import COST, FAILURE

Fingerprints = dict[tuple[object, ...], str]
"""Of a site's data: by its site.yaml and the names of the datasets."""

SITES = "sites"
"""Below a run's or a study's folder: the sites of a federation that is made on this machine."""

OUTPUTS = (
    *(RESULT, REPORT, PROGRESS, EVENTS, CHECKPOINT, "global-*", "spool", SITES),
    *("simulator", "simulator.log", "run.json", "errors.log", FOLDER, SAVED),
    *(COST, FAILURE),
)
"""What a run of either engine leaves in its folder."""

LOCK = ".study.lock"


def finished(
    place: Path,
    config: RunConfig,
    site_files: Mapping[str, Path],
    *,
    baseline: bool = False,
    fingerprints: Fingerprints | None = None,
) -> Record | None:
    """The record of this very configuration on these very data, if it is there.

    Args:
        place: the folder.
        config: of the run.
        site_files: each site's site.yaml.
        baseline: whether it is a baseline with the settings of the configuration.
        fingerprints: of data that an earlier call has read, for many runs on the same.

    Raises:
        ConfigError: the folder holds the record of another configuration, or of other data.
    """
    path = place / RESULT
    if not path.is_file():
        return None
    record = load_record(path)
    if record.run.id != config.run_id or (record.run.method != config.method.method) != baseline:
        raise ConfigError(f"{path} is of another configuration ({record.run.id}, now {config.run_id}): {ANEW}")
    # The baseline without sites has none in its record, and does not depend on them.
    if record.sites and set(site_files) != {*record.sites, *record.absent}:
        raise ConfigError(
            f"{path} is of the sites {sorted({*record.sites, *record.absent})}, now there are {sorted(site_files)}: "
            f"{ANEW}"
        )
    own = record.server_fingerprint
    if own is not None and own != make_method(config.method).server_fingerprint(server_data(site_files)):
        raise ConfigError(f"{path}: the server's own data have changed since: {ANEW}")
    for name, site_file in site_files.items():
        if name not in record.sites:
            continue
        if (
            _fingerprint(config, site_file, {} if fingerprints is None else fingerprints)
            != record.sites[name].fingerprint
        ):
            raise ConfigError(f"{path}: the data of site {name!r} have changed since: {ANEW}")
    return record


def _fingerprint(config: RunConfig, site_file: Path, known: Fingerprints) -> str:
    datasets = make_method(config.method).datasets() or (config.dataset,)
    key = (site_file, *sorted(datasets))
    if key not in known:
        known[key] = load_run_data(config, load_site_config(site_file)).fingerprint()
    return known[key]


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Where what is done inside is refused before a round is saved, remove what it has made, and no more than that.

    That is the folder, or else the sites below it, if it was not there before; and folders above that are empty then.
    A run that failed for another reason keeps its logs.
    """
    made = next((place for place in (folder, folder / SITES) if not place.exists()), None)
    above = [place for place in folder.parents if not place.exists()]
    try:
        yield
    except (ConfigError, DataError):
        if made is not None and not (folder / CHECKPOINT).is_dir() and not (folder / RESULT).is_file():
            shutil.rmtree(made, ignore_errors=True)
            with suppress(OSError):  # Another run may have put something there.
                for place in above:
                    place.rmdir()
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside the block no other process works on the study of a folder: two of them would make every run twice.

    Raises:
        RunFailed: another one does.
    """
    there = (folder / LOCK).exists()
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / LOCK))
        except RunFailed:
            raise RunFailed(
                f"{folder}: another process runs a study in this folder: wait for its end, or choose another --out"
            ) from None
        try:
            yield
        except (ConfigError, DataError):
            if not there:
                (folder / LOCK).unlink()
            raise


@contextmanager
def overwritten(folder: Path) -> Iterator[None]:
    """Inside the block the folder is without what an earlier run left; if the block is refused, that is back.

    Raises:
        ConfigError: there is a folder and it holds no run.
    """
    if not folder.exists():
        yield
        return
    if not ((folder / RESULT).is_file() or (folder / CHECKPOINT).is_dir()):
        raise ConfigError(
            f"--overwrite: {folder} holds no run (neither {RESULT} nor {CHECKPOINT}/): nothing is deleted"
        )
    aside = Path(mkdtemp(dir=folder, prefix=".earlier-"))
    _move(folder, aside)
    try:
        yield
    except BaseException:
        for path in _outputs(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _move(aside, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _move(source: Path, target: Path) -> None:
    for path in _outputs(source):
        path.rename(target / path.name)


def _outputs(folder: Path) -> list[Path]:
    return [path for name in OUTPUTS for path in folder.glob(name)]
