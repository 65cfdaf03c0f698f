"""Read a YAML file into a validated pydantic model: variables, relative paths, and errors to act on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo

from consilia.core.errors import ConfigError
from consilia.core.reading import read_text
from consilia.core.schema import explain

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return (Path(base) / path.expanduser()).resolve() if base else path


def _to_text(value: Any) -> Any:
    # YAML reads 0, 1.0 and yes as numbers and booleans; in a data file they are text.
    return str(value) if isinstance(value, bool | int | float) else value


AbsolutePath = Annotated[Path, AfterValidator(_resolve)]
Text = Annotated[str, BeforeValidator(_to_text)]

MAX_BYTES, MAX_VALUES = 2**20, 100_000
"""Of a YAML file. PyYAML reads some 100,000 bytes a second."""

MAX_DIGITS = 100
"""Of a number: YAML's to the base of 60 (1:30:00) take time by the square of their length."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

ModelType = TypeVar("ModelType", bound=BaseModel)


class _BoundedLoader(yaml.SafeLoader):
    """YAML's safe loader, for files whose aliases do not stand for more than a file can say without them."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, with those of its aliases written out.

    Args:
        node: of the file's tree.
        known: the count by node; 0 of one that is being counted.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError("an alias stands for what it is itself a part of")
        return known[id(node)]
    if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
        raise yaml.YAMLError(f"a number of {len(node.value):,} characters, expected at most {MAX_DIGITS}")
    known[id(node)] = 0
    total = 1 + sum(_count(part, known) for part in _parts(node))
    if total > MAX_VALUES:
        raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, with those that aliases stand for")
    known[id(node)] = total
    return total


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def read_yaml(path: Path) -> Any:
    """The content of a YAML file with ``${VARIABLE}`` expanded. Raises :class:`ConfigError` naming file and key."""
    text = read_text(path, MAX_BYTES)
    try:
        content = yaml.load(text, _BoundedLoader)
    # Beside YAML's own errors: a number of thousands of digits, a date that is none, thousands of levels.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "too many levels" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path}: not valid YAML: {reason}") from error
    return _expand(content, path, ())


def _expand(value: Any, file: Path, key: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _expand(item, file, (*key, str(name))) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, file, (*key, str(index))) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if not found:
            where = f"{file}: {'.'.join(key)}"
            raise ConfigError(f"{where}: the environment variable {match.group(1)} is not set (the value is {value!r})")
        return found

    return _VARIABLE.sub(replace, value)


def validate(model: type[ModelType], content: Any, file: Path, base: Path | None = None) -> ModelType:
    """Validate parsed YAML; relative paths become absolute, counted from ``base`` (default: the file's folder)."""
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mapping of keys to values at the top, got {type(content).__name__}")
    try:
        return model.model_validate(content, context={"base": (base or file.parent).absolute()})
    except ValidationError as error:
        raise ConfigError(explain(error, file)) from error
