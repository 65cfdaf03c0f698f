"""Cases set aside now and for good as a public pool: no site of a shipped configuration may hold one of them.

``busbra.txt`` lists a tenth of the patients of BUS-BRA's two GE scanners with their images, ``pneumoniamnist.txt``
the SHA-256 digests of the pixels of a tenth of PneumoniaMNIST's training images (array order may differ between
copies of the file, pixels do not), ``pubmedqa.txt`` the PubMed ids of the questions outside the official test set, and
``vqa_rad.txt`` three fifths of VQA-RAD's images. ``python -m consilia.data.public_pool`` reproduces the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from consilia.core.errors import ConfigError, DataError

POOLS = ("busbra", "pneumoniamnist", "pubmedqa", "vqa_rad")


@dataclass(frozen=True)
class PublicPool:
    """What is set aside: patients and case ids, or image digests (pneumoniamnist).

    A question's PubMed id (pubmedqa) or its image's name (vqa_rad) stands for the patient: there ``patients`` and
    ``case_ids`` are the same.
    """

    name: str
    patients: frozenset[str]
    case_ids: frozenset[str]
    digests: frozenset[str]


@cache
def load_pool(name: str) -> PublicPool:
    """The pool of that name, from the list that ships with the package."""
    if name not in POOLS:
        raise ConfigError(f"public pool must be one of {POOLS}, got {name!r}")
    text = (files(__package__) / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    if name == "busbra":
        patients, ids = (frozenset(line[i] for line in lines) for i in (0, 1))
        return PublicPool(name, patients, ids, frozenset())
    listed = frozenset(line[0] for line in lines)
    if name == "pneumoniamnist":
        return PublicPool(name, frozenset(), frozenset(), listed)
    return PublicPool(name, listed, listed, frozenset())


def image_digest(image: np.ndarray) -> str:
    """SHA-256 of an image's uint8 pixels in row order."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def refuse_pooled(name: str | None, case_ids: Iterable[str], digests: Iterable[str]) -> None:
    """Raise :class:`DataError` if a set-aside case is still among a site's cases.

    The exclusion goes by patient; this goes by case id and pixels, so that a wrong patient column is noticed.
    """
    if name is None:
        return
    pool = load_pool(name)
    count = len(pool.case_ids.intersection(case_ids)) + sum(digest in pool.digests for digest in digests)
    if count:
        raise DataError(
            f"{count} case(s) of the public pool {name!r} are still among this site's cases: they are set aside for "
            "good; check the patient and case columns"
        )
