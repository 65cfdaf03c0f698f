"""A site.yaml (or server.yaml) moved into a kit: its text with comments, its relative paths made to mean the same."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from consilia.core.errors import ConfigError
from consilia.core.schema import Strict
from consilia.data.limits import shown_limits
from consilia.data.site import SITE_FILE, SiteConfig
from consilia.data.yaml_file import read_yaml, validate
from consilia.deploy.kit import Kit
from consilia.federation.server_settings import SERVER_FILE, ServerSettings


def config_file(kit: Kit) -> Path:
    """Where a kit keeps the file that its people write."""
    return kit.local / (SITE_FILE if kit.kind == "client" else SERVER_FILE)


def moved_config(kit: Kit, source: Path) -> bytes:
    """The content of a site.yaml or server.yaml for a kit.

    Raises:
        ConfigError: it is no such file, is for another site, or its paths cannot be moved.
    """
    model: type[Strict] = SiteConfig if kit.kind == "client" else ServerSettings
    before = validate(model, read_yaml(source), source)
    if isinstance(before, SiteConfig) and before.site != kit.name:
        raise ConfigError(f"{source} is for site {before.site!r}, the kit {kit.folder} is of {kit.name!r}")
    text = source.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        places = {scalar.start_mark.index: (scalar, path) for scalar, path in _paths(node, before)}
        for start, (scalar, path) in sorted(places.items(), reverse=True):
            text = text[:start] + _absolute(scalar.value, path, source) + text[scalar.end_mark.index :]
        text = _with_limits(_with_state(text, before), before)
    if _read(model, text, config_file(kit)) != before:
        raise ConfigError(f"{source}: its relative paths cannot be moved to {kit.local}: write them as absolute ones")
    return text.encode()


def _paths(node: yaml.Node, value: Any) -> Iterator[tuple[yaml.ScalarNode, Path]]:
    """Every scalar of a YAML document that the model takes for a path, with what the path means."""
    if isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            yield from _paths(item, _member(value, key.value))
    elif isinstance(node, yaml.SequenceNode) and isinstance(value, list | tuple):
        for item, part in zip(node.value, value, strict=False):
            yield from _paths(item, part)
    elif isinstance(node, yaml.ScalarNode) and isinstance(value, Path):
        yield node, value


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    return getattr(value, key, None) if isinstance(value, BaseModel) else None


def _absolute(written: str, meant: Path, source: Path) -> str:
    if "$" not in written:
        return json.dumps(str(meant), ensure_ascii=False)
    # A variable stays one: what it stands for may be another thing tomorrow.
    relative = not Path(os.path.expandvars(written)).expanduser().is_absolute()
    return json.dumps(str(source.parent.resolve() / written) if relative else written, ensure_ascii=False)


def _with_state(text: str, config: Strict) -> str:
    """A site's state folder stays where it is, also where the file does not name it: splits lie there."""
    if not isinstance(config, SiteConfig) or "state_dir" in config.model_fields_set:
        return text
    end = "" if text.endswith("\n") else "\n"
    return f"{text}{end}state_dir: {json.dumps(str(config.state_dir), ensure_ascii=False)}\n"


def _with_limits(text: str, config: Strict) -> str:
    """A site sees what limits it has, also where its file does not name them."""
    if not isinstance(config, SiteConfig) or "limits" in config.model_fields_set:
        return text
    end = "" if text.endswith("\n") else "\n"
    return f"{text}{end}# What a job may ask of this site: docs/limits.md\n{shown_limits(config.limits)}"


def _read(model: type[Strict], text: str, place: Path) -> Strict | None:
    """What a text would mean in a file at ``place``; None where it would not be valid."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / place.name
        trial.write_text(text, encoding="utf-8")
        try:
            return validate(model, read_yaml(trial), trial, base=place.parent)
        except ConfigError:
            return None
