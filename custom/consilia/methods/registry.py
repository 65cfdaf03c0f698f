"""Methods by name, found when they are asked for.

A method of another package is registered under the entry point group ``consilia.methods``; on one machine a Python file
will do (``--plugin``), whose SHA-256 becomes part of the run. Consilia's own methods stand in a table here, since a job
that brings Consilia along has no installed package to ask.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from consilia.core.errors import ConfigError, described
from consilia.core.task import Task
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method

GROUP = "consilia.methods"

BUILT_IN = {
    "fedavg": "consilia.methods.fedavg:FedAvg",
    "fedprox": "consilia.methods.fedprox:FedProx",
    "fedadam": "consilia.methods.fedopt:FedAdam",
    "fedyogi": "consilia.methods.fedopt:FedYogi",
    "fedadagrad": "consilia.methods.fedopt:FedAdagrad",
    "scaffold": "consilia.methods.scaffold:Scaffold",
    "fedbn": "consilia.methods.fedbn:FedBN",
    "ditto": "consilia.methods.ditto:Ditto",
    "fedcurv": "consilia.methods.fedcurv:FedCurv",
    "moon": "consilia.methods.moon:Moon",
    "fedntd": "consilia.methods.fedntd:FedNTD",
    "fedper": "consilia.methods.fedper:FedPer",
    "fedrep": "consilia.methods.fedrep:FedRep",
    "fedbabu": "consilia.methods.fedbabu:FedBABU",
    "fedala": "consilia.methods.fedala:FedALA",
    "fedkper": "consilia.methods.fedkper.method:FedKPer",
    "fedgpl": "consilia.methods.fedgpl.method:FedGPL",
    "fedkim": "consilia.methods.fedkim.method:FedKIM",
}

STANDARD = ("fedavg", "fedprox", "fedkper")
"""The methods of a study that names none, and of the shipped jobs: they take any network and any training."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A method's name is part of names of folders and of runs."""

PLUGIN = "CONSILIA_PLUGIN"
"""Environment variable by which the simulator's processes find the plugin file of the run that started them."""


def method_names() -> list[str]:
    """Names of all methods that are installed or came with a plugin."""
    return sorted({*_installed(), *_plugins()})


def method_class(name: object) -> type[Method[Any]]:
    """The method of a name.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    plugins, installed = _plugins(), _installed()
    if name in plugins:
        return plugins[str(name)][0]
    if name not in installed:
        raise ConfigError(
            f"no method {name!r} is installed; there are {', '.join(method_names())}. A method of your own: --plugin "
            "FILE.py, or a package with an entry point in the group consilia.methods"
        )
    entry = installed[str(name)]
    try:
        found = entry.load()
    # Whatever a stranger's package raises when it is imported; sys.exit too.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"method {name} ({entry.value}) cannot be imported: {described(error)}") from error
    if not _is_method(found) or found.name != name:
        raise ConfigError(f"entry point {name} = {entry.value} is no Method whose name is {name!r}")
    return _checked(found, f"entry point {name} = {entry.value}")


def method_config(value: Any) -> MethodConfig:
    """A method's parameters from a name, or from a mapping with the key ``method``."""
    values = {"method": value} if isinstance(value, str) else value
    if not isinstance(values, Mapping):
        raise ConfigError(f"method is {value!r}, expected a name, or a mapping with the key method")
    return method_class(values.get("method")).Config.model_validate(dict(values))


def make_method(config: MethodConfig) -> Method[Any]:
    """The method that a configuration describes."""
    return method_class(config.method)(config)


def plugin_digest(name: str) -> str | None:
    """SHA-256 of the plugin file that a method came from; None for an installed one."""
    found = _plugins().get(name)
    return None if found is None else found[1]


def plugin_file() -> Path | None:
    """The plugin file that this process has loaded."""
    given = os.environ.get(PLUGIN)
    return None if given is None else Path(given)


def load_plugin(path: Path) -> None:
    """Register the methods that a Python file defines, in this process and those that it starts.

    Raises:
        ConfigError: the file cannot be imported, defines no method, or one whose name is taken.
    """
    os.environ[PLUGIN] = str(path.resolve())
    _plugins.cache_clear()
    try:
        _plugins()
    except ConfigError:
        del os.environ[PLUGIN]
        _plugins.cache_clear()
        raise


@dataclass(frozen=True)
class AllowedMethods:
    """The methods of other packages that one participant lets jobs name, and the file that lists them."""

    names: Sequence[str]
    file: Path

    def require(self, value: Any) -> None:
        """Refuse a method that is neither Consilia's own nor listed, before anything of it is imported.

        A plugin needs no listing: whoever starts a run on one machine names the file.

        Args:
            value: as :func:`method_config` takes it.

        Raises:
            ConfigError: says what to list, and where.
        """
        name = value.get("method") if isinstance(value, Mapping) else value
        if name in BUILT_IN or name in _plugins() or name in self.names or name not in _installed():
            return
        entry = _installed()[name]
        package = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        raise ConfigError(
            f"method {name!r} is of the package {package} and not listed here: to allow it, add it to allow_methods in "
            f"{self.file}"
        )


@cache
def _installed() -> dict[str, EntryPoint]:
    found = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(f"a method {entry.name!r} is registered twice: by {other.value} and by {entry.value}")
    return found


@cache
def _plugins() -> dict[str, tuple[type[Method[Any]], str]]:
    path = plugin_file()
    if path is None:
        return {}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"plugin {path} cannot be read: {error.strerror}") from error
    module = ModuleType(f"consilia_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        # These very bytes, and not what the file holds a moment later.
        exec(compile(content, str(path), "exec"), vars(module))
    # Whatever a stranger's file raises when it is imported; sys.exit too.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"plugin {path} cannot be imported: {described(error, path)}") from error
    digest = hashlib.sha256(content).hexdigest()
    found: dict[str, tuple[type[Method[Any]], str]] = {}
    for value in vars(module).values():
        if not _is_method(value) or value.__module__ != module.__name__ or (value, digest) in found.values():
            continue
        if value.name in found or value.name in _installed():
            raise ConfigError(f"plugin {path}: a method {value.name!r} is there already: choose another name")
        found[value.name] = (_checked(value, f"plugin {path}"), digest)
    if not found:
        raise ConfigError(
            f"plugin {path} defines no subclass of consilia.methods.Method with a name: expected a class with "
            'name = "..."'
        )
    return found


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and isinstance(getattr(value, "name", None), str)


def _checked(found: type[Method[Any]], source: str) -> type[Method[Any]]:
    """A method whose class says what a class must say."""
    if not NAME.fullmatch(found.name):
        raise ConfigError(
            f"{source}: a method has the name {found.name!r}, expected letters, digits, dots, dashes and underscores"
        )
    if not (isinstance(found.Config, type) and issubclass(found.Config, MethodConfig)):
        raise ConfigError(
            f"{source}: Config of method {found.name} is {found.Config!r}, expected a subclass of "
            "consilia.methods.MethodConfig"
        )
    known = get_args(Task)
    if isinstance(found.tasks, str) or not found.tasks or not set(found.tasks) <= set(known):
        raise ConfigError(f"{source}: tasks of method {found.name} are {found.tasks!r}, expected a tuple of {known}")
    return found
