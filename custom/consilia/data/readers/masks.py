"""Masks of a segmentation: read and check those drawn by hand, write those a model has drawn."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from consilia.core.errors import DataError
from consilia.core.files import write_bytes
from consilia.data.readers.base import Source
from consilia.data.readers.pictures import Scan, each_slice, read_header, slice_of, stem
from consilia.data.readers.volumes import NIFTI, Header, as_stored, has_suffix
from consilia.data.specs import MaskSpec

Report = Callable[[int, str], None]


def read_masks(
    paths: Sequence[Path],
    slices: Sequence[int | None],
    images: Sequence[tuple[Path, Header | None]],
    spec: MaskSpec,
    size: tuple[int, int],
    report: Report,
) -> np.ndarray:
    """Masks (N, H, W) uint8, 1 = foreground, at ``size`` by nearest neighbour; zeros and a report where one is wrong.

    Args:
        paths, slices: the mask file of each case and, in volumes, its slice; a mask of one picture needs none.
        images: the image of each case and its header, None where it cannot be read.
        spec: the gray values.
        size: rows, columns.
        report: told the case's position and the reason.
    """

    def read(i: int, scan: Scan, index: int | None) -> np.ndarray:
        one = scan.header.slices == 1
        if one and index is not None and used[paths[i]] > 1:
            raise DataError(f"{used[paths[i]]} slices name this mask, which is a single picture")
        fits(scan.header, images[i])
        return nearest(_foreground(scan.gray_values(0 if one else slice_of(scan.header, index)), spec), size)

    used = Counter(paths)
    found = each_slice(paths, slices, read, report, "mask")
    masks = [np.zeros(size, dtype=np.uint8) if mask is None else mask for mask in found]
    return np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)


def fits(mask: Header, of: tuple[Path, Header | None]) -> None:
    """Raise :class:`DataError` unless a mask has the size, the slices and the orientation of its image."""
    path, image = of
    if image is None:
        return
    if mask.size != image.size:
        found, expected = (f"{rows} x {columns}" for rows, columns in (mask.size, image.size))
        raise DataError(f"expected a mask of {expected} as its image {path.name}, got {found}")
    if mask.slices not in (1, image.slices):
        raise DataError(f"expected a mask of {image.slices} slice(s) as its image {path.name}, got {mask.slices}")
    if (mask.axes or image.axes) and has_suffix(path, NIFTI) and mask.axes != image.axes:
        raise DataError(f"expected a mask that lies as its image {path.name}, {image.axes}, got {mask.axes}")


def _foreground(values: np.ndarray, spec: MaskSpec) -> np.ndarray:
    inside, outside = np.isin(values, spec.foreground), np.isin(values, spec.background)
    other = values[~inside & ~outside]
    if other.size:
        kinds, counts = np.unique(other, return_counts=True)
        first = int(counts.argmax())
        more = f" and {len(kinds) - 1} other value(s)" if len(kinds) > 1 else ""
        raise DataError(
            f"expected foreground {list(spec.foreground)} and background {list(spec.background)}, got "
            f"{kinds[first]} in {counts[first]} pixel(s){more}"
        )
    if spec.empty == "refuse" and not inside.any():
        raise DataError("the mask is empty, which mask.empty: refuse forbids")
    return inside.astype(np.uint8)


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) at another size (H, W): each pixel takes the value at its centre."""
    # The centre of pixel i of m is at (i + 1/2) n / m. In integers, because centres that fall between two pixels are
    # common, and Pillow's sums of floats take now one of them and now the other.
    rows, columns = ((2 * np.arange(m) + 1) * n // (2 * m) for n, m in zip(mask.shape, size, strict=True))
    return np.asarray(mask[np.ix_(rows, columns)])


def write_masks(masks: np.ndarray, sources: Sequence[Source], folder: Path) -> tuple[Path, ...]:
    """Write predicted masks in the geometry of their source files and return the file of each.

    Args:
        masks: (N, H, W) bool at the model's size, as the sources.
        sources: where the cases came from, from :func:`consilia.data.loading.load_new_cases`.
        folder: ``<stem>_mask.png`` (0 and 255) for a picture or DICOM file, ``<stem>_mask.nii.gz`` (0 and 1) with the
            source's shape and affine for a NIfTI file: all its slices in one, those without a mask 0.

    Raises:
        DataError: a source has changed since, or two sources would have the same mask file.
    """
    if len(masks) != len(sources):
        raise ValueError(f"expected one source per mask, got {len(masks)} masks and {len(sources)} sources")
    targets: dict[Path, Path] = {}
    drawn: dict[Path, dict[int, np.ndarray]] = {}
    for mask, source in zip(masks, sources, strict=True):
        target = (
            folder
            / source.folder
            / (stem(source.path) + ("_mask.nii.gz" if has_suffix(source.path, NIFTI) else "_mask.png"))
        )
        if targets.setdefault(target, source.path) != source.path:
            raise DataError(f"{source.path} and {targets[target]} would have the same mask file, {target}")
        drawn.setdefault(target, {})[source.slice] = nearest(mask.astype(np.uint8), source.size)
    for target, path in targets.items():
        write_bytes(target, _nifti(drawn[target], path) if has_suffix(path, NIFTI) else _png(drawn[target][0]))
    files = {path: target for target, path in targets.items()}
    return tuple(files[source.path] for source in sources)


def _png(mask: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(content, format="PNG")
    return content.getvalue()


def _nifti(masks: dict[int, np.ndarray], path: Path) -> bytes:
    """Masks by slice as a NIfTI file of the shape, affine and header of their source, compressed."""
    import nibabel

    header = read_header(path)
    shown = np.zeros((header.slices, *header.size), dtype=np.uint8)
    for index, mask in masks.items():
        if index >= header.slices or mask.shape != header.size:
            raise DataError(f"{path}: the file has changed since it was read")
        shown[index] = mask
    image: Any = nibabel.load(path)
    described = image.header.copy()
    described.set_data_dtype(np.uint8)
    described["cal_min"] = described["cal_max"] = 0
    stored = as_stored(shown, header.axes).reshape(image.shape)
    return gzip.compress(type(image)(stored, image.affine, described).to_bytes(), mtime=0)
