"""One reader per file format; a specification names its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from consilia.core.errors import ConfigError
from consilia.data.readers.base import Reader
from consilia.data.specs import CommonSpec


def reader_for(spec: CommonSpec) -> Reader[Any]:
    """The reader of a specification's format. Raises :class:`ConfigError` for questions: no labelled cases."""
    if spec.reader is None:
        raise ConfigError(
            f"expected a dataset with labelled cases, got {spec.format}: it has answers in words, not classes, "
            "and is asked by a method for language models only"
        )
    module, _, name = spec.reader.partition(":")
    reader: Reader[Any] = getattr(import_module(module), name)(spec)
    return reader
