"""The keys that every dataset of site.yaml shares: label, splits, which cases, which patients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from string import Formatter
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from consilia.core.plain import PlainText
from consilia.core.schema import Strict
from consilia.core.task import Task
from consilia.data.yaml_file import AbsolutePath, Text

Columns = tuple[str, ...]
PoolName = Literal["busbra", "pneumoniamnist", "pubmedqa", "vqa_rad"]
BY_LABEL = ("class_balanced", "train_test_split")
"""Split schemes that divide single cases by their labels."""

Normalise = Literal["train", "half", "imagenet"]


class LabelSpec(Strict):
    """Which column holds the label and how its text becomes a class name.

    With ``mapping`` each text is looked up; with ``contains`` a text that contains it (or one of several) is ``then``,
    any other ``otherwise``; with neither the text is the class name itself.
    """

    column: str
    mapping: dict[Text, str] | None = None
    contains: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    then: str | None = None
    otherwise: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> LabelSpec:
        contains = (self.contains, self.then, self.otherwise)
        if any(part is not None for part in contains) and any(part is None for part in contains):
            raise ValueError("contains, then and otherwise belong together: give all three or none")
        if self.mapping is not None and self.contains is not None:
            raise ValueError("give mapping or contains, not both")
        return self

    def names(self) -> set[str]:
        """The class names this label can produce; empty when the column holds the names themselves."""
        if self.mapping is not None:
            return set(self.mapping.values())
        return {self.then, self.otherwise} if self.then and self.otherwise else set()


class SplitSpec(Strict):
    """How the cases of a site are divided; see :mod:`consilia.data.splits`. Fractions are of patients.

    ``class_balanced`` and ``train_test_split`` (scikit-learn's) divide single cases, by label; fractions are then of
    cases. ``train`` may be left out: it is what remains.
    ``file`` names splits made elsewhere (CSV with case_id and split).
    """

    scheme: Literal["patients", "class_balanced", "train_test_split"] = "patients"
    train: float | None = Field(default=None, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    seed: int = 0
    file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _sum(self) -> SplitSpec:
        rest = 1 - self.validation - self.test
        if rest <= 0 or (self.train is not None and abs(self.train - rest) > 1e-6):
            train = "the rest" if self.train is None else self.train
            raise ValueError(
                f"train + validation + test must be 1 with train above 0, got {train} + {self.validation} + {self.test}"
            )
        return self

    def fractions(self) -> dict[str, float]:
        """Fractions by split name; they sum to 1."""
        return {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}


class SelectSpec(Strict):
    """Which cases of a pooled file belong to this site: a column's values, or a text file with one case id per line."""

    column: str | None = None
    values: tuple[Text, ...] = ()
    file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SelectSpec:
        by_column = self.column is not None and bool(self.values)
        if by_column == (self.file is not None) or bool(self.values) != (self.column is not None):
            raise ValueError("give column and values, or file")
        return self


class CommonSpec(Strict, ABC):
    """Keys of every format, and what a format says about itself.

    ``classes`` is the order of the class indices; all sites of a federation must agree.

    ``train_cases``: how many of the training cases are used, or (between 0 and 1) what fraction of them.

    Attributes:
        tasks: the learning tasks that the format can hold.
        reader: module and class of the format's reader of labelled cases; None: it has none.
        brings_splits: whether files of the format have splits of their own, so that official_splits may be true.
        official_splits: whether the data bring their own train, validation and test parts, and these are used.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("classification",)
    reader: ClassVar[str | None] = None
    brings_splits: ClassVar[bool] = False

    format: str
    task: Task = "classification"
    official_splits: bool = False
    classes: tuple[PlainText, ...] = Field(min_length=2)
    patient: str | None = None
    splits: SplitSpec = SplitSpec()
    test_only: bool = False
    select: SelectSpec | None = None
    exclude_patients: tuple[Text, ...] = ()
    public_pool: PoolName | None = None
    train_cases: int | float | None = None

    @field_validator("train_cases", mode="before")
    @classmethod
    def _count_or_fraction(cls, value: object) -> object:
        # Said here, because 1.0 would pass for one case and True, too.
        count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if value is not None and not count and not (isinstance(value, float) and 0 < value < 1):
            raise ValueError(f"expected a whole number of cases from 1, or a fraction between 0 and 1, got {value!r}")
        return value

    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The tables that cases are read from: datasets that share one may share patients."""

    def content(self) -> str:
        """What decides the cases and their values, as JSON: all keys but those of the division into splits."""
        return self.model_dump_json(exclude={"splits", "test_only", "train_cases"})

    def fits_preprocessing(self) -> bool:
        """Whether preprocessing is fitted on the site's own cases; fixed values fit nothing."""
        return True

    def fitted_on_test(self) -> bool:
        """Whether preprocessing is fitted on test inputs: a test-only site has no others."""
        return self.test_only and self.fits_preprocessing()

    @field_validator("task")
    @classmethod
    def _possible(cls, value: Task) -> Task:
        if value not in cls.tasks:
            raise ValueError(f"this format holds {' or '.join(cls.tasks)}")
        return value

    @field_validator("official_splits")
    @classmethod
    def _has_parts(cls, value: bool) -> bool:
        if value and not cls.brings_splits:
            raise ValueError("this format has no splits of its own: leave official_splits out")
        return value

    @model_validator(mode="after")
    def _common(self) -> CommonSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must differ, got {list(self.classes)}")
        if self.splits.scheme in BY_LABEL and self.patient is not None:
            raise ValueError(f"splits.scheme {self.splits.scheme} divides single cases: it needs patient: null")
        if self.exclude_patients and self.patient is None:
            raise ValueError("exclude_patients needs the patient column")
        label: LabelSpec | None = getattr(self, "label", None)
        unknown = sorted(label.names() - set(self.classes)) if label else []
        if unknown:
            raise ValueError(f"label gives {unknown}, which classes {list(self.classes)} lack")
        return self


def pattern_columns(pattern: str) -> list[str]:
    """The columns a file name pattern such as ``"{image_id}.png"`` uses. Raises ValueError if it is not that simple."""
    fields = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(pattern) if name is not None]
    # Attribute access and indexing in a format string reach into Python objects: plain names only.
    if any(not name.isidentifier() or spec or conversion for name, spec, conversion in fields):
        raise ValueError(f"a file name pattern holds plain {{column}} fields only, got {pattern!r}")
    return [name for name, _, _ in fields]
