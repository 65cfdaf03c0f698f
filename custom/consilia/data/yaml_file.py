"""Read a YAML file into a validated pydantic model: variables, relative paths, and errors to act on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo

from consilia.core.errors import ConfigError
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

ModelType = TypeVar("ModelType", bound=BaseModel)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file with ``${VARIABLE}`` expanded. Raises :class:`ConfigError` naming file and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
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
