"""Open image files of every kind one way: PNG, JPEG, BMP and TIFF by Pillow, DICOM and NIfTI as volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from consilia.core.errors import DataError
from consilia.data.readers.volumes import (
    DICOM,
    NIFTI,
    Header,
    Window,
    has_suffix,
    open_volume,
)
from consilia.data.readers.volumes import read_header as read_volume_header

PLAIN = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SUFFIXES = (*PLAIN, *DICOM, *NIFTI)
ORIENTATION = 0x0112  # the EXIF tag
UNKNOWN_SLICE = -1  # the table's text is no number, which is a problem of its own
T = TypeVar("T")


class Scan(Protocol):
    """An opened image file: one picture, or the slices of a volume."""

    @property
    def header(self) -> Header:
        """Size, slices and spacing."""

    def gray_values(self, index: int) -> np.ndarray:
        """Integer or float values (rows, columns) of a slice as they are in the file."""

    def picture(self, index: int, window: Window | None) -> np.ndarray | Image.Image:
        """A slice with 8 bits per channel, gray or in colour."""


@dataclass(frozen=True)
class PlainScan:
    """An opened PNG, JPEG, BMP or TIFF."""

    header: Header
    image: Image.Image

    def gray_values(self, index: int) -> np.ndarray:
        image = self.image
        if image.mode not in ("1", "L") and not image.mode.startswith("I"):
            channels = np.asarray(image.convert("RGB"))
            if image.mode == "F" or (channels != channels[..., :1]).any():
                raise DataError(f"expected gray values, got mode {image.mode}")
            return channels[..., 0]
        return np.asarray(image.convert("L") if image.mode == "1" else image)

    def picture(self, index: int, window: Window | None) -> Image.Image:
        if self.image.mode.startswith(("I", "F")):
            raise DataError(f"expected 8 bits per channel, got mode {self.image.mode}: convert it first")
        return self.image


def stem(path: Path) -> str:
    """The file's name without its suffix; ``.nii.gz`` is one."""
    return path.name[: -len(".nii.gz")] if has_suffix(path, (".nii.gz",)) else path.stem


def read_header(path: Path) -> Header:
    """Size, slices and spacing of an image file. Raises :class:`DataError` with a reason, without the file's name."""
    if has_suffix(path, (*DICOM, *NIFTI)):
        _require(path)
        return read_volume_header(path)
    with _plain(path) as image:
        return Header((image.height, image.width))


def open_scan(path: Path) -> Scan:
    """An image file with its pixels. Raises as :func:`read_header` does."""
    if has_suffix(path, (*DICOM, *NIFTI)):
        _require(path)
        return open_volume(path)
    with _plain(path) as image:
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        if pages > 1:
            raise DataError(f"it has {pages} pages: save the one that is meant")
        image.load()
        return PlainScan(Header((image.height, image.width)), image)


def _require(path: Path) -> None:
    if not path.is_file():
        raise DataError("no such file")


@contextmanager
def _plain(path: Path) -> Iterator[Image.Image]:
    _require(path)
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1)
            if turned not in (0, 1):
                # Shown turned by a viewer, stored unturned: masks and boxes drawn in a viewer would not fit.
                raise DataError(f"its EXIF orientation is {turned}: save it upright first")
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(str(error)) from error


def slice_of(header: Header, index: int | None) -> int:
    """The slice that is meant. Raises :class:`DataError` where it is out of range, or one of several and not named."""
    if index is None:
        if header.slices > 1:
            raise DataError(f"a volume of {header.slices} slices: `slice` must name the column of the slice index")
        return 0
    if not 0 <= index < header.slices:
        raise DataError(f"slice {index} is out of range: the file has {header.slices} slice(s), counted from 0")
    return index


def each_slice(
    paths: Sequence[Path],
    slices: Sequence[int | None],
    read: Callable[[int, Scan, int | None], T],
    report: Callable[[int, str], None],
    kind: str = "image",
) -> list[T | None]:
    """``read`` for each (path, slice), None and a report where it fails; a file is opened once for all its slices.

    ``kind`` of file is what the reports call it: image or mask.
    """
    found: list[T | None] = [None] * len(paths)
    last: tuple[Path, Scan | str] | None = None
    for i in sorted(range(len(paths)), key=lambda i: paths[i]):
        if slices[i] == UNKNOWN_SLICE:
            continue
        if last is None or last[0] != paths[i]:
            try:
                last = paths[i], open_scan(paths[i])
            except DataError as error:
                last = paths[i], f"expected a readable {kind}: {error}"
        scan = last[1]
        try:
            if isinstance(scan, str):
                raise DataError(scan)
            found[i] = read(i, scan, slices[i])
        except DataError as error:
            report(i, str(error))
    return found


def resized(picture: np.ndarray | Image.Image, mode: str, size: tuple[int, int]) -> np.ndarray:
    """Pixels (C, H, W) uint8 at ``size`` (H, W): bilinear, widened with the reduction so that nothing aliases."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    height, width = size
    pixels = np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
