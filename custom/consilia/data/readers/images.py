"""Image files (PNG, JPEG, TIFF, ...) listed in a CSV, resized to one size; masks are only checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from consilia.core.errors import DataError
from consilia.data.cases import Cases, index_cases, read_table, require_columns, require_file
from consilia.data.problems import Problems
from consilia.data.readers.base import Fitted, Reader
from consilia.data.readers.pixels import apply_pixels, fit_pixels
from consilia.data.specs import ImagesSpec, pattern_columns

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MODES = {"gray": "L", "rgb": "RGB"}


class ImagesReader(Reader[ImagesSpec]):
    """Raw values (N, C, H, W) uint8 at the size asked for; inputs of the same shape, normalised per channel."""

    def index(self, problems: Problems) -> Cases:
        spec = self.spec
        table = read_table(spec.file)
        by = spec.select.column if spec.select else None
        patterns = pattern_columns(spec.image) + (pattern_columns(spec.mask.name) if spec.mask else [])
        require_columns(spec.file, list(table), [spec.label.column, spec.patient, spec.case, by, *patterns])
        require_file(spec.folder, "folder")
        if spec.mask:
            require_file(spec.mask.folder, "folder")
        ids = [Path(name).stem for name in _names(table, spec.image)] if spec.case is None else list(table[spec.case])
        return index_cases(table, ids, spec, spec.file, problems)

    def read(self, cases: Cases, problems: Problems) -> np.ndarray:
        images = []
        masks = self.mask_paths(cases)
        for i, path in enumerate(self.image_paths(cases)):
            image, size = self._open(path, problems)
            images.append(image)
            if masks and size is not None:
                _check_mask(masks[i], path, size, problems)
        return self._stack(images)

    def read_new(self, source: Path, problems: Problems) -> tuple[list[str], np.ndarray]:
        if source.is_dir():
            paths = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
        else:
            require_file(source, "image file or folder of images")
            paths = [source]
        if not paths:
            raise DataError(f"{source}: no image in this folder; looked for {', '.join(SUFFIXES)}")
        return [path.stem for path in paths], self._stack([self._open(path, problems)[0] for path in paths])

    def image_paths(self, cases: Cases) -> list[Path]:
        """The image file of each case."""
        return [self.spec.folder / name for name in _names(cases.rows, self.spec.image)]

    def mask_paths(self, cases: Cases) -> list[Path]:
        """The mask file of each case; empty when the site names no masks."""
        mask = self.spec.mask
        return [mask.folder / name for name in _names(cases.rows, mask.name)] if mask else []

    def _open(self, path: Path, problems: Problems) -> tuple[np.ndarray | None, tuple[int, int] | None]:
        """Pixels (C, H, W) at the size asked for, and the size in the file; None and a problem if unreadable."""
        height, width = self.spec.size
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    problems.add(f"{path}: expected 8 bits per channel, got mode {image.mode}: convert it first")
                    return None, None
                size = image.size
                converted = image.convert(_MODES[self.spec.mode])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            problems.add(f"{path}: expected a readable image: {'no such file' if not path.exists() else error}")
            return None, None
        # Pillow's bilinear filter widens with the reduction, so that shrinking does not alias.
        pixels = np.asarray(converted.resize((width, height), Image.Resampling.BILINEAR))
        return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), size

    def _stack(self, images: list[np.ndarray | None]) -> np.ndarray:
        shape = (1 if self.spec.mode == "gray" else 3, *self.spec.size)
        # An unreadable image is already a problem; zeros let the check go on to the next one.
        stacked = [np.zeros(shape, dtype=np.uint8) if image is None else image for image in images]
        return np.stack(stacked) if stacked else np.zeros((0, *shape), dtype=np.uint8)

    def fit(self, raw: np.ndarray) -> Fitted:
        return fit_pixels(self.spec.normalise, raw)

    def apply(self, fitted: Fitted, raw: np.ndarray) -> Tensor:
        return apply_pixels(fitted, raw)

    def layout(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json", include={"format", "mode", "size", "normalise"})

    def describe(self, cases: Cases) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for path in self.image_paths(cases):
            try:
                with Image.open(path) as image:
                    key = f"{image.height} x {image.width}"
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                key = "unreadable"
            sizes[key] = sizes.get(key, 0) + 1
        return dict(sorted(sizes.items()))


def _names(table: pd.DataFrame, pattern: str) -> list[str]:
    columns = pattern_columns(pattern)
    return [
        pattern.format(**dict(zip(columns, values, strict=True))) for values in table[columns].itertuples(index=False)
    ]


def _check_mask(path: Path, image: Path, size: tuple[int, int], problems: Problems) -> None:
    try:
        with Image.open(path) as mask:
            mask_size = mask.size
    except (OSError, ValueError, SyntaxError) as error:
        problems.add(f"{path}: expected a readable mask: {'no such file' if not path.exists() else error}")
        return
    if mask_size != size:
        found, expected = (f"{height} x {width}" for width, height in (mask_size, size))
        problems.add(f"{path}: expected a mask of {expected} as its image {image.name}, got {found}")
