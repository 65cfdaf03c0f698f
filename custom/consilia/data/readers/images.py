"""Image files listed in a CSV, resized to one size, to be classified or segmented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.cases import Cases, canonical, index_cases, read_table, require_columns, require_file
from consilia.data.moments import Moments
from consilia.data.problems import Problems
from consilia.data.readers import new_images, pictures
from consilia.data.readers.base import Fitted, Reader, Source
from consilia.data.readers.masks import fits, read_masks
from consilia.data.readers.pictures import PLAIN, UNKNOWN_SLICE, Scan, each_slice, slice_of
from consilia.data.readers.pixels import apply_pixels, fit_pixels, pixel_moments, pooled_pixels
from consilia.data.readers.volumes import Header, has_suffix
from consilia.data.specs import ImagesSpec, pattern_columns

_MODES = {"gray": "L", "rgb": "RGB"}
Spacing = tuple[float, float]


class ImagesReader(Reader[ImagesSpec]):
    """Raw values (N, C, H, W) uint8 at the size asked for; inputs of the same shape, normalised per channel."""

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        table = read_table(spec.file)
        by = spec.select.column if spec.select else None
        label = spec.label.column if spec.label else None
        patterns = pattern_columns(spec.image) + (pattern_columns(spec.mask.name) if spec.mask else [])
        require_columns(spec.file, list(table), [label, spec.patient, spec.case, by, spec.slice, *patterns])
        require_file(spec.folder, "folder")
        if spec.mask:
            require_file(spec.mask.folder, "folder")
        return index_cases(table, self._ids(table), spec, spec.file, problems)

    def _ids(self, table: pd.DataFrame) -> list[str]:
        if self.spec.case is not None:
            return list(table[self.spec.case])
        stems = [pictures.stem(Path(name)) for name in _names(table, self.spec.image)]
        if self.spec.slice is None:
            return stems
        return [f"{name}-{canonical(index)}" for name, index in zip(stems, table[self.spec.slice], strict=True)]

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        paths = self.image_paths(cases)
        return self._read(paths, self._slices(cases, problems), _reporter(paths, problems, cases))

    def _read(
        self, paths: Sequence[Path], slices: Sequence[int | None], report: Callable[[int, str], None]
    ) -> np.ndarray:
        mode, size = _MODES[self.spec.mode], self.spec.size

        def read(i: int, scan: Scan, index: int | None) -> np.ndarray:
            return pictures.resized(scan.picture(slice_of(scan.header, index), self.spec.window), mode, size)

        shape = (len(mode), *size)  # "L" is one channel, "RGB" three
        raw = np.zeros((len(paths), *shape), dtype=np.uint8)
        for i, image in enumerate(each_slice(paths, slices, read, report)):
            # An unreadable image is already a problem; zeros let the check go on to the next one.
            raw[i] = 0 if image is None else image
        return raw

    def truth(self, cases: Cases, problems: Problems) -> np.ndarray:
        spec, masks = self.spec, self.mask_paths(cases)
        if spec.mask is None:
            return cases.labels
        report = _reporter(masks, problems, cases)
        images = [(path, _header(path)) for path in self.image_paths(cases)]
        if spec.task == "segmentation":
            return read_masks(masks, self._slices(cases, Problems()), images, spec.mask, spec.size, report)
        for i, (path, image) in enumerate(zip(masks, images, strict=True)):
            try:
                header = pictures.read_header(path)
            except DataError as error:
                report(i, f"expected a readable mask: {error}")
                continue
            try:
                fits(header, image)
            except DataError as error:
                report(i, str(error))
        return cases.labels

    def spacing(self, cases: Cases) -> np.ndarray | None:
        paths = self.image_paths(cases)
        if self.spec.spacing is None and any(has_suffix(path, PLAIN) for path in paths):
            return None
        headers = {path: _header(path) for path in set(paths)}
        found = [self._mm(headers[path]) for path in paths]
        if any(mm is None for mm in found):
            return None
        # The picture is stretched to the model's size, so each pixel of that covers more or less of the patient.
        sizes = np.array([header.size for path in paths if (header := headers[path]) is not None], dtype=np.float64)
        scale = sizes.reshape(-1, 2) / np.asarray(self.spec.size)
        return np.asarray(np.asarray(found, dtype=np.float64).reshape(-1, 2) * scale)

    def _mm(self, header: Header | None) -> Spacing | None:
        return None if header is None else header.spacing or self.spec.spacing

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        found = self.sources(source)
        paths = [item.path for item in found]
        ids = new_images.case_ids(found, problems)
        return ids, self._read(paths, [item.slice for item in found], _reporter(paths, problems, new=ids))

    def sources(self, source: Path) -> tuple[Source, ...]:
        found = []
        for path, folder in new_images.listed(source, self.spec):
            header = _header(path) or Header((0, 0))  # reading it tells what is wrong
            mm = self._mm(header)
            found += [Source(path, header.size, mm, index, folder) for index in range(header.slices)]
        return tuple(found)

    def image_paths(self, cases: Cases) -> list[Path]:
        """The image file of each case."""
        return [self.spec.folder / name for name in _names(cases.rows, self.spec.image)]

    def mask_paths(self, cases: Cases) -> list[Path]:
        """The mask file of each case; empty when the site names no masks."""
        mask = self.spec.mask
        return [mask.folder / name for name in _names(cases.rows, mask.name)] if mask else []

    def _slices(self, cases: Cases, problems: Problems) -> list[int | None]:
        """The slice of each case, None where the site names no column; UNKNOWN_SLICE and a problem for a wrong text."""
        column = self.spec.slice
        if column is None:
            return [None] * len(cases)
        texts = [canonical(text) for text in cases.rows[column]]
        for row, text in zip(cases.rows["row#"], texts, strict=True):
            if not text.isdecimal():
                problems.add(f"{self.spec.file}: row {row}: column {column!r}: expected a slice from 0, got {text!r}")
        return [int(text) if text.isdecimal() else UNKNOWN_SLICE for text in texts]

    def fit(self, raw: np.ndarray) -> Fitted:
        return fit_pixels(self.spec.normalise, raw)

    def moments(self, raw: np.ndarray, fewest: int = 0) -> Moments:
        return pixel_moments(self.spec.normalise, raw, fewest)

    def pooled(self, values: Mapping[str, list[float]]) -> Fitted:
        return pooled_pixels(values)

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        return apply_pixels(fitted, raw)

    def layout(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json", include={"format", "mode", "size", "normalise", "window"})

    def describe(self, cases: Cases) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for path in self.image_paths(cases):
            header = _header(path)
            key = "unreadable" if header is None else "{} x {}".format(*header.size)
            sizes[key] = sizes.get(key, 0) + 1
        return dict(sorted(sizes.items()))


def _names(table: pd.DataFrame, pattern: str) -> list[str]:
    columns = pattern_columns(pattern)
    return [
        pattern.format(**dict(zip(columns, values, strict=True))) for values in table[columns].itertuples(index=False)
    ]


def _header(path: Path) -> Header | None:
    """The header of an image file; None where it cannot be read, which reading its pixels reports."""
    try:
        return pictures.read_header(path)
    except DataError:
        return None


def _reporter(
    paths: Sequence[Path], problems: Problems, cases: Cases | None = None, new: Sequence[str] | None = None
) -> Callable[[int, str], None]:
    """Notes a problem of the case at a position: its file, its row if it has one, and the reason; ``new``: ids."""

    def report(i: int, reason: str) -> None:
        row = f" (row {cases.rows['row#'].iloc[i]})" if cases is not None else ""
        problems.add(f"{paths[i]}{row}: {reason}", None if new is None else new[i])

    return report
