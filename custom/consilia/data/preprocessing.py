"""How a dataset becomes inputs: the layout of an input, which site.yaml decides, and the values that are fitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consilia.core.errors import DataError
from consilia.core.files import write_json
from consilia.core.reading import read_json
from consilia.data.moments import Moments

PREPROCESSING = "preprocessing.json"
INPUTS = "inputs"
"""In a described layout: the shape of one case's input."""

OF_THE_FILE = frozenset({"format", "missing", "missing_values"})
"""Keys of a layout that say how a site's own files are written, not what an input means: other sites' may differ."""

MAX_TEXT = 10_000
"""Characters of a value, the names of many columns say, that is sent as it is; of a longer one its digest is sent."""

PIECE = 150
"""Characters of a value in one line: a message from a site holds no longer texts than 200."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model's inputs are made with.

    Attributes:
        layout: the keys of site.yaml that decide what an input means, as the reader has them.
        fitted: values that the reader fitted, mean and standard deviation say.
        inputs: shape of one case's input; empty where an older file does not say.
        moments: sums of the raw training values, where a run pools them over its sites.
    """

    layout: Mapping[str, Any]
    fitted: Mapping[str, list[float]]
    inputs: tuple[int, ...] = field(default=())
    moments: Moments | None = None

    def described(self) -> dict[str, str]:
        """The layout in short texts by key, without what concerns the site's own files alone; see :func:`short`."""
        found = {key: short(value) for key, value in self.layout.items() if key not in OF_THE_FILE}
        return found | ({INPUTS: short(list(self.inputs))} if self.inputs else {})

    def write(self, path: Path) -> None:
        """Write it as JSON for its owner alone to read."""
        content = {"layout": self.layout, "fitted": self.fitted, INPUTS: list(self.inputs)}
        write_json(path, content, private=True)


def read_preprocessing(path: Path) -> Preprocessing:
    """What :meth:`Preprocessing.write` wrote. Raises :class:`DataError` where the file is another."""
    try:
        saved = read_json(path, error=DataError)
        fitted = {str(key): [float(x) for x in values] for key, values in saved["fitted"].items()}
        return Preprocessing(dict(saved["layout"]), fitted, tuple(int(size) for size in saved.get(INPUTS, ())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected the preprocessing that loading wrote: {error}") from error


def short(value: Any) -> str:
    """A value as JSON; one that is too long for a message by its length and the beginning of its SHA-256."""
    text = json.dumps(value, sort_keys=True)
    if len(text) <= MAX_TEXT:
        return text
    count = len(value) if isinstance(value, list | tuple | dict) else 1
    return f"{count} value(s), SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def lines(described: Mapping[str, str]) -> tuple[str, ...]:
    """A described layout as short texts ``key: value``, sorted; a long value goes on in lines ``key+1: value``, ..."""
    return tuple(
        f"{key}{f'+{start // PIECE}' if start else ''}: {value[start : start + PIECE]}"
        for key, value in sorted(described.items())
        for start in range(0, max(len(value), 1), PIECE)
    )


def from_lines(layout: Iterable[str]) -> dict[str, str]:
    """A described layout from its :func:`lines`."""
    found: dict[str, str] = {}
    for line in layout:
        key, _, value = line.partition(": ")
        name = key.partition("+")[0]
        found[name] = found.get(name, "") + value
    return found


def common(layouts: Iterable[Iterable[str]]) -> dict[str, str]:
    """The described layout that all of several have in common, from their lines."""
    found = [set(from_lines(layout).items()) for layout in layouts]
    return dict(sorted(set.intersection(*found))) if found else {}


def unlike(wanted: Mapping[str, str], here: Preprocessing) -> list[str]:
    """The keys that a described layout and a site's have both, with other values; sorted."""
    own = here.described()
    return sorted(key for key in wanted.keys() & own.keys() if wanted[key] != own[key])
