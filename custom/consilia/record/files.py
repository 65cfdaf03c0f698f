"""How a record is written to ``result.json`` and read from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from consilia.core.errors import ConfigError
from consilia.core.files import write_json
from consilia.core.reading import read_json
from consilia.core.schema import explain
from consilia.record.schema import Record

SCHEMA = "consilia.result/2"


def save_record(record: Record, path: Path) -> None:
    """Write ``result.json`` atomically."""
    write_json(path, record.plain())


def load_record(path: Path) -> Record:
    """Read a ``result.json``.

    Raises:
        ConfigError: the file is missing, is not JSON, or does not fit the schema; names the file and the key.
    """
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{path}: key schema: expected {SCHEMA!r}, got {schema!r}: read it with the version of Consilia that wrote "
            "it, or run it again"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error, path)) from error
