"""What site.yaml says about one dataset role: one model per file format, and the keys they share."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from consilia.data.dataset import Task
from consilia.data.yaml_file import AbsolutePath, Model, Text

Columns = tuple[str, ...]
PoolName = Literal["busbra", "pneumoniamnist"]
Normalise = Literal["train", "half", "imagenet"]


class LabelSpec(Model):
    """Which column holds the label and how its text becomes a class name.

    With ``mapping`` each text is looked up; with ``contains`` a text that contains it is ``then``, any other
    ``otherwise``; with neither the text is the class name itself.
    """

    column: str
    mapping: dict[Text, str] | None = None
    contains: str | None = None
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


class SplitSpec(Model):
    """How the cases of a site are divided; see :mod:`consilia.data.splits`. Fractions are of patients.

    ``class_balanced`` divides single cases (fractions of cases). ``train`` may be left out: it is what remains.
    ``file`` names splits made elsewhere (CSV with case_id and split).
    """

    scheme: Literal["patients", "class_balanced"] = "patients"
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


class SelectSpec(Model):
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


class CommonSpec(Model):
    """Keys of every format. ``classes`` is the order of the class indices; all sites of a federation must agree.

    ``train_cases``: how many of the training cases are used, or (between 0 and 1) what fraction of them.
    """

    classes: tuple[str, ...] = Field(min_length=2)
    patient: str | None = None
    splits: SplitSpec = SplitSpec()
    evaluator: bool = False
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

    @model_validator(mode="after")
    def _common(self) -> CommonSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must differ, got {list(self.classes)}")
        if self.splits.scheme == "class_balanced" and self.patient is not None:
            raise ValueError("splits.scheme class_balanced divides single cases: it needs patient: null")
        if self.exclude_patients and self.patient is None:
            raise ValueError("exclude_patients needs the patient column")
        label: LabelSpec | None = getattr(self, "label", None)
        unknown = sorted(label.names() - set(self.classes)) if label else []
        if unknown:
            raise ValueError(f"label gives {unknown}, which classes {list(self.classes)} lack")
        return self


class TabularSpec(CommonSpec):
    """A delimited text file, one case per row. ``columns`` names the columns of a file without a header line."""

    format: Literal["tabular"]
    file: AbsolutePath
    label: LabelSpec
    separator: str = ","
    columns: Columns | None = None
    case: str | None = None
    missing: tuple[Text, ...] = ("", "?", "NA")
    missing_values: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    numeric: Columns = ()
    categorical: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    numeric_missing: Literal["impute", "error"] = "impute"
    missing_indicators: bool = False

    @model_validator(mode="after")
    def _features(self) -> TabularSpec:
        features = [*self.numeric, *self.categorical]
        if not features or len(set(features)) != len(features):
            raise ValueError(f"numeric and categorical must name at least one column, each once, got {features}")
        if self.label.column in features:
            raise ValueError(f"the label column {self.label.column!r} cannot be a feature")
        unknown = sorted(set(self.missing_values) - set(features))
        if unknown:
            raise ValueError(f"missing_values names {unknown}, which are neither numeric nor categorical")
        return self


class MaskSpec(Model):
    """Where the masks are: a folder and a file name with ``{column}`` fields; and, for segmentation, what they hold.

    ``foreground`` and ``background`` are gray values (1-bit files: 255 and 0); any other value is an error. ``empty``
    says whether a mask without foreground is allowed.
    """

    folder: AbsolutePath
    name: str
    foreground: tuple[int, ...] = Field(default=(255,), min_length=1)
    background: tuple[int, ...] = Field(default=(0,), min_length=1)
    empty: Literal["allow", "refuse"] = "allow"

    @model_validator(mode="after")
    def _apart(self) -> MaskSpec:
        both = sorted(set(self.foreground) & set(self.background))
        if both:
            raise ValueError(f"a gray value is foreground or background, not both: {both}")
        return self


class ImagesSpec(CommonSpec):
    """A folder of image files and a CSV with one row per image. ``image`` is a file name with ``{column}`` fields.

    ``task: segmentation`` takes its truth from ``mask`` and has no ``label``; its two classes are the background and
    the structure. ``slice`` names the column with the 0-based slice of a volume. ``spacing``: mm per pixel (rows,
    columns) where the files do not tell. ``window``: the intensities of DICOM and NIfTI that become 0 and 255.
    """

    format: Literal["images"]
    task: Task = "classification"
    file: AbsolutePath
    folder: AbsolutePath
    image: str
    label: LabelSpec | None = None
    case: str | None = None
    mask: MaskSpec | None = None
    slice: str | None = None
    mode: Literal["gray", "rgb"] = "gray"
    size: tuple[PositiveInt, PositiveInt]
    spacing: tuple[PositiveFloat, PositiveFloat] | None = None
    window: tuple[float, float] | None = None
    normalise: Normalise = "train"

    @model_validator(mode="after")
    def _one_truth(self) -> ImagesSpec:
        if self.task == "classification" and self.label is None:
            raise ValueError("a classification needs label")
        if self.task == "segmentation":
            if self.mask is None or self.label is not None:
                raise ValueError("a segmentation needs mask and takes no label: the mask is the truth")
            if len(self.classes) != 2:
                raise ValueError(
                    f"a segmentation has two classes, the background first and the structure, got {list(self.classes)}"
                )
            if self.splits.scheme == "class_balanced":
                raise ValueError("splits.scheme class_balanced goes by label, which a segmentation does not have")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be [low, high] with low below high, got {list(self.window)}")
        return self

    @field_validator("image")
    @classmethod
    def _pattern(cls, value: str) -> str:
        if not pattern_columns(value):
            raise ValueError("expected a file name with at least one {column}, e.g. '{image_id}.png'")
        return value


class MedMnistSpec(CommonSpec):
    """An npz file in the MedMNIST layout; ``classes`` are in the order of its label numbers."""

    format: Literal["medmnist"]
    file: AbsolutePath
    parts: tuple[Literal["train", "val", "test"], ...] = ("train",)
    official_splits: bool = False
    normalise: Normalise = "half"

    @model_validator(mode="after")
    def _parts(self) -> MedMnistSpec:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"parts must name train, val or test, each once, got {list(self.parts)}")
        if self.patient is not None:
            raise ValueError("a MedMNIST file has no patient column: leave patient out")
        if self.select is not None and self.select.column is not None:
            raise ValueError("a MedMNIST file has no columns: select by file")
        return self


class SignalsSpec(CommonSpec):
    """WFDB records listed in a CSV column (paths without suffix below ``folder``), all of one length and lead order."""

    format: Literal["signals"]
    file: AbsolutePath
    folder: AbsolutePath
    record: str
    label: LabelSpec
    case: str | None = None
    leads: Columns = Field(min_length=1)
    samples: PositiveInt
    frequency: PositiveFloat


class TimeseriesSpec(CommonSpec):
    """Parquet tables: ``values`` (id, time, features; one row per step), ``outcomes`` (id, label).

    ``cases`` is an optional CSV joined on the id; it holds the columns for patient and select. Where the outcome
    table has several rows per case, ``any_row`` names the class a case gets when any of its rows has it.
    """

    format: Literal["timeseries"]
    values: AbsolutePath
    outcomes: AbsolutePath
    cases: AbsolutePath | None = None
    id: str
    time: str
    features: Columns = Field(min_length=1)
    steps: PositiveInt
    label: LabelSpec
    any_row: str | None = None

    @model_validator(mode="after")
    def _any_row(self) -> TimeseriesSpec:
        if self.any_row is not None and (self.any_row not in self.classes or len(self.classes) != 2):
            raise ValueError(f"any_row needs two classes and one of them, got {self.any_row!r} and {self.classes}")
        return self


DatasetSpec = Annotated[
    TabularSpec | ImagesSpec | MedMnistSpec | SignalsSpec | TimeseriesSpec, Field(discriminator="format")
]


def pattern_columns(pattern: str) -> list[str]:
    """The columns a file name pattern such as ``"{image_id}.png"`` uses. Raises ValueError if it is not that simple."""
    fields = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(pattern) if name is not None]
    # Attribute access and indexing in a format string reach into Python objects: plain names only.
    if any(not name.isidentifier() or spec or conversion for name, spec, conversion in fields):
        raise ValueError(f"a file name pattern holds plain {{column}} fields only, got {pattern!r}")
    return [name for name, _, _ in fields]
