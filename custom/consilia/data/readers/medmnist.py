"""The MedMNIST layout: one npz with ``{train,val,test}_images`` (N, 28, 28[, 3]) uint8 and ``_labels`` (N, 1)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.cases import UNKNOWN, Cases, require_file, selected
from consilia.data.moments import Moments
from consilia.data.problems import Problems
from consilia.data.public_pool import image_digest, load_pool
from consilia.data.readers.base import Fitted, Reader, short_digest
from consilia.data.readers.pixels import apply_pixels, fit_pixels, pixel_moments, pooled_pixels
from consilia.data.specs import MedMnistSpec

Arrays = dict[str, np.ndarray]


class MedMnistReader(Reader[MedMnistSpec]):
    """Raw values (N, C, H, W) uint8; inputs of the same shape, normalised per channel. Case ids: ``train-00017``."""

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        arrays = _arrays(spec.file)
        parts = ("train", "val", "test") if spec.official_splits else spec.parts
        for part in parts:
            _require(arrays, part, spec.file)
        numbers = [(part, i) for part in parts for i in range(len(arrays[f"{part}_images"]))]
        rows = pd.DataFrame(numbers, columns=["part", "position"])
        ids = [f"{part}-{i:05d}" for part, i in numbers]
        found = np.concatenate([arrays[f"{part}_labels"].reshape(-1) for part in parts]).astype(np.int64)
        keep = selected(rows, ids, spec, spec.file) & ~self._pooled(arrays, parts)
        if not keep.any():
            raise DataError(f"{spec.file}: no case is selected for this site")
        labels = np.where((found >= 0) & (found < len(spec.classes)), found, UNKNOWN)
        for i in np.flatnonzero((labels == UNKNOWN) & keep):
            problems.add(f"{spec.file}: {ids[i]}: expected a label in 0..{len(spec.classes) - 1}, got {found[i]}")
        return Cases(tuple(ids), tuple(ids), labels, rows).take(keep)

    def _pooled(self, arrays: Arrays, parts: Sequence[str]) -> np.ndarray:
        images = [image for part in parts for image in arrays[f"{part}_images"]]
        if self.spec.public_pool is None:
            return np.zeros(len(images), dtype=bool)
        digests = load_pool(self.spec.public_pool).digests
        return np.array([image_digest(image) in digests for image in images])

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        arrays = _arrays(self.spec.file)
        shape = _channels_first(arrays[f"{cases.rows['part'].iloc[0]}_images"]).shape[1:]
        raw = np.empty((len(cases), *shape), dtype=np.uint8)
        for part, rows in cases.rows.groupby("part"):
            raw[rows.index] = _channels_first(arrays[f"{part}_images"][rows["position"].to_numpy()])
        return raw

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        arrays = _arrays(source)
        parts = [part for part in ("train", "val", "test") if f"{part}_images" in arrays]
        images = [arrays[f"{part}_images"] for part in parts]
        if not images or len({image.shape[1:] for image in images}) != 1:
            raise DataError(
                f"{source}: expected train_images, val_images or test_images of one size, got {list(arrays)}"
            )
        for part in parts:
            _require_images(arrays, part, source)
        ids = [f"{part}-{i:05d}" for part, image in zip(parts, images, strict=True) for i in range(len(image))]
        return ids, _channels_first(np.concatenate(images))

    def fit(self, raw: np.ndarray) -> Fitted:
        return fit_pixels(self.spec.normalise, raw)

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        return pixel_moments(self.spec.normalise, raw, fewest)

    def pooled(self, values: Mapping[str, list[float]]) -> Fitted:
        return pooled_pixels(values)

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        return apply_pixels(fitted, raw)

    def layout(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json", include={"format", "normalise"})

    def digests(self, raw: np.ndarray) -> Sequence[str]:
        return [image_digest(image.transpose(1, 2, 0)) for image in raw]

    def content(self, cases: Cases) -> Sequence[str]:
        arrays = _arrays(self.spec.file)
        places = cases.rows[["part", "position"]].itertuples(index=False)
        images = [arrays[f"{part}_images"][position] for part, position in places]
        pairs = zip(images, cases.labels, strict=True)
        return [short_digest(np.ascontiguousarray(image).tobytes() + b"\x1f%d" % label) for image, label in pairs]

    def describe(self, cases: Cases) -> dict[str, int]:
        arrays = _arrays(self.spec.file)
        sizes = cases.rows["part"].map(lambda part: " x ".join(map(str, arrays[f"{part}_images"].shape[1:3])))
        return {str(size): int(count) for size, count in sizes.value_counts().items()}


def _channels_first(images: np.ndarray) -> np.ndarray:
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _require_images(arrays: Arrays, part: str, file: Path) -> None:
    images = arrays[f"{part}_images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise DataError(
            f"{file}: {part}_images: expected uint8 (N, H, W) or (N, H, W, 3), got {images.dtype} {images.shape}"
        )


def _require(arrays: Arrays, part: str, file: Path) -> None:
    missing = [key for key in (f"{part}_images", f"{part}_labels") if key not in arrays]
    if missing:
        raise DataError(f"{file}: expected arrays {missing}, the file has {sorted(arrays)}")
    _require_images(arrays, part, file)
    labels, images = arrays[f"{part}_labels"], arrays[f"{part}_images"]
    if labels.size != len(images) or labels.dtype.kind not in "ui":
        raise DataError(
            f"{file}: {part}_labels: expected one integer per image ({len(images)}), got {labels.dtype} {labels.shape}"
        )


def _arrays(file: Path) -> Arrays:
    require_file(file)
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(file: Path, _modified: int, _size: int) -> Arrays:
    # One process may hold fifty sites of one file: decompress it once. Time and size in the key notice a change.
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: expected an npz archive: {error}") from error
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
