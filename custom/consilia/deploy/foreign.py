"""What of a job's folder is not as ``consilia export`` writes it. Pure but for reading the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilia.core.errors import ConfigError
from consilia.core.plain import plain
from consilia.core.reading import read_json
from consilia.federation.messages import REQUESTS
from consilia.federation.release_manifest import CLIENT_CONFIG, MAX_CONFIG_BYTES
from consilia.flare.recipe import ALLOWED_CLASSES, POLLING_SECONDS

SERVER_CONFIG, META = "config_fed_server.json", "meta.json"
CONTROLLER, EXECUTOR, PERSISTOR = ALLOWED_CLASSES
OF_NVFLARE = (".__nvfl_sig.json", ".__nvfl_submitter.crt")
"""What NVFlare puts into every folder of a job that it has deployed."""

CODE = "custom/consilia/"
"""Where in an app ``consilia export --byoc`` puts the package."""

MAX_FILES, MAX_FOREIGN = 2000, 20
"""Files that are looked at, and foreign parts that are shown."""

MAX_SHOWN = 60

ASKS = ("launcher_spec", "edge_method", "custom_props", "stats_pool_config")
"""Keys of a meta.json by which NVFlare runs a job otherwise: in a container of its own, say."""


@dataclass(frozen=True)
class JobFiles:
    """The files of a job.

    Attributes:
        contents: the JSON of those that the job runs by, by their path in the job's folder.
        others: the paths of all others in its apps.
    """

    contents: Mapping[str, Any]
    others: tuple[str, ...]

    @property
    def code(self) -> tuple[str, ...]:
        """Those that bring code as ``consilia export --byoc`` puts it there."""
        return tuple(path for path in self.others if path.partition("/")[2].startswith(CODE))


def job_files(place: Path) -> JobFiles:
    """The files of a job's apps, and its meta.json.

    Args:
        place: an exported job's folder, or the folder of a deployed job in a startup kit.

    Raises:
        ConfigError: something in an app is a link, no plain file or cannot be read, or there are too many files.
    """
    contents: dict[str, Any] = {}
    others = []
    for path in _files(place):
        name = path.relative_to(place).as_posix()
        if name.partition("/")[2] in (f"config/{CLIENT_CONFIG}", f"config/{SERVER_CONFIG}"):
            contents[name] = read_json(path, MAX_CONFIG_BYTES, links=False)
        elif path.name not in OF_NVFLARE:
            others.append(name)
    if os.path.lexists(place / META):
        contents[META] = read_json(place / META, MAX_CONFIG_BYTES, links=False)
    return JobFiles(contents, tuple(others))


def _files(place: Path) -> list[Path]:
    """All files of the apps; an app is a folder with a folder config in it."""
    found: list[Path] = []
    for app in sorted(path.parent for path in place.glob("*/config")):
        for folder, below, files in os.walk(app):
            for path in (Path(folder) / name for name in [*below, *files]):
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise ConfigError(f"{path} is a link or no plain file: a job holds files and folders only")
            found += [Path(folder) / name for name in files]
            if len(found) > MAX_FILES:
                raise ConfigError(f"{place}: more than {MAX_FILES} files, expected a job of Consilia with three")
        if app.is_symlink():
            raise ConfigError(f"{app} is a link: a job holds files and folders only")
    return sorted(found)


def foreign_parts(files: JobFiles) -> list[str]:
    """What of a job is not as ours are: each with file and key, what is expected and what is there.

    The package itself, where ``consilia export --byoc`` has put it into the job, is not among them; see
    :attr:`JobFiles.code`.
    """
    code = set(files.code)
    found = [f"{path}: a job of Consilia has no such file" for path in files.others if path not in code]
    for path, content in files.contents.items():
        if path == META:
            found += _of_meta(content)
        else:
            arguments = _arguments(content)
            expected = _client(arguments) if path.endswith(CLIENT_CONFIG) else _server(arguments)
            found += [f"{path}: {text}" for text in unlike(expected, content)]
    return [plain(part) for part in (*found, *_unlike_halves(files))]


def _client(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A site's half, as NVFlare exports a job of :class:`consilia.flare.recipe.ConsiliaRecipe`."""
    given = {name: arguments.get(name) for name in ("config", "version", "release_manifest")}
    executor = {"path": EXECUTOR, "args": given}
    return {
        "format_version": 2,
        "executors": [{"tasks": list(REQUESTS), "executor": executor}],
        "components": [],
        "task_data_filters": [],
        "task_result_filters": [],
    }


def _server(arguments: Mapping[str, Any]) -> dict[str, Any]:
    config = arguments.get("config")
    controller = {"config": config, "version": arguments.get("version")}
    return {
        "format_version": 2,
        "workflows": [{"id": "controller", "path": CONTROLLER, "args": controller}],
        "components": [{"id": "persistor", "path": PERSISTOR, "args": {"config": config}}],
        "task_data_filters": [],
        "task_result_filters": [],
        "server": {"task_request_interval": POLLING_SECONDS},
    }


def _arguments(content: Any) -> Mapping[str, Any]:
    """What the executor or the controller is made with; empty where there is none."""
    try:
        first = content["executors"][0]["executor"] if "executors" in content else content["workflows"][0]
        found = first["args"]
    except (KeyError, IndexError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def unlike(expected: Any, found: Any, key: str = "") -> Iterator[str]:
    """The keys at which two JSON values differ, each with what is expected and what is there."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() | found.keys()):
            below = f"{key}.{name[:MAX_SHOWN]}".removeprefix(".")
            if name not in expected:
                yield f"key {below}: a job of Consilia has no such key"
            elif name not in found:
                yield f"key {below}: expected {_shown(expected[name])}, got nothing"
            else:
                yield from unlike(expected[name], found[name], below)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from unlike(one, other, f"{key}.{place}")
    elif type(expected) is not type(found) or expected != found:
        yield f"key {key}: expected {_shown(expected)}, got {_shown(found)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _of_meta(meta: Any) -> Iterator[str]:
    """NVFlare adds keys of its own, so only those count that ask for more than to run the apps."""
    if not isinstance(meta, dict):
        yield f"{META}: expected an object, got {type(meta).__name__}"
        return
    for key in ASKS:
        if meta.get(key):
            yield f"{META}: key {key}: expected nothing, got {_shown(meta[key])}"
    resources = meta.get("resource_spec", {})
    sites = resources.values() if isinstance(resources, dict) else [resources]
    if not all(isinstance(site, dict) and all(type(n) in (int, float) for n in site.values()) for site in sites):
        yield f"{META}: key resource_spec: expected numbers by name for each site, got {_shown(resources)}"


def _unlike_halves(files: JobFiles) -> Iterator[str]:
    """The server must lead the run that the sites are asked to take part in."""
    configs = {path: _arguments(content).get("config") for path, content in files.contents.items() if path != META}
    sites = {path: config for path, config in configs.items() if path.endswith(CLIENT_CONFIG)}
    for path, config in configs.items():
        for other, of_site in sites.items():
            if path != other and config != of_site:
                yield f"{path}: the configuration is not that of {other}"
