"""One reader per file format."""

from __future__ import annotations

from typing import Any

from consilia.core.errors import ConfigError
from consilia.data.readers.base import Reader
from consilia.data.readers.images import ImagesReader
from consilia.data.readers.medmnist import MedMnistReader
from consilia.data.readers.signals import SignalsReader
from consilia.data.readers.tabular import TabularReader
from consilia.data.readers.timeseries import TimeseriesReader
from consilia.data.specs import DatasetSpec

READERS: dict[str, type[Reader[Any]]] = {
    "tabular": TabularReader,
    "images": ImagesReader,
    "medmnist": MedMnistReader,
    "signals": SignalsReader,
    "timeseries": TimeseriesReader,
}


def reader_for(spec: DatasetSpec) -> Reader[Any]:
    """The reader of a specification's format. Raises :class:`ConfigError` for questions: no labelled cases."""
    if spec.format not in READERS:
        raise ConfigError(
            f"expected a dataset role of format {', '.join(READERS)}, got {spec.format}: it has answers in words, not "
            "classes, and is asked by a method for language models only"
        )
    return READERS[spec.format](spec)
