"""Where new images are: one file, a folder with those below it, or a csv that names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from consilia.core.errors import DataError
from consilia.data.cases import read_table, require_file
from consilia.data.problems import Problems
from consilia.data.readers.base import Source
from consilia.data.readers.pictures import SUFFIXES, stem
from consilia.data.readers.volumes import has_suffix
from consilia.data.specs import ImagesSpec, pattern_columns

COLUMNS = ("path", "image")
"""Of a csv: the file of each case, from the csv's own folder on."""


def listed(source: Path, spec: ImagesSpec) -> list[tuple[Path, str]]:
    """The image files of new cases, each with the folder below ``source`` in which it lies; sorted, or as in the csv.

    Raises:
        DataError: there is none.
    """
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if _is_image(path, source))
        if not found:
            raise DataError(f"{source}: no image in this folder or below it; looked for {', '.join(SUFFIXES)}")
        return [(path, "" if path.parent == source else path.parent.relative_to(source).as_posix()) for path in found]
    require_file(source, "image file, folder of images or csv that names them")
    if has_suffix(source, SUFFIXES):
        return [(source, "")]
    paths = list(dict.fromkeys(_from_table(source, spec)))
    if not paths:
        raise DataError(f"{source}: no row in it")
    return [(path, "") for path in paths]


def case_ids(sources: Sequence[Source], problems: Problems) -> list[str]:
    """The id of each case: its folder and file name without suffix, with the slice of a volume."""
    seen: dict[str, Path] = {}
    count = Counter(item.path for item in sources)
    folders = {path: path.parent.as_posix() for path in count}
    names = Counter(stem(path) for path in count)
    ids = []
    for item in sources:
        # In a csv files of one name may lie in several folders.
        other = item.folder or (
            folders[item.path] if names[stem(item.path)] > 1 and len(set(folders.values())) > 1 else ""
        )
        name = f"{other}/{stem(item.path)}" if other else stem(item.path)
        first = seen.setdefault(name, item.path)
        if first != item.path and item.slice == 0:
            problems.add(f"{item.path}: expected a case id of its own, got that of {first.name}")
        ids.append(name + (f"-{item.slice}" if count[item.path] > 1 else ""))
    return ids


def _is_image(path: Path, source: Path) -> bool:
    """Files and folders whose name begins with a dot are not looked at: other systems leave them behind."""
    hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
    return not hidden and has_suffix(path, SUFFIXES) and path.is_file()


def _from_table(file: Path, spec: ImagesSpec) -> Iterator[Path]:
    """The file of each row: by its path, or by the columns that the site's own table has."""
    table = read_table(file)
    own = pattern_columns(spec.image)
    column = next((name for name in COLUMNS if name in table), None)
    if column is None and not set(own) <= set(table):
        raise DataError(
            f"{file}: expected a column {' or '.join(COLUMNS)} with the path of each image, or the column(s) {own} "
            f"of site.yaml; it has {[name for name in table if name != 'row#']}"
        )
    for _, row in table.iterrows():
        yield _path(row, file.parent, column, own, spec)


def _path(row: pd.Series, folder: Path, column: str | None, own: Sequence[str], spec: ImagesSpec) -> Path:
    named = [] if column is None else [folder / str(row[column]).strip()]
    if set(own) <= set(row.index):
        named.append(spec.folder / spec.image.format(**{name: row[name] for name in own}))
    # A file that is nowhere is looked for, and missed, in the first place.
    return next((path for path in named if path.is_file()), named[0])
