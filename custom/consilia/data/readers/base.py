"""What every format's reader offers, and the standardisation they share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from consilia.core.errors import ConfigError
from consilia.data.cases import Cases
from consilia.data.moments import Moments
from consilia.data.problems import Problems
from consilia.data.specs import CommonSpec

SpecType = TypeVar("SpecType", bound=CommonSpec)
Fitted = dict[str, list[float]]


@dataclass(frozen=True)
class Source:
    """The image file of a new case: its rows and columns, mm per pixel of them if known, and the slice in a volume.

    ``folder``: below the folder that was searched, as text; empty for that one itself.
    """

    path: Path
    size: tuple[int, int]
    spacing: tuple[float, float] | None = None
    slice: int = 0
    folder: str = ""


class Reader(ABC, Generic[SpecType]):
    """Reads one format: index the cases, read their raw values, fit preprocessing on some of them, apply it."""

    def __init__(self, spec: SpecType) -> None:
        self.spec = spec

    @abstractmethod
    def index(self, problems: Problems) -> Cases:
        """The site's cases with patients and labels, without reading what is large."""

    @abstractmethod
    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        """Raw values (N, ...) of the cases; NaN where a value is missing and the format allows it."""

    def truth(self, cases: Cases, problems: Problems) -> np.ndarray:
        """What a model should answer: labels (N,) int64; of a segmentation masks (N, H, W) uint8 of 0 and 1; of a
        survival times and events (N, 2) float64.
        """
        return cases.labels

    def spacing(self, cases: Cases) -> np.ndarray | None:
        """mm per pixel (N, 2) of the inputs, rows and columns; None where it is not known of every case."""
        return None

    @abstractmethod
    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        """Ids and raw values (N, ...) of new, unlabelled cases.

        A problem that concerns one case alone is noted with its id; its values are then of no meaning.
        """

    def sources(self, source: Path) -> tuple[Source, ...]:
        """The image file of each case that :meth:`read_new` reads; empty for formats that are not image files."""
        return ()

    @abstractmethod
    def fit(self, raw: np.ndarray) -> Fitted:
        """Preprocessing statistics of raw training values; JSON can hold them."""

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        """Sums of raw training values, for preprocessing that is pooled over sites; of columns that fewer than
        ``fewest`` cases have there are none.

        Raises:
            ConfigError: what the format fits does not add up over sites.
        """
        raise ConfigError(
            f"preprocessing: pooled is for values that are a mean and a deviation; format {self.spec.format} fits "
            "others: set preprocessing: site"
        )

    def pooled(self, values: Mapping[str, list[float]]) -> Fitted:
        """What :meth:`fit` would give for the pooled ``mean`` and ``std`` of raw values."""
        return {"mean": list(values["mean"]), "std": list(values["std"])}

    @abstractmethod
    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        """Preprocessed inputs (N, ...) float32."""

    @abstractmethod
    def layout(self) -> dict[str, Any]:
        """The keys that decide what an input means; saved preprocessing is refused when they have changed."""

    def missing(self, raw: np.ndarray) -> dict[str, int]:
        """Number of missing values per column; empty for formats that allow none."""
        return {}

    def describe(self, cases: Cases) -> dict[str, int]:
        """Counts of cases by size in the file, e.g. ``{"128 x 128": 40}``; empty where it means nothing."""
        return {}

    def digests(self, raw: np.ndarray) -> Sequence[str]:
        """Image digests to compare with the public pool; empty for formats whose pool goes by case id."""
        return ()

    def content(self, cases: Cases) -> Sequence[str]:
        """A short digest of each case's values and label as they are in the file, where case ids are only positions
        in it, so that saved splits notice another order; empty where the data bring ids of their own.
        """
        return ()


def short_digest(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256: enough to tell the cases of one site apart."""
    return hashlib.sha256(content).hexdigest()[:16]


def fit_standard(raw: np.ndarray, axes: tuple[int, ...]) -> Fitted:
    """Mean and standard deviation over the given axes, NaN left out.

    0 and 1 where nothing was observed, 1 where nothing varies.
    """
    there = ~np.isnan(raw)
    count = np.maximum(there.sum(axis=axes), 1)
    mean = np.where(there, raw, 0).sum(axis=axes, dtype=np.float64) / count
    shape = [1 if axis in axes else size for axis, size in enumerate(raw.shape)]
    deviation = np.where(there, raw - mean.reshape(shape), 0)
    std = np.sqrt((deviation.astype(np.float64) ** 2).sum(axis=axes) / count)
    return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist()}
