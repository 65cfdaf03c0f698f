"""DICOM and NIfTI files as gray pictures: rows and columns as viewers show them, intensities, mm per pixel.

DICOM pictures lie as they are stored. A slice of a NIfTI file is taken along its last stored axis; its rows are the
second axis and its columns the first, and each is turned, where the file says how the patient lies, to run towards the
patient's left, back or feet, as DICOM pictures do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from consilia.core.errors import ConfigError, DataError

DICOM = (".dcm",)
NIFTI = (".nii", ".nii.gz")
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of a slice that become 0 and 255 where the site names no window
_MM = {"meter": 1000.0, "micron": 0.001}
Window = tuple[float, float]


@dataclass(frozen=True)
class Header:
    """What a file says of itself without its pixels.

    ``size``: rows, columns. ``spacing``: mm per pixel (rows, columns), None where the file does not tell. ``axes``:
    where the stored axes of a NIfTI file point, e.g. ``"LAS"``; empty where it does not tell, and for other formats.
    """

    size: tuple[int, int]
    slices: int = 1
    spacing: tuple[float, float] | None = None
    axes: str = ""


@dataclass(frozen=True)
class Volume:
    """An opened DICOM or NIfTI file: ``values`` (slices, rows, columns), or (1, rows, columns, 3) uint8 in colour."""

    header: Header
    values: np.ndarray
    inverted: bool = False  # DICOM's MONOCHROME1: the smallest value is white

    def gray_values(self, index: int) -> np.ndarray:
        """Values (rows, columns) of one slice as they are in the file."""
        if self.values.ndim == 4:
            raise DataError("expected gray values, got colour")
        return np.asarray(self.values[index])

    def picture(self, index: int, window: Window | None) -> np.ndarray:
        """One slice (rows, columns[, 3]) as uint8; see :func:`eight_bits`. Colour stays as it is."""
        if self.values.ndim == 4:
            return np.asarray(self.values[index])
        picture = eight_bits(self.values[index], window)
        return 255 - picture if self.inverted else picture


def eight_bits(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Intensities as uint8: ``window`` (default: the percentiles DARKEST and BRIGHTEST) becomes 0 to 255, cut off."""
    if not np.isfinite(values).all():
        raise DataError(f"expected finite intensities, got {int((~np.isfinite(values)).sum())} that are not")
    low, high = window or np.percentile(values, (DARKEST, BRIGHTEST))
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file's name ends in one of the suffixes; capitals do not matter."""
    return path.name.lower().endswith(suffixes)


def read_header(path: Path) -> Header:
    """The header of a DICOM or NIfTI file. Raises :class:`DataError` with a reason, without the file's name."""
    with _readable():
        if has_suffix(path, NIFTI):
            return _nifti_header(_nifti(path)[1])
        return _dicom_header(_dicom(path, stop_before_pixels=True)[1])


def open_volume(path: Path) -> Volume:
    """A DICOM or NIfTI file with its pixels. Raises as :func:`read_header` does."""
    with _readable():
        return _open_nifti(path) if has_suffix(path, NIFTI) else _open_dicom(path)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise ConfigError(f"DICOM and NIfTI files need pip install 'consilia[imaging]': {error}") from error
    except Exception as error:  # pydicom, its decoders and nibabel raise what their parsers meet
        raise DataError(str(error)) from error


def _nifti(path: Path) -> tuple[Any, Any]:
    from monai.data.image_reader import NibabelReader

    reader = NibabelReader()
    return reader, reader.read(path)


def _nifti_header(image: Any) -> Header:
    from nibabel.orientations import aff2axcodes

    shape = tuple(image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f"it is neither a picture nor a volume of slices, its shape is {tuple(image.shape)}")
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind == "c":
        raise DataError(f"it has no gray values but {image.get_data_dtype()}")
    placed = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    axes = "".join(code or "?" for code in aff2axcodes(image.affine)) if placed else ""
    columns, rows = (float(zoom) * _MM.get(image.header.get_xyzt_units()[0], 1.0) for zoom in _zooms(image))
    spacing = (rows, columns) if rows > 0 and columns > 0 else None
    return Header((shape[1], shape[0]), shape[2] if len(shape) == 3 else 1, spacing, axes)


def _zooms(image: Any) -> tuple[Any, Any]:
    first, second = image.header.get_zooms()[:2]
    return first, second


def _open_nifti(path: Path) -> Volume:
    reader, image = _nifti(path)
    header = _nifti_header(image)
    stored, _ = reader.get_data(image)
    return Volume(header, as_shown(stored.reshape(*reversed(header.size), header.slices), header.axes))


def as_shown(stored: np.ndarray, axes: str) -> np.ndarray:
    """A NIfTI array (columns, rows, slices) as slices of pictures (slices, rows, columns), turned as viewers do."""
    return np.flip(stored, _turned(axes)).transpose(2, 1, 0)


def as_stored(shown: np.ndarray, axes: str) -> np.ndarray:
    """The reverse of :func:`as_shown`."""
    return np.flip(shown.transpose(2, 1, 0), _turned(axes))


def _turned(axes: str) -> tuple[int, ...]:
    """The in-plane axes that run towards the patient's right, front or head."""
    return tuple(axis for axis, points in enumerate(axes[:2]) if points in "RAS")


def _dicom(path: Path, **how: bool) -> tuple[Any, Any]:
    from monai.data.image_reader import PydicomReader

    reader = PydicomReader(swap_ij=False, **how)
    return reader, reader.read(path)


def _dicom_header(dataset: Any) -> Header:
    frames = int(getattr(dataset, "NumberOfFrames", None) or 1)
    if frames > 1:
        raise DataError(f"it has {frames} frames: export each as a file of its own")
    given = getattr(dataset, "PixelSpacing", None)
    spacing = (float(given[0]), float(given[1])) if given is not None and len(given) == 2 else None
    if spacing is not None and not min(spacing) > 0:
        spacing = None  # some exports write zeros for what is not known
    return Header((int(dataset.Rows), int(dataset.Columns)), 1, spacing)


def _open_dicom(path: Path) -> Volume:
    reader, dataset = _dicom(path)
    header = _dicom_header(dataset)
    with warnings.catch_warnings():
        # MONAI warns of every file without a place in the patient, which ultrasound and photographs never have.
        warnings.simplefilter("ignore", UserWarning)
        values, _ = reader.get_data(dataset)
    kind = str(dataset.PhotometricInterpretation)
    if values.ndim == 3 and not (values.shape[2] == 3 and dataset.pixel_array.dtype == np.uint8):
        raise DataError(f"its pixels are neither gray nor of three channels with 8 bits: {kind}, {values.shape}")
    if kind == "PALETTE COLOR":
        raise DataError("its colours are a palette: convert it to RGB")
    colour = values.ndim == 3
    return Volume(header, (values.astype(np.uint8) if colour else values)[None], inverted=kind == "MONOCHROME1")
