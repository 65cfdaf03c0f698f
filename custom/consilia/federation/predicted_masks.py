"""Masks of new cases: one file per image or volume, in its own geometry, and a table of what was found."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from consilia.core.errors import ConfigError, DataError
from consilia.core.files import write_csv
from consilia.data.cases import read_table, require_columns
from consilia.data.loading import NewCases
from consilia.data.readers.base import Source
from consilia.data.readers.masks import nearest, write_masks
from consilia.methods.tasks import TASKS
from consilia.methods.tasks.segmentation import whole_image
from consilia.models.sam_segmenter import MaskPrompts

CORNERS = ("x1", "y1", "x2", "y2")
TABLE = "masks.csv"


def predicted_masks(network: nn.Module, new: NewCases, boxes: Path | None) -> Tensor:
    """The mask (N, H, W) bool of each case at the model's size.

    Args:
        network: takes images and prompts, and gives mask logits.
        new: the cases.
        boxes: a csv with columns case, x1, y1, x2, y2 in pixels of the case's own file: where to look. Without it the
            model is shown the whole image.

    Raises:
        ConfigError: the cases are no image files.
        DataError: a box is missing, is no box, or lies outside its image.
    """
    if not new.sources and new.ids:
        raise ConfigError("masks can be written for images alone, and these cases come from no image files")
    prompts = _prompts(new, boxes)
    size = TASKS["segmentation"].at_once(new.inputs)
    pieces = [
        network(new.inputs[start : start + size], MaskPrompts(prompts[start : start + size])) > 0
        for start in range(0, len(new.ids), size)
    ]
    return torch.cat(pieces) if pieces else torch.zeros(0, *new.inputs.shape[-2:], dtype=torch.bool)


def write_mask_files(masks: Tensor, new: NewCases, folder: Path) -> None:
    """Write a mask for each case and ``masks.csv``: case, file, foreground pixels and, where spacing is known, mm^2.

    A case that could not be read has a row with its error.
    """
    files = dict(zip(new.ids, write_masks(masks.numpy(), new.sources, folder), strict=True))
    by_case = {case: (mask, source) for case, mask, source in zip(new.ids, masks.numpy(), new.sources, strict=True)}
    rows = []
    for case in new.order:
        if case in new.failed:
            rows.append([case, "", "", "", new.failed[case]])
            continue
        mask, source = by_case[case]
        pixels = int(nearest(mask, source.size).sum())
        area = "" if source.spacing is None else f"{pixels * source.spacing[0] * source.spacing[1]:.2f}"
        rows.append([case, files[case].relative_to(folder).as_posix(), str(pixels), area, ""])
    heading = ["case", "mask", "foreground_pixels", "foreground_mm2", "error"]
    shown = slice(None) if new.failed else slice(-1)
    write_csv(folder / TABLE, heading[shown], [row[shown] for row in rows])


def _prompts(new: NewCases, file: Path | None) -> Tensor:
    """Boxes (N, 4) in pixels of the model's input."""
    if file is None:
        return whole_image(new.inputs[:, 0])
    table = read_table(file)
    require_columns(file, list(table), ["case", *CORNERS])
    drawn: dict[str, pd.Series] = {}
    for _, row in table.iterrows():
        case = str(row["case"]).strip()
        if case in drawn:
            raise DataError(f"{file}: row {row['row#']}: case {case!r} has a box already, in row {drawn[case]['row#']}")
        drawn[case] = row
    lacking = [case for case in new.ids if case not in drawn]
    if lacking:
        raise DataError(f"{file}: {len(lacking)} case(s) have no box, e.g. {lacking[0]!r}")
    found = [_box(drawn[case], source, file) for case, source in zip(new.ids, new.sources, strict=True)]
    boxes = torch.tensor(found)
    rows, columns = new.inputs.shape[-2:]
    heights, widths = (torch.tensor([float(source.size[axis]) for source in new.sources]) for axis in (0, 1))
    # A pixel's centre is half a pixel in: (x + 1/2) scales, not x.
    scale = torch.stack([columns / widths, rows / heights], dim=1).repeat(1, 2)
    return (boxes + 0.5) * scale - 0.5


def _box(row: pd.Series, source: Source, file: Path) -> list[float]:
    where = f"{file}: row {row['row#']}"
    try:
        x1, y1, x2, y2 = (float(row[corner]) for corner in CORNERS)
    except ValueError:
        raise DataError(f"{where}: expected four numbers x1, y1, x2, y2, got {[row[c] for c in CORNERS]}") from None
    height, width = source.size
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise DataError(
            f"{where}: expected 0 <= x1 <= x2 < {width} and 0 <= y1 <= y2 < {height}, got {[x1, y1, x2, y2]}"
        )
    return [x1, y1, x2, y2]
