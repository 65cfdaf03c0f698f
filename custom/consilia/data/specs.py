"""What site.yaml says about one dataset: one model per file format; questions have a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from consilia.core.schema import Strict
from consilia.data.base_spec import (
    BY_LABEL,
    Columns,
    CommonSpec,
    LabelSpec,
    Normalise,
    PoolName,
    SelectSpec,
    SplitSpec,
    pattern_columns,
)
from consilia.data.question_spec import QuestionsSpec
from consilia.data.yaml_file import AbsolutePath, Text

__all__ = [
    "Columns",
    "CommonSpec",
    "DatasetSpec",
    "ImagesSpec",
    "LabelSpec",
    "MaskSpec",
    "MedMnistSpec",
    "Normalise",
    "PoolName",
    "QuestionsSpec",
    "SelectSpec",
    "SignalsSpec",
    "SplitSpec",
    "TabularSpec",
    "TimeseriesSpec",
    "pattern_columns",
]


OUTCOMES = ("censored", "event")
"""How a follow-up ends: the classes of a survival, unless site.yaml has other names."""


class TabularSpec(CommonSpec):
    """A delimited text file, one case per row. ``columns`` names the columns of a file without a header line.

    ``more_files`` have the same columns; without a case column, the rows' ids then begin with the file's name.
    ``missing_rows: drop`` leaves out the cases that lack a feature. ``first_level: drop`` gives a categorical column an
    input per level but its first. ``standardise: all`` takes indicators and levels like numbers, ``none`` leaves the
    numbers as they are in the file; ``deviation`` is that of the training cases as a population (n in the denominator)
    or as a sample (n - 1).

    ``task: survival`` has in ``time`` the column of the follow-up, and in ``label`` how it ended: by default 1 is the
    event and 0 is censored; its two classes are these, the event last.
    """

    reader = "consilia.data.readers.tabular:TabularReader"
    tasks = ("classification", "survival")

    format: Literal["tabular"]
    file: AbsolutePath
    more_files: tuple[AbsolutePath, ...] = ()
    label: LabelSpec
    time: str | None = None
    separator: str = ","
    columns: Columns | None = None
    case: str | None = None
    missing: tuple[Text, ...] = ("", "?", "NA")
    missing_values: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    numeric: Columns = ()
    categorical: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    numeric_missing: Literal["impute", "error"] = "impute"
    missing_indicators: bool = False
    missing_rows: Literal["keep", "drop"] = "keep"
    first_level: Literal["keep", "drop"] = "keep"
    standardise: Literal["numeric", "all", "none"] = "numeric"
    deviation: Literal["population", "sample"] = "population"

    def files(self) -> tuple[Path, ...]:
        return (self.file, *self.more_files)

    @model_validator(mode="before")
    @classmethod
    def _event_or_censored(cls, values: Any) -> Any:
        """The classes of a survival, and the texts of its label, where they are not given."""
        if not isinstance(values, dict) or values.get("task") != "survival":
            return values
        label = values.get("label")
        own = isinstance(label, dict) and not {"mapping", "contains", "then", "otherwise"} & label.keys()
        if own and "classes" not in values:
            given = {**values, "label": {**values["label"], "mapping": dict(zip("01", OUTCOMES, strict=True))}}
            return {**given, "classes": OUTCOMES}
        return {"classes": OUTCOMES, **values}

    @model_validator(mode="after")
    def _features(self) -> TabularSpec:
        features = [*self.numeric, *self.categorical]
        if not features or len(set(features)) != len(features):
            raise ValueError(f"numeric and categorical must name at least one column, each once, got {features}")
        for key, column in (("label", self.label.column), ("time", self.time)):
            if column in features:
                raise ValueError(f"the {key} column {column!r} cannot be a feature")
        unknown = sorted(set(self.missing_values) - set(features))
        if unknown:
            raise ValueError(f"missing_values names {unknown}, which are neither numeric nor categorical")
        return self

    @model_validator(mode="after")
    def _follow_up(self) -> TabularSpec:
        if (self.task == "survival") != (self.time is not None):
            raise ValueError(
                "time, the column of the follow-up, belongs to task: survival and only to that, "
                f"got task {self.task} and time {self.time!r}"
            )
        if self.task == "survival" and len(self.classes) != 2:
            raise ValueError(f"a survival has two classes, censored and the event, got {list(self.classes)}")
        if self.time == self.label.column:
            raise ValueError(f"time and label need columns of their own, got {self.time!r} for both")
        return self


class MaskSpec(Strict):
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

    reader = "consilia.data.readers.images:ImagesReader"
    tasks = ("classification", "segmentation")

    format: Literal["images"]
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

    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def fits_preprocessing(self) -> bool:
        return self.normalise == "train"

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
            if self.splits.scheme in BY_LABEL:
                raise ValueError(
                    f"splits.scheme {self.splits.scheme} goes by label, which a segmentation does not have"
                )
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

    reader = "consilia.data.readers.medmnist:MedMnistReader"
    brings_splits = True

    format: Literal["medmnist"]
    file: AbsolutePath
    parts: tuple[Literal["train", "val", "test"], ...] = ("train",)
    normalise: Normalise = "half"

    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def fits_preprocessing(self) -> bool:
        return self.normalise == "train"

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

    reader = "consilia.data.readers.signals:SignalsReader"

    format: Literal["signals"]
    file: AbsolutePath
    folder: AbsolutePath
    record: str
    label: LabelSpec
    case: str | None = None
    leads: Columns = Field(min_length=1)
    samples: PositiveInt
    frequency: PositiveFloat

    def files(self) -> tuple[Path, ...]:
        return (self.file,)


class TimeseriesSpec(CommonSpec):
    """Parquet tables: ``values`` (id, time, features; one row per step), ``outcomes`` (id, label).

    ``cases`` is an optional CSV joined on the id; it holds the columns for patient and select. Where the outcome
    table has several rows per case, ``any_row`` names the class a case gets when any of its rows has it.
    """

    reader = "consilia.data.readers.timeseries:TimeseriesReader"

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

    def files(self) -> tuple[Path, ...]:
        return (self.values, self.outcomes, *((self.cases,) if self.cases else ()))

    @model_validator(mode="after")
    def _any_row(self) -> TimeseriesSpec:
        if self.any_row is not None and (self.any_row not in self.classes or len(self.classes) != 2):
            raise ValueError(f"any_row needs two classes and one of them, got {self.any_row!r} and {self.classes}")
        return self


DatasetSpec = Annotated[
    TabularSpec | ImagesSpec | MedMnistSpec | SignalsSpec | TimeseriesSpec | QuestionsSpec,
    Field(discriminator="format"),
]
